"""The alternate stack of a thread, stack_t: where handlers with SA_ONSTACK run, and when it may be changed.

Pure. Source: sigaltstack(2), kernel/signal.c (do_sigaltstack), include/linux/sched/signal.h.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from asynckvm.linux.errors import SyscallError

SS_ONSTACK: Final = 1
SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 1 << 31
MINSIGSTKSZ: Final = 2048
_LAYOUT: Final = struct.Struct("<QI4xQ")
BYTES: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class AlternateStack:
    """stack_t. `flags` are those that the program gave, except that SS_ONSTACK is found when asked."""

    pointer: int = 0
    flags: int = SS_DISABLE
    size: int = 0

    def contains(self, stack_pointer: int) -> bool:
        """A stack grows down: its end belongs to it, its start does not."""
        return self.pointer < stack_pointer <= self.pointer + self.size

    def is_used(self, stack_pointer: int) -> bool:
        """The thread runs on it. One that disarms itself is armed again only by leaving the handler: never in use."""
        return not self.flags & SS_AUTODISARM and self.contains(stack_pointer)

    def is_entered(self, stack_pointer: int) -> bool:
        """A handler with SA_ONSTACK is to switch to it."""
        return self.size != 0 and not self.is_used(stack_pointer)

    def shown(self, stack_pointer: int) -> AlternateStack:
        """As sigaltstack(2) tells it."""
        state = SS_DISABLE if not self.size else SS_ONSTACK if self.is_used(stack_pointer) else 0
        return AlternateStack(self.pointer, state | self.flags & SS_AUTODISARM, self.size)

    def replaced(self, new: AlternateStack, stack_pointer: int) -> AlternateStack:
        """What is in force after a program asked for `new`; SyscallError when it may not."""
        if self.is_used(stack_pointer):
            raise SyscallError(errno.EPERM)
        mode = new.flags & ~SS_AUTODISARM
        if mode not in (SS_DISABLE, SS_ONSTACK, 0):
            raise SyscallError(errno.EINVAL)
        if mode == SS_DISABLE:
            return AlternateStack(0, new.flags, 0)
        if new.size < MINSIGSTKSZ and new != self:
            raise SyscallError(errno.ENOMEM)
        return new

    def pack(self) -> bytes:
        return _LAYOUT.pack(self.pointer, self.flags, self.size)


def unpack(image: bytes) -> AlternateStack:
    return AlternateStack(*_LAYOUT.unpack(image))
