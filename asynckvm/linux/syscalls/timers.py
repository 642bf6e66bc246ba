"""System calls on timers that send signals; the timers are `asynckvm.linux.timers`.

Registers and structures only: struct itimerval, itimerspec and sigevent, and which clock a number means. Source: setitimer(2),
alarm(2), timer_create(2), clock_getcpuclockid(3).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux import clock
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.signals.info import is_valid
from asynckvm.linux.timers import (
    ITIMER_REAL,
    SIGEV_NONE,
    SIGEV_SIGNAL,
    SIGEV_THREAD,
    SIGEV_THREAD_ID,
    Clock,
    Event,
    HostClock,
)
from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from asynckvm.linux.task import Task
    from asynckvm.linux.timers import Timer

_TIMER_ABSTIME: Final = 1
_ITIMERVAL: Final = struct.Struct("<qqqq")
_SIGEVENT: Final = struct.Struct("<Qiii")
_MICROSECONDS: Final = 1_000_000
# REALTIME, MONOTONIC, BOOTTIME, TAI.
_TIMED: Final = frozenset({clock.CLOCK_REALTIME, clock.CLOCK_MONOTONIC, 7, 11})
# MONOTONIC_RAW and the coarse ones can be read but not waited for.
_UNTIMED: Final = frozenset({4, 5, 6})
# REALTIME_ALARM and BOOTTIME_ALARM would wake a suspended machine, and are the other clocks for one that does not sleep.
_ALARMS: Final = {8: 0, 9: 7}
# A clock of somebody's processor time: the complement of its number, and what kind of clock.
_CPU_THREAD, _CPU_KIND, _CPU_SCHEDULED = 4, 3, 2


# ---------------------------------------------------------------- interval timers


def getitimer(task: Task, which: int, buffer: int) -> int:
    task.space.write(buffer, _shown(task.process.timers.interval(which), 1000))
    return 0


def setitimer(task: Task, which: int, new: int, old: int) -> int:
    # Linux takes a null pointer for a timer to be disarmed.
    interval, value = _read_times(task, new, _MICROSECONDS) if new else (0, 0)
    timer = task.process.timers.interval(which)
    previous = _shown(timer, 1000)
    timer.set(_later(timer, value), interval)
    if old:
        task.space.write(old, previous)
    return 0


def alarm(task: Task, seconds: int) -> int:
    """The whole seconds that were left of the previous one, rounded, but never to none."""
    timer = task.process.timers.interval(ITIMER_REAL)
    left = timer.left
    timer.set(_later(timer, seconds * NANOSECONDS), 0)
    return max((left + NANOSECONDS // 2) // NANOSECONDS, 1) if left else 0


# ---------------------------------------------------------------- timer_create(2) and its kin


def timer_create(task: Task, kind: int, event: int, number: int) -> int:
    how = _read_event(task, event) if event else Event()
    timers = task.process.timers
    created = timers.create(_clock(task, kind), how)
    try:
        task.space.write(number, struct.pack("<i", created))
    except BaseException:
        timers.delete(created)
        raise
    return 0


def timer_settime(task: Task, number: int, flags: int, new: int, old: int) -> int:
    if not new:
        raise SyscallError(errno.EINVAL)
    interval, value = _read_times(task, new, NANOSECONDS)
    posix = task.process.timers[number]
    previous = _shown(posix.timer, 1)
    posix.settle()
    posix.overrun = 0
    posix.timer.set(value if flags & _TIMER_ABSTIME and value else _later(posix.timer, value), interval)
    if old:
        task.space.write(old, previous)
    return 0


def timer_gettime(task: Task, number: int, buffer: int) -> int:
    task.space.write(buffer, _shown(task.process.timers[number].timer, 1))
    return 0


def timer_getoverrun(task: Task, number: int) -> int:
    return task.process.timers[number].overrun


def timer_delete(task: Task, number: int) -> int:
    task.process.timers.delete(number)
    return 0


# ---------------------------------------------------------------- structures


def _later(timer: Timer, value: int) -> int | None:
    return timer.clock.now() + value if value else None


def _read_times(task: Task, address: int, fraction: int) -> tuple[int, int]:
    """(interval, value) in nanoseconds of an itimerval or itimerspec, whose seconds have so many fractions."""
    fields = _ITIMERVAL.unpack(task.space.read(address, _ITIMERVAL.size))
    if any(seconds < 0 for seconds in fields[::2]) or any(not 0 <= part < fraction for part in fields[1::2]):
        raise SyscallError(errno.EINVAL)
    unit = NANOSECONDS // fraction
    interval, value = (min(fields[i] * NANOSECONDS + fields[i + 1] * unit, INT64_MAX) for i in (0, 2))
    return interval, value


def _shown(timer: Timer, unit: int) -> bytes:
    """As an itimerval or itimerspec, whose fractions are so many nanoseconds."""
    left = timer.left
    fields = []
    # What is left of an armed timer never looks like a disarmed one.
    for time_ in (timer.interval, max(left, unit) if left else 0):
        seconds, nanoseconds = divmod(time_, NANOSECONDS)
        fields += [seconds, nanoseconds // unit]
    return _ITIMERVAL.pack(*fields)


def _read_event(task: Task, address: int) -> Event:
    value, number, notify, tid = _SIGEVENT.unpack(task.space.read(address, _SIGEVENT.size))
    if notify not in (SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_SIGNAL | SIGEV_THREAD_ID):
        raise SyscallError(errno.EINVAL)
    if notify == SIGEV_THREAD_ID and tid not in task.process.tasks:
        raise SyscallError(errno.EINVAL)
    if notify != SIGEV_NONE and not is_valid(number):
        raise SyscallError(errno.EINVAL)
    return Event(notify, number, value, tid)


def _clock(task: Task, number: int) -> Clock:
    if number in _TIMED:
        return HostClock(lambda: clock.now(number, task))
    if number in _UNTIMED:
        raise SyscallError(errno.EOPNOTSUPP)
    if number in _ALARMS:
        if not task.process.credentials.is_root:
            raise SyscallError(errno.EPERM)
        return _clock(task, _ALARMS[number])
    return _processor_clock(task, number)


def _processor_clock(task: Task, number: int) -> Clock:
    timers = task.process.timers
    if number == clock.CLOCK_PROCESS:
        return timers.processor_clock()
    if number == clock.CLOCK_THREAD:
        return timers.thread_clock(task)
    if number >= 0 or number & _CPU_KIND > _CPU_SCHEDULED:
        raise SyscallError(errno.EINVAL)
    owner = ~(number >> 3)
    if not number & _CPU_THREAD:
        if owner not in (0, task.process.pid):
            raise SyscallError(errno.EINVAL)
        return timers.processor_clock()
    thread = task.process.tasks.get(owner or task.tid)
    if thread is None:
        raise SyscallError(errno.EINVAL)
    return timers.thread_clock(thread)
