"""A guest process and its thread as state: everything a system call may look at or change.

What a call does with it lives in `syscalls`, the loop that drives a thread in `dispatch`, making and ending a process in
`guest`. No system call number and no event loop here.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

from asynckvm.linux.files import DESCRIPTORS_MAX
from asynckvm.linux.layout import STACK_BYTES
from asynckvm.linux.signals import Signals
from asynckvm.linux.status import ExitStatus

if TYPE_CHECKING:
    from asynckvm.linux.files import DescriptorTable
    from asynckvm.linux.identity import Identity
    from asynckvm.linux.memory import Memory
    from asynckvm.linux.vfs import Node, View
    from asynckvm.platform import AddressSpace, Machine

INFINITY: Final = (1 << 64) - 1
_RLIMIT_STACK, _RLIMIT_CORE, _RLIMIT_NOFILE = 3, 4, 7
LIMITS: Final = 16
_NAME_BYTES: Final = 15


def _limits(descriptors: int) -> dict[int, tuple[int, int]]:
    limits = dict.fromkeys(range(LIMITS), (INFINITY, INFINITY))
    limits[_RLIMIT_STACK] = (STACK_BYTES, INFINITY)
    limits[_RLIMIT_CORE] = (0, INFINITY)
    limits[_RLIMIT_NOFILE] = (descriptors, descriptors)
    return limits


class Process:
    """What the threads of a process share. `ended` is set once, by whatever ends it first."""

    def __init__(
        self,
        machine: Machine,
        memory: Memory,
        files: DescriptorTable,
        view: View,
        directory: Node,
        identity: Identity,
        name: bytes,
    ) -> None:
        self.machine = machine
        self.memory = memory
        self.files = files
        self.view = view
        self.directory = directory
        self.identity = identity
        self.name = name[:_NAME_BYTES]
        self.umask = 0o022
        self.signals = Signals()
        # Signal number to why it was sent, for those that came from outside.
        self.signal_reasons: dict[int, str] = {}
        self.limits = _limits(files.limit)
        self.ended: ExitStatus | None = None
        # System calls made, by number.
        self.calls: collections.Counter[int] = collections.Counter()

    @property
    def space(self) -> AddressSpace:
        return self.memory.space

    def release(self) -> None:
        """Close every file and let go of every directory. No system call may follow."""
        self.files.close_range(0, DESCRIPTORS_MAX)
        del self.view, self.directory

    def end(self, status: ExitStatus) -> None:
        if self.ended is None:
            self.ended = status
