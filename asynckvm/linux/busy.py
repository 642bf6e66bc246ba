"""Who has a file open and who executes it: for ETXTBSY, which keeps writing and executing apart, and for leases.

No count is kept of either: who asks looks at what the processes have, and few of their files are regular and open for writing.
Source: execve(2), open(2), truncate(2).
"""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.kernel import Kernel


def check_not_executed(kernel: Kernel, attributes: Attributes) -> None:
    """Before a file is opened for writing, or truncated."""
    identity = attributes.identity
    if any(process.program.identity == identity and not process.exited for process in kernel.processes.values()):
        raise SyscallError(errno.ETXTBSY)


def check_not_written(kernel: Kernel, attributes: Attributes) -> None:
    """Before a file is executed."""
    # Once for each file: forks share them, and together have many more descriptors.
    files = {file for process in kernel.processes.values() for file in process.files.files()}
    if any(_is_open(file, attributes.identity, writable=True) for file in files):
        raise SyscallError(errno.ETXTBSY)


def opened(kernel: Kernel, identity: tuple[int, int], *, writable: bool = False) -> Iterator[OpenFile]:
    """The open files of a regular file, as often as they have descriptors; those only that are `writable`."""
    tables = {process.files for process in kernel.processes.values()}
    for file in itertools.chain.from_iterable(table.files() for table in tables):
        if _is_open(file, identity, writable=writable):
            yield file


def _is_open(file: OpenFile, identity: tuple[int, int], *, writable: bool) -> bool:
    return file.positioned and (file.writable or not writable) and file.attributes().identity == identity
