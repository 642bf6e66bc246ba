"""System calls on clocks and on sleeping. Source: clock_gettime(2), clock_nanosleep(2), gettimeofday(2)."""

from __future__ import annotations

import errno
import struct
import time as host_time
from typing import TYPE_CHECKING, Final

from asynckvm.linux import clock
from asynckvm.linux.errors import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTSYS, SyscallError
from asynckvm.linux.usercopy import NANOSECONDS, read_timespec, write_timespec, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_MICROSECOND: Final = 1000
# struct timex and what goes with it, <linux/timex.h>.
_TIMEX: Final = struct.Struct("<I4xqqqqi4xqqqqqqqqi4xqqqqqi44x")
_ADJ_OFFSET, _ADJ_ADJTIME, _ADJ_OFFSET_SS_READ = 0x0001, 0x8000, 0xA001
_STA_UNSYNC: Final = 0x40
_TIME_ERROR: Final = 5  # the clock is not synchronized


def _now(task: Task, number: int) -> int:
    return clock.now(number, task)


def clock_gettime(task: Task, number: int, buffer: int) -> int:
    write_timespec(task.space, buffer, _now(task, number))
    return 0


def clock_getres(task: Task, number: int, buffer: int) -> int:
    resolution = clock.resolution(number)
    if buffer:
        write_timespec(task.space, buffer, resolution)
    return 0


def clock_settime(task: Task, number: int, buffer: int) -> int:
    """Nobody sets the host's clocks from here."""
    clock.resolution(number)
    read_timespec(task.space, buffer)
    raise SyscallError(errno.EPERM)


def gettimeofday(task: Task, buffer: int, zone: int) -> int:
    if buffer:
        seconds, nanoseconds = divmod(_now(task, clock.CLOCK_REALTIME), NANOSECONDS)
        write_uint64(task.space, buffer, seconds)
        write_uint64(task.space, buffer + 8, nanoseconds // _MICROSECOND)
    if zone:
        task.space.write(zone, bytes(8))
    return 0


def time(task: Task, buffer: int) -> int:
    seconds = _now(task, clock.CLOCK_REALTIME) // NANOSECONDS
    if buffer:
        write_uint64(task.space, buffer, seconds)
    return seconds


def adjtimex(task: Task, address: int) -> int:
    return clock_adjtime(task, clock.CLOCK_REALTIME, address)


def clock_adjtime(task: Task, number: int, address: int) -> int:
    """What the clock is corrected by may be asked, and is nothing: nobody disciplines it from here."""
    (modes,) = struct.unpack_from("<I", task.space.read(address, _TIMEX.size))
    if number != clock.CLOCK_REALTIME:
        clock.resolution(number)
        raise SyscallError(errno.EOPNOTSUPP)
    if modes & _ADJ_ADJTIME and not modes & _ADJ_OFFSET:
        raise SyscallError(errno.EINVAL)
    if modes not in (0, _ADJ_OFFSET_SS_READ):
        raise SyscallError(errno.EPERM)
    seconds, nanoseconds = divmod(_now(task, number), NANOSECONDS)
    error, constant, precision, tolerance, tick = 16_000_000, 2, 1, 500 << 16, 10_000
    times = seconds, nanoseconds // _MICROSECOND, tick
    answer = (modes, 0, 0, error, error, _STA_UNSYNC, constant, precision, tolerance, *times, *[0] * 9)
    task.space.write(address, _TIMEX.pack(*answer))
    return _TIME_ERROR


async def nanosleep(task: Task, request: int, remaining: int) -> int:
    return await clock_nanosleep(task, clock.CLOCK_MONOTONIC, 0, request, remaining)


async def clock_nanosleep(task: Task, number: int, flags: int, request: int, remaining: int) -> int:
    """An absolute sleep is simply begun again after a signal without a handler; a relative one goes on for what is left."""
    absolute = bool(flags & clock.TIMER_ABSTIME)
    until = clock.deadline(number, read_timespec(task.space, request), absolute=absolute)
    if absolute:
        try:
            await task.wait(until=until)
        except SyscallError as error:
            raise error.instead_of_restart(ERESTARTNOHAND) from None
        return 0
    return await _sleep(task, until, remaining)


async def _sleep(task: Task, until: int, remaining: int) -> int:
    try:
        await task.wait(until=until)
    except SyscallError as error:
        if error.number != ERESTARTSYS:
            raise
        left = until - host_time.monotonic_ns()
        if left <= 0:
            return 0
        if remaining:
            write_timespec(task.space, remaining, left)
        task.restart = lambda: _sleep(task, until, remaining)
        raise SyscallError(ERESTART_RESTARTBLOCK) from None
    return 0
