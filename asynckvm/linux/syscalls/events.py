"""System calls that make files of events: counters, timers, signals, the end of a process."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.files.timerfd import CLOCKS, TimerFile
from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_ITIMERSPEC: Final = struct.Struct("<qqqq")
_EFD_SEMAPHORE: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_TIMER_CANCEL_ON_SET: Final = 2
_FILE_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK


# ---------------------------------------------------------------- counters


def eventfd(task: Task, initial: int) -> int:
    return eventfd2(task, initial, 0)


def eventfd2(task: Task, initial: int, flags: int) -> int:
    if flags & ~(_FILE_FLAGS | _EFD_SEMAPHORE):
        raise SyscallError(errno.EINVAL)
    file = EventFile(initial, flags & os.O_NONBLOCK, semaphore=bool(flags & _EFD_SEMAPHORE))
    return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


# ---------------------------------------------------------------- timers


def timerfd_create(task: Task, clock: int, flags: int) -> int:
    if flags & ~_FILE_FLAGS or clock not in CLOCKS:
        raise SyscallError(errno.EINVAL)
    return task.process.files.add(TimerFile(clock, flags & os.O_NONBLOCK), close_on_exec=bool(flags & os.O_CLOEXEC))


def timerfd_settime(task: Task, fd: int, flags: int, new: int, old: int) -> int:
    times = _ITIMERSPEC.unpack(task.space.read(new, _ITIMERSPEC.size))
    if flags & ~(_TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET):
        raise SyscallError(errno.EINVAL)
    interval, value = _nanoseconds(*times[:2]), _nanoseconds(*times[2:])
    timer = _timer(task, fd)
    before = timer.setting()
    timer.arm(value, interval, absolute=bool(flags & _TFD_TIMER_ABSTIME))
    if old:
        _write_setting(task, old, before)
    return 0


def timerfd_gettime(task: Task, fd: int, address: int) -> int:
    _write_setting(task, address, _timer(task, fd).setting())
    return 0


def _timer(task: Task, fd: int) -> TimerFile:
    file = task.process.files.get(fd)
    if not isinstance(file, TimerFile):
        raise SyscallError(errno.EINVAL)
    return file


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS:
        raise SyscallError(errno.EINVAL)
    return seconds * NANOSECONDS + nanoseconds


def _write_setting(task: Task, address: int, setting: tuple[int, int]) -> None:
    value, interval = setting
    task.space.write(address, _ITIMERSPEC.pack(*divmod(interval, NANOSECONDS), *divmod(value, NANOSECONDS)))
