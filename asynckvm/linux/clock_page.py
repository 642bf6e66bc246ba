"""The page from which guests read the time by themselves: its contents, and how they are kept true to the host's clocks.

`Steering` decides, from samples alone: how fast the counter runs, and how a clock that was told to guests is led back to the
host's without ever running backwards. `ClockPage` samples, writes and repeats. The layout is that of native/vdso/clock_page.h;
who maps the page is `vdso`. Source: vdso(7); adjtime(3) for what slewing means.
"""

from __future__ import annotations

import collections
import mmap
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.linux.usercopy import NANOSECONDS
from asynckvm.model.memory import PAGE
from asynckvm.platform.host_clock import HostClock

if TYPE_CHECKING:
    import asyncio

    from asynckvm.platform.host_clock import ClockSample

_FRACTION: Final = 32
# Words of the page.
_SEQUENCE, _TSC, _HORIZON, _RESOLUTION = 0, 1, 2, 8
# The first samples come soon, so that short programs find a clock too; then about two a second.
_INTERVAL_FIRST_NS: Final = 10_000_000
_INTERVAL_NS: Final = 500_000_000
# Guests trust the page for so many intervals; then they ask, which is what keeps a stuck event loop from telling old times.
_HORIZON_INTERVALS: Final = 8
# The counter's speed is taken over this many samples.
_SAMPLES: Final = 16
# A clock that is ahead is slowed by at most this many parts in a million.
_SLEW_MAX: Final = 500
# Beyond this, counter and clock do not belong together: the counter stopped, jumped or is another one.
_WILD_NS: Final = 1_000_000
_RESTARTS_MAX: Final = 3
# A sample that was read in a wider window says too little.
_WIDTH_NS_MAX: Final = 2_000
# The distance between two clocks is constant until somebody sets one of them; smaller changes are the sampling's.
_OFFSET_NOISE_NS: Final = 1_000
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What the page says: the fields of struct clock_page between its sequence and its resolution, in their order."""

    tsc: int
    horizon: int
    multiplier: int
    monotonic: int
    realtime: int
    boottime: int
    tai: int

    def at(self, tsc: int) -> int:
        """The monotonic clock, as guests compute it."""
        return self.monotonic + ((tsc - self.tsc) * self.multiplier >> _FRACTION)

    def words(self) -> tuple[int, ...]:
        offsets = (self.realtime & _MASK, self.boottime & _MASK, self.tai & _MASK)
        return (self.tsc, self.horizon, self.multiplier, self.monotonic, *offsets)


_NOTHING: Final = Reading(0, 0, 0, 0, 0, 0, 0)


class Steering:
    """From samples to readings. `interval` is how many nanoseconds from now the next sample is wanted.

    Guests read what was told last until the moment of the next sample, so that is where the next reading starts: at what they
    were told, or ahead of it where that was behind. A reading that is ahead of the host is slower than the host.
    """

    def __init__(self) -> None:
        self.interval = _INTERVAL_FIRST_NS
        self.restarts = 0
        self._samples: collections.deque[ClockSample] = collections.deque(maxlen=_SAMPLES)
        self._last: Reading | None = None

    def take(self, sample: ClockSample) -> Reading | None:
        """What to tell from this sample's moment on; None for nothing."""
        if not self._samples:
            self._samples.append(sample)
            return None
        first = self._samples[0]
        ticks, passed = sample.tsc - first.tsc, sample.monotonic - first.monotonic
        if ticks <= 0 or passed <= 0:
            self._restart(sample)
            return None
        speed = (passed << _FRACTION) // ticks
        if sample.width * speed >> _FRACTION > _WIDTH_NS_MAX:
            return self._last
        told = self._last.at(sample.tsc) if self._last is not None else sample.monotonic
        if abs(told - sample.monotonic) > _WILD_NS:
            self._restart(sample)
            return None
        self._samples.append(sample)
        self.interval = min(2 * self.interval, _INTERVAL_NS)
        realtime = self._offset("realtime", sample.realtime - sample.monotonic)
        leap_seconds = round((sample.tai - sample.realtime) / NANOSECONDS)
        ahead = max(told - sample.monotonic, 0)
        slew = min(ahead * 1_000_000 // self.interval, _SLEW_MAX)
        multiplier = speed - speed * slew // 1_000_000
        self._last = Reading(
            tsc=sample.tsc,
            horizon=(_HORIZON_INTERVALS * self.interval << _FRACTION) // multiplier,
            multiplier=multiplier,
            monotonic=max(told, sample.monotonic),
            realtime=realtime,
            boottime=self._offset("boottime", sample.boottime - sample.monotonic),
            tai=realtime + leap_seconds * NANOSECONDS,
        )
        return self._last

    def _restart(self, sample: ClockSample) -> None:
        self.restarts += 1
        self.interval = _INTERVAL_FIRST_NS
        self._samples.clear()
        self._samples.append(sample)
        self._last = None

    def _offset(self, clock: str, measured: int) -> int:
        known: int = getattr(self._last, clock) if self._last is not None else 0
        return known if abs(known - measured) < _OFFSET_NOISE_NS else measured


class Sampler(Protocol):
    def sample(self) -> ClockSample: ...


class ClockPage:
    """One page of shared memory, for every guest of this process. `start()` it, `close()` it. Thread: loop.

    `counter_exact`: whether guests see the host's counter (Capabilities.tsc_offset_exact); without that the page says nothing,
    and guests make their system calls.
    """

    def __init__(self, *, counter_exact: bool, sampler: Sampler | None = None) -> None:
        self._sampler = sampler or HostClock()
        self._steering: Steering | None = Steering() if counter_exact else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.fd = os.memfd_create("clock", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, PAGE)
            self._mapping = mmap.mmap(self.fd, PAGE)
        except BaseException:
            os.close(self.fd)
            raise
        # Eight bytes are stored at once, so guests see no half of a word.
        self._words = memoryview(self._mapping).cast("Q")
        self._words[_RESOLUTION] = round(time.clock_getres(time.CLOCK_MONOTONIC) * NANOSECONDS)

    @property
    def valid(self) -> bool:
        """Whether guests find the time here, as far as it was not told too long ago."""
        return self.fd >= 0 and self._words[_HORIZON] != 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if self._steering is not None and self._timer is None:
            self._turn()

    def update(self) -> None:
        """Sample and tell. What guests read before has a lower counter, what they read afterwards a higher one."""
        if self._steering is None:
            return
        # Odd first: whoever reads the old times with a counter above the sample's notices.
        self._words[_SEQUENCE] += 1
        self._write(self._steering.take(self._sampler.sample()) or _NOTHING)
        if self._steering.restarts > _RESTARTS_MAX:
            self._write(_NOTHING)
            self._steering = None
        self._words[_SEQUENCE] += 1

    def _write(self, reading: Reading) -> None:
        for position, value in enumerate(reading.words(), _TSC):
            self._words[position] = value

    def _turn(self) -> None:
        self._timer = None
        self.update()
        if self._steering is not None and self._loop is not None:
            self._timer = self._loop.call_later(self._steering.interval / NANOSECONDS, self._turn)

    def close(self) -> None:
        """Guests that still have the page make system calls from now on. Idempotent."""
        if self.fd < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._steering = None
        self._words[_SEQUENCE] += 1
        self._write(_NOTHING)
        self._words[_SEQUENCE] += 1
        self._words.release()
        self._mapping.close()
        os.close(self.fd)
        self.fd = -1
