"""What becomes of a system call that a signal interrupted: it fails with EINTR, or its instruction runs again.

A call that was interrupted answers with one of the ERESTART numbers, which no program ever sees: `deliver` turns them into one or
the other here, knowing whether a handler is to run. Source: signal(7), arch/x86/kernel/signal.c (handle_signal,
arch_do_signal_or_restart), restart_syscall(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import ERESTART_RESTARTBLOCK, ERESTARTNOINTR, ERESTARTSYS, RESTARTS
from asynckvm.linux.signals.numbers import SA_RESTART
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from asynckvm.linux.signals.action import Action
    from asynckvm.linux.task import Task

    # What restart_syscall(2) does instead of a call that may not simply run again.
    Restart: TypeAlias = Callable[[], int | Awaitable[int]]

RESTART_SYSCALL: Final = 219
# Length of SYSCALL: the instruction pointer is behind it.
_INSTRUCTION_BYTES: Final = 2
_WORD: Final = 1 << 64


def interrupted_by(task: Task) -> int:
    """The ERESTART number that the current system call answered; 0 when it was not interrupted."""
    if task.syscall is None:
        return 0
    number = _WORD - task.context.words[RegisterIndex.rax]
    return number if number in RESTARTS else 0


def with_handler(task: Task, action: Action) -> None:
    """Before a frame is built: the handler returns to this."""
    number = interrupted_by(task)
    if not number:
        return
    if number == ERESTARTNOINTR or (number == ERESTARTSYS and action.flags & SA_RESTART):
        _again(task, task.syscall)
    else:
        task.context.words[RegisterIndex.rax] = _WORD - errno.EINTR


def without_handler(task: Task) -> None:
    """Nothing happened that the program could see, so that its call goes on."""
    number = interrupted_by(task)
    if number:
        _again(task, RESTART_SYSCALL if number == ERESTART_RESTARTBLOCK else task.syscall)


def _again(task: Task, number: int | None) -> None:
    words = task.context.words
    words[RegisterIndex.rax] = number or 0
    words[RegisterIndex.rip] = (words[RegisterIndex.rip] - _INSTRUCTION_BYTES) % _WORD
