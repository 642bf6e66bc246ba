"""Which processes' regular files are read on the threads of their vCPUs, without a word to this kernel.

All of them, as long as nobody has to be told of each read: a trace, or somebody who watches accesses with inotify(7).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from asynckvm.platform.direct_files import DirectCall

if TYPE_CHECKING:
    from asynckvm.linux.files.inotify import Watches
    from asynckvm.linux.files.table import DescriptorTable
    from asynckvm.platform import DirectFiles, Machine

# read(2), pread64(2), lseek(2).
NUMBERS: Final = {DirectCall.READ: 0, DirectCall.PREAD: 17, DirectCall.SEEK: 8}


class DirectReads:
    """For one sandbox. Thread: loop."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stopped = False
        self._tables: weakref.WeakSet[DescriptorTable] = weakref.WeakSet()

    def of(self, table: DescriptorTable, watches: Watches) -> DirectFiles | None:
        """For a context that is about to run with these descriptors.

        None for those that processes share (CLONE_FILES): one of them may go its own way while its threads run.
        """
        watches.before_accesses = self.stop
        if self._stopped or watches.has_accesses or table.users > 1:
            return None
        if table.direct is None:
            table.begin_direct(self._machine.create_direct_files(NUMBERS))
            self._tables.add(table)
        return table.direct

    def stop(self) -> None:
        """From now on each read is seen."""
        self._stopped = True
        for table in self._tables:
            table.end_direct()
