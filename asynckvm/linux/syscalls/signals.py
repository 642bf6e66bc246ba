"""System calls on signals: the state is `asynckvm.linux.signals`; sending reaches nobody but the process itself."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals import SIG_SETMASK, SIGNALS, Action, AlternateStack
from asynckvm.linux.syscalls.time import pause
from asynckvm.linux.usercopy import read_uint64, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_ACTION: Final = struct.Struct("<QQQQ")
_STACK: Final = struct.Struct("<QI4xQ")
_MASK_BYTES: Final = 8


def rt_sigaction(task: Task, number: int, new: int, old: int, size: int) -> int:
    signals = task.process.signals
    if size != _MASK_BYTES or not 1 <= number <= SIGNALS:
        raise SyscallError(errno.EINVAL)
    previous = signals.action(number)
    if new:
        signals.set_action(number, Action(*_ACTION.unpack(task.space.read(new, _ACTION.size))))
    if old:
        task.space.write(old, _ACTION.pack(previous.handler, previous.flags, previous.restorer, previous.mask))
    return 0


def rt_sigprocmask(task: Task, how: int, new: int, old: int, size: int) -> int:
    signals = task.process.signals
    if size != _MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    previous = signals.blocked
    if new:
        signals.change_mask(how, read_uint64(task.space, new))
    if old:
        write_uint64(task.space, old, previous)
    return 0


def rt_sigpending(task: Task, buffer: int, size: int) -> int:
    if size > _MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    pending = task.process.signals.pending & task.process.signals.blocked
    task.space.write(buffer, pending.to_bytes(_MASK_BYTES, "little")[:size])
    return 0


async def rt_sigsuspend(task: Task, mask: int, size: int) -> int:
    """Only a signal ends it, and every signal that arrives ends the program: the old mask is never needed again."""
    if size != _MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    signals = task.process.signals
    signals.change_mask(SIG_SETMASK, read_uint64(task.space, mask))
    if signals.pending & ~signals.blocked:
        raise SyscallError(errno.EINTR)
    return await pause(task)


def sigaltstack(task: Task, new: int, old: int) -> int:
    signals = task.process.signals
    previous = signals.alternate_stack
    if new:
        pointer, flags, size = _STACK.unpack(task.space.read(new, _STACK.size))
        signals.set_alternate_stack(AlternateStack(pointer, flags, size))
    if old:
        task.space.write(old, _STACK.pack(previous.pointer, previous.flags, previous.size))
    return 0


def kill(task: Task, pid: int, number: int) -> int:
    """A process group is the process alone; -1 is everybody else, of whom there is nobody."""
    own = task.process.identity.pid
    return _send(task, number, reached=pid in (own, 0, -own))


def tkill(task: Task, tid: int, number: int) -> int:
    return tgkill(task, task.process.identity.pid, tid, number)


def tgkill(task: Task, pid: int, tid: int, number: int) -> int:
    if pid <= 0 or tid <= 0:
        raise SyscallError(errno.EINVAL)
    return _send(task, number, reached=pid == task.process.identity.pid and tid == task.tid)


def _send(task: Task, number: int, *, reached: bool) -> int:
    if not 0 <= number <= SIGNALS:
        raise SyscallError(errno.EINVAL)
    if not reached:
        raise SyscallError(errno.ESRCH)
    if number:
        task.process.signals.send(number)
    return 0
