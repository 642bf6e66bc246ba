"""System calls on time: clocks, sleeping, resource usage."""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux import clock
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.stack import CLOCK_TICKS
from asynckvm.linux.syscalls import structs
from asynckvm.linux.usercopy import NANOSECONDS, read_timespec, read_uint32, write_timespec, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 0, 1, 9, 10
_FUTEX_COMMAND: Final = 0x7F
_FUTEX_CLOCK_REALTIME: Final = 0x100
_RUSAGE_SELF, _RUSAGE_CHILDREN, _RUSAGE_THREAD = 0, -1, 1


def clock_gettime(task: Task, number: int, buffer: int) -> int:
    write_timespec(task.space, buffer, clock.now(number, _processor_time(task)))
    return 0


def clock_getres(task: Task, number: int, buffer: int) -> int:
    resolution = clock.resolution(number)
    if buffer:
        write_timespec(task.space, buffer, resolution)
    return 0


def gettimeofday(task: Task, buffer: int, zone: int) -> int:
    if buffer:
        seconds, nanoseconds = divmod(clock.now(clock.CLOCK_REALTIME, 0), NANOSECONDS)
        task.space.write(buffer, struct.pack("<qq", seconds, nanoseconds // 1000))
    if zone:
        task.space.write(zone, bytes(8))
    return 0


def time(task: Task, buffer: int) -> int:
    seconds = clock.now(clock.CLOCK_REALTIME, 0) // NANOSECONDS
    if buffer:
        write_uint64(task.space, buffer, seconds)
    return seconds


async def nanosleep(task: Task, request: int, remaining: int) -> int:
    return await clock_nanosleep(task, clock.CLOCK_MONOTONIC, 0, request, remaining)


async def clock_nanosleep(task: Task, number: int, flags: int, request: int, remaining: int) -> int:  # noqa: ARG001
    # `remaining` is written when a signal handler ran, and none runs here.
    await task.wait(until=clock.deadline(number, read_timespec(task.space, request), absolute=bool(flags & clock.TIMER_ABSTIME)))
    return 0


async def sched_yield(task: Task) -> int:  # noqa: ARG001
    await asyncio.sleep(0)
    return 0


async def pause(task: Task) -> int:
    await task.wait()
    raise SyscallError(errno.EINTR)


async def futex(task: Task, address: int, operation: int, value: int, limit: int) -> int:
    """With one thread nobody else can wake a waiter: a wait ends at its limit, or with the program."""
    command = operation & _FUTEX_COMMAND
    if command in (_FUTEX_WAKE, _FUTEX_WAKE_BITSET):
        read_uint32(task.space, address)
        return 0
    if command not in (_FUTEX_WAIT, _FUTEX_WAIT_BITSET):
        raise SyscallError(errno.ENOSYS)
    if read_uint32(task.space, address) != value:
        raise SyscallError(errno.EAGAIN)
    if not limit:
        return await pause(task)
    number = clock.CLOCK_REALTIME if operation & _FUTEX_CLOCK_REALTIME else clock.CLOCK_MONOTONIC
    await task.wait(until=clock.deadline(number, read_timespec(task.space, limit), absolute=command == _FUTEX_WAIT_BITSET))
    raise SyscallError(errno.ETIMEDOUT)


def getrusage(task: Task, who: int, buffer: int) -> int:
    if who not in (_RUSAGE_SELF, _RUSAGE_CHILDREN, _RUSAGE_THREAD):
        raise SyscallError(errno.EINVAL)
    used = (0, 0) if who == _RUSAGE_CHILDREN else (_processor_time(task), task.space.resident * 4)
    task.space.write(buffer, structs.rusage(*used))
    return 0


def times(task: Task, buffer: int) -> int:
    tick = NANOSECONDS // CLOCK_TICKS
    if buffer:
        task.space.write(buffer, structs.words((_processor_time(task) // tick, 0, 0, 0)))
    return clock.now(clock.CLOCK_MONOTONIC, 0) // tick


def _processor_time(task: Task) -> int:
    return task.context.counters.ran_ns
