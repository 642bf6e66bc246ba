"""What a process does with each signal: struct kernel_sigaction, and the table of 64 that the threads of a process share.

Pure. Who discards what became ignored is the caller's business. Source: rt_sigaction(2), kernel/signal.c (do_sigaction).
"""

from __future__ import annotations

import errno
import signal
import struct
from typing import Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals.numbers import (
    MASK_ALL,
    SA_KNOWN,
    SIG_DFL,
    SIG_IGN,
    SIGNALS,
    UNBLOCKABLE,
    Default,
    default_of,
)

_LAYOUT: Final = struct.Struct("<QQQQ")
BYTES: Final = _LAYOUT.size


class Action(NamedTuple):
    """struct kernel_sigaction: handler, flags, restorer, mask."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0

    @property
    def is_handler(self) -> bool:
        """The program has a function for it."""
        return self.handler not in (SIG_DFL, SIG_IGN)

    def pack(self) -> bytes:
        return _LAYOUT.pack(*self)


_DEFAULT: Final = Action()


def unpack(image: bytes) -> Action:
    return Action._make(_LAYOUT.unpack(image))


class ActionTable:
    """The actions of a process; with CLONE_SIGHAND of several."""

    def __init__(self) -> None:
        self._actions: dict[int, Action] = {}

    def __getitem__(self, number: int) -> Action:
        return self._actions.get(number, _DEFAULT)

    def set(self, number: int, action: Action) -> None:
        """As a program asks: EINVAL for what is no signal, or has an action that cannot be changed."""
        if not 1 <= number <= SIGNALS or number in (signal.SIGKILL, signal.SIGSTOP):
            raise SyscallError(errno.EINVAL)
        handler, flags, restorer, mask = action
        # Programs find out that a flag is unknown by its coming back as zero.
        self._actions[number] = Action(handler, flags & SA_KNOWN, restorer, mask & MASK_ALL & ~UNBLOCKABLE)

    def reset(self, number: int) -> None:
        """Back to the default: SA_RESETHAND, or a fault that its handler cannot take. The other fields stay, as in Linux."""
        action = self[number]
        self._actions[number] = Action(SIG_DFL, action.flags, action.restorer, action.mask)

    def is_ignored(self, number: int) -> bool:
        """Sending it changes nothing. SIGCONT continues a process even so, and that is not decided here."""
        handler = self[number].handler
        return handler == SIG_IGN or (handler == SIG_DFL and default_of(number) in (Default.IGNORE, Default.CONTINUE))

    def copy(self) -> ActionTable:
        """For a child made by fork(2)."""
        table = ActionTable()
        table._actions = dict(self._actions)
        return table

    def executed(self) -> ActionTable:
        """For the program that execve(2) starts: its handlers are gone, what was ignored stays ignored."""
        table = ActionTable()
        table._actions = {number: Action(SIG_IGN) for number, action in self._actions.items() if action.handler == SIG_IGN}
        return table
