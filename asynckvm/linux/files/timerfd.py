"""timerfd_create(2): a timer that can be read and waited for.

The clock decides how often the timer has expired, whenever somebody looks; the event loop's timer only wakes who waits. So a
short interval costs nothing while nobody reads, and no expiration is lost to a busy loop.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile, would_block
from asynckvm.linux.usercopy import NANOSECONDS
from asynckvm.linux.wait import READABLE

_BYTES: Final = 8
# A clock that can be set, or a very late expiration, is looked at again after this many seconds.
_PIECE: Final = 60.0
_CLOCK_REALTIME, _CLOCK_MONOTONIC, _CLOCK_BOOTTIME = 0, 1, 7
_CLOCK_REALTIME_ALARM, _CLOCK_BOOTTIME_ALARM = 8, 9
CLOCKS: Final = {
    _CLOCK_REALTIME: _CLOCK_REALTIME,
    _CLOCK_MONOTONIC: _CLOCK_MONOTONIC,
    _CLOCK_BOOTTIME: _CLOCK_BOOTTIME,
    _CLOCK_REALTIME_ALARM: _CLOCK_REALTIME,
    _CLOCK_BOOTTIME_ALARM: _CLOCK_BOOTTIME,
}


class TimerFile(AnonymousFile):
    """`clock` is one of CLOCKS. Times are nanoseconds."""

    kind = b"[timerfd]"

    def __init__(self, clock: int, flags: int) -> None:
        super().__init__(flags)
        self._clock = CLOCKS[clock]
        self._next = 0  # when it expires next, on the clock; 0 for a timer that is not armed
        self._interval = 0
        self._expired = 0  # how often since the last read
        self._alarm: asyncio.TimerHandle | None = None

    def arm(self, value: int, interval: int, *, absolute: bool) -> None:
        """timerfd_settime: expire after or at `value`, then each `interval`; a `value` of 0 disarms it."""
        self._expired = 0
        self._interval = interval
        self._next = 0
        if value:
            self._next = value if absolute else self._now() + value
        self._set_alarm()

    def setting(self) -> tuple[int, int]:
        """timerfd_gettime: how long until it expires next, and the interval."""
        self._look()
        return (max(1, self._next - self._now()) if self._next else 0), self._interval

    def read(self, length: int) -> bytes:
        if length < _BYTES:
            raise SyscallError(errno.EINVAL)
        self._look()
        if not self._expired:
            raise would_block()
        expired, self._expired = self._expired, 0
        self._set_alarm()
        return expired.to_bytes(_BYTES, "little")

    def write(self, data: bytes) -> int:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def poll(self) -> int:
        self._look()
        return READABLE if self._expired else 0

    def close(self) -> None:
        self._next = 0
        self._set_alarm()

    def _now(self) -> int:
        return time.clock_gettime_ns(self._clock)

    def _look(self) -> None:
        """Count what has expired by now."""
        late = self._now() - self._next
        if not self._next or late < 0:
            return
        if self._interval:
            times = 1 + late // self._interval
            self._expired += times
            self._next += times * self._interval
        else:
            self._expired += 1
            self._next = 0

    def _set_alarm(self) -> None:
        """One alarm until the next expiration; after that a read sets the next one."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._next:
            delay = max(0, self._next - self._now()) / NANOSECONDS
            self._alarm = asyncio.get_running_loop().call_later(min(delay, _PIECE), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self.poll():
            self.queue.wake(READABLE)
        else:
            self._set_alarm()
