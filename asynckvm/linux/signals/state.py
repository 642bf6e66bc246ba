"""Signals of a process, as state: actions, the blocked mask, what is pending, and what each signal does by default.

Pure. Default actions are carried out by `task`; handlers of the program are recorded (rt_sigaction tells them back) but not
run yet: a signal that would start one ends the program, and its status says so. Source: signal(7), rt_sigaction(2).
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, field
from typing import Final

from asynckvm.linux.errors import SyscallError

SIGNALS: Final = 64
SIG_DFL: Final = 0
SIG_IGN: Final = 1
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2
# Stopping is among them: a program that runs alone has nobody who could continue it.
_IGNORED: Final = frozenset(
    {
        signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT,
        signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    }
)  # fmt: skip
_UNBLOCKABLE: Final = (1 << signal.SIGKILL - 1) | (1 << signal.SIGSTOP - 1)
MASK_ALL: Final = (1 << SIGNALS) - 1

_SS_DISABLE: Final = 2
_SS_AUTODISARM: Final = 1 << 31
_MINSIGSTKSZ: Final = 2048


@dataclass(frozen=True, slots=True)
class Action:
    """struct kernel_sigaction."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


@dataclass(frozen=True, slots=True)
class AlternateStack:
    """stack_t."""

    pointer: int = 0
    flags: int = _SS_DISABLE
    size: int = 0


@dataclass(slots=True)
class Signals:
    """The signal state of a process with one thread."""

    blocked: int = 0
    pending: int = 0
    alternate_stack: AlternateStack = field(default_factory=AlternateStack)
    _actions: dict[int, Action] = field(default_factory=dict)

    def action(self, number: int) -> Action:
        return self._actions.get(number, Action())

    def set_action(self, number: int, action: Action) -> None:
        if not 1 <= number <= SIGNALS or number in (signal.SIGKILL, signal.SIGSTOP):
            raise SyscallError(errno.EINVAL)
        self._actions[number] = Action(action.handler, action.flags, action.restorer, action.mask & ~_UNBLOCKABLE)
        if self.is_ignored(number):
            self.pending &= ~_bit(number)

    def set_alternate_stack(self, stack: AlternateStack) -> None:
        if stack.flags & ~(_SS_DISABLE | _SS_AUTODISARM):
            raise SyscallError(errno.EINVAL)
        if stack.flags & _SS_DISABLE:
            self.alternate_stack = AlternateStack()
        elif stack.size < _MINSIGSTKSZ:
            raise SyscallError(errno.ENOMEM)
        else:
            self.alternate_stack = stack

    def change_mask(self, how: int, mask: int) -> None:
        if how == SIG_BLOCK:
            mask |= self.blocked
        elif how == SIG_UNBLOCK:
            mask = self.blocked & ~mask
        elif how != SIG_SETMASK:
            raise SyscallError(errno.EINVAL)
        self.blocked = mask & MASK_ALL & ~_UNBLOCKABLE

    def is_ignored(self, number: int) -> bool:
        handler = self.action(number).handler
        return handler == SIG_IGN or (handler == SIG_DFL and number in _IGNORED)

    def send(self, number: int) -> None:
        """Make it pending; a signal that is ignored is forgotten at once, unless it is blocked."""
        if self.blocked & _bit(number) or not self.is_ignored(number):
            self.pending |= _bit(number)

    def take(self) -> int:
        """The next signal to act on, which is no longer pending then; 0 for none. What ends the program for sure comes first."""
        while ready := self.pending & ~self.blocked:
            number = signal.SIGKILL if ready & _bit(signal.SIGKILL) else (ready & -ready).bit_length()
            self.pending &= ~_bit(number)
            if not self.is_ignored(number):
                return number
        return 0

    def has_handler(self, number: int) -> bool:
        return self.action(number).handler not in (SIG_DFL, SIG_IGN)


def _bit(number: int) -> int:
    return 1 << (number - 1)
