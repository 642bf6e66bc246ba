"""The clocks of a guest: those of the host, read when asked, and the processor time its own threads have used.

Only this module reads a clock for the guest. Times are nanoseconds. Source: clock_gettime(2), clock_nanosleep(2).
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_PROCESS, CLOCK_THREAD = 2, 3
_THREAD_CLOCK, _DESCRIPTOR_CLOCK = 4, 3
_CLOCK_BOOTTIME: Final = 7
# Host clocks by the same number, <linux/time.h>: also MONOTONIC_RAW, the COARSE ones, BOOTTIME, TAI.
_HOST_CLOCKS: Final = frozenset({CLOCK_REALTIME, CLOCK_MONOTONIC, 4, 5, 6, _CLOCK_BOOTTIME, 11})
_SLEEPABLE: Final = frozenset({CLOCK_REALTIME, CLOCK_MONOTONIC, _CLOCK_BOOTTIME, 11})
TIMER_ABSTIME: Final = 1


def now(clock: int, task: Task) -> int:
    """The time on `clock`, as `task` sees it."""
    if clock in _HOST_CLOCKS:
        return time.clock_gettime_ns(clock)
    if clock == CLOCK_PROCESS:
        return task.process.cpu_ns
    if clock == CLOCK_THREAD:
        return task.cpu_ns
    if clock < 0:
        return _of_others(clock, task)
    raise SyscallError(errno.EINVAL)


def _of_others(clock: int, task: Task) -> int:
    """clock_getcpuclockid(3) and pthread_getcpuclockid(3): ~number << 3, bit 2 for a thread, bits 0..1 the kind of time."""
    kernel, number = task.process.kernel, ~(clock >> 3)
    if clock & 3 == _DESCRIPTOR_CLOCK:
        raise SyscallError(errno.EINVAL)
    if clock & _THREAD_CLOCK:
        other = kernel.tasks.get(number) if number else task
        if other is None or other.process is not task.process:
            raise SyscallError(errno.EINVAL)
        return other.cpu_ns
    process = kernel.processes.get(number) if number else task.process
    if process is None:
        raise SyscallError(errno.EINVAL)
    return process.cpu_ns


def resolution(clock: int) -> int:
    if clock in _HOST_CLOCKS:
        return round(time.clock_getres(clock) * NANOSECONDS)
    if clock in (CLOCK_PROCESS, CLOCK_THREAD) or (clock < 0 and clock & 3 != _DESCRIPTOR_CLOCK):
        return 1
    raise SyscallError(errno.EINVAL)


def deadline(clock: int, duration: int, *, absolute: bool) -> int:
    """When a sleep ends on CLOCK_MONOTONIC: after `duration`, or when `clock` shows it."""
    if clock not in _SLEEPABLE:
        raise SyscallError(errno.EINVAL if clock != CLOCK_THREAD else errno.EOPNOTSUPP)
    left = duration - time.clock_gettime_ns(clock) if absolute else duration
    return time.monotonic_ns() + left
