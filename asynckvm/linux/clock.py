"""The clocks of a guest: those of the host, read when asked, and the processor time its own threads have used.

Only this module reads a clock for the guest. Times are nanoseconds. Source: clock_gettime(2), clock_nanosleep(2).
"""

from __future__ import annotations

import errno
import time
from typing import Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.usercopy import NANOSECONDS

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
_CLOCK_PROCESS, _CLOCK_THREAD = 2, 3
_CLOCK_BOOTTIME: Final = 7
# Host clocks by the same number, <linux/time.h>: also MONOTONIC_RAW, the COARSE ones, BOOTTIME, TAI.
_HOST_CLOCKS: Final = frozenset({CLOCK_REALTIME, CLOCK_MONOTONIC, 4, 5, 6, _CLOCK_BOOTTIME, 11})
_SLEEPABLE: Final = frozenset({CLOCK_REALTIME, CLOCK_MONOTONIC, _CLOCK_BOOTTIME, 11})
TIMER_ABSTIME: Final = 1


def now(clock: int, processor_time: int) -> int:
    """The time on `clock`; `processor_time` is what the asking process has used."""
    if clock in _HOST_CLOCKS:
        return time.clock_gettime_ns(clock)
    if clock in (_CLOCK_PROCESS, _CLOCK_THREAD):
        return processor_time
    raise SyscallError(errno.EINVAL)


def resolution(clock: int) -> int:
    if clock in _HOST_CLOCKS:
        return round(time.clock_getres(clock) * NANOSECONDS)
    if clock in (_CLOCK_PROCESS, _CLOCK_THREAD):
        return 1
    raise SyscallError(errno.EINVAL)


def deadline(clock: int, duration: int, *, absolute: bool) -> int:
    """When a sleep ends on CLOCK_MONOTONIC: after `duration`, or when `clock` shows it."""
    if clock not in _SLEEPABLE:
        raise SyscallError(errno.EINVAL if clock != _CLOCK_THREAD else errno.EOPNOTSUPP)
    left = duration - time.clock_gettime_ns(clock) if absolute else duration
    return time.monotonic_ns() + left
