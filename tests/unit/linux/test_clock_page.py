"""The clock page: a simulated host, whose counter and clocks are known exactly, and what guests are told of it."""

import asyncio
import errno
import mmap
import os
import random
import re
import struct
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynckvm.linux.clock_page import ClockPage, Reading, Steering
from asynckvm.platform.host_clock import ClockSample, HostClock
from support import tree

SECOND = 1_000_000_000


class Host:
    """A counter, and clocks that run beside it at a speed that may change; `noise` is what a sample is off."""

    def __init__(self, ticks_a_second: int, seed: int = 0, noise: int = 0) -> None:
        self.ticks_a_second = ticks_a_second
        self.random = random.Random(seed)
        self.noise = noise
        self.tsc = 1 << 40
        self.monotonic = 5.0 * SECOND
        self.realtime = 1_700_000_000 * SECOND
        self.speed = 1.0
        self.width = 100

    def pass_by(self, nanoseconds: float) -> None:
        self.tsc += round(nanoseconds * self.ticks_a_second / SECOND)
        self.monotonic += nanoseconds * self.speed

    def sample(self) -> ClockSample:
        now = round(self.monotonic) + self.random.randint(-self.noise, self.noise)
        return ClockSample(self.tsc, self.width, now, now + self.realtime, now + 3, now + self.realtime + 37 * SECOND + 9)


@pytest.mark.parametrize("ticks", [1_000_000_000, 2_445_000_000, 5_999_999_999])
def test_guests_are_within_a_few_microseconds(ticks: int) -> None:
    """Over a minute with noise, late updates and a host clock that is being slewed."""
    host, steering = Host(ticks, seed=ticks, noise=50), Steering()
    steering.take(host.sample())
    worst = 0.0
    for turn in range(150):
        if turn % 40 == 30:
            host.speed = 1 + host.random.uniform(-2e-6, 2e-6)
        host.pass_by(steering.interval * host.random.uniform(1, 1.5))
        reading = steering.take(host.sample())
        assert reading is not None
        for _ in range(5):
            host.pass_by(steering.interval / 10)
            worst = max(worst, abs(reading.at(host.tsc) - host.monotonic))
    assert worst < 3000
    assert steering.restarts == 0


@given(st.integers(0, 1 << 32), st.integers(500_000_000, 6_000_000_000), st.lists(st.integers(1, 3 * SECOND), max_size=40))
def test_the_clock_never_runs_backwards(seed: int, ticks: int, pauses: list[int]) -> None:
    """At each change of reading, whoever reads the old one at the last moment and the new one at the first."""
    host, steering = Host(ticks, seed, noise=2000), Steering()
    last: Reading | None = None
    for pause in pauses:
        host.pass_by(pause)
        reading = steering.take(host.sample())
        if last is not None and reading is not None:
            assert reading.at(host.tsc) >= last.at(host.tsc)
            assert reading.multiplier > 0
        last = reading


def test_a_clock_that_is_ahead_is_led_back() -> None:
    host, steering = Host(3 * SECOND), Steering()
    steering.take(host.sample())
    for _ in range(20):
        host.pass_by(steering.interval)
        reading = steering.take(host.sample())
    host.monotonic -= 20_000  # the host's clock was slower than its past
    ahead = []
    for _ in range(6):
        host.pass_by(steering.interval)
        reading = steering.take(host.sample())
        assert reading is not None
        ahead.append(reading.monotonic - host.monotonic)
    assert ahead[0] > 15_000
    assert ahead[-1] < 1000
    assert ahead == sorted(ahead, reverse=True)


def test_other_clocks_are_offsets_without_noise() -> None:
    host, steering = Host(3 * SECOND, noise=20), Steering()
    steering.take(host.sample())
    host.pass_by(10_000_000)
    first = steering.take(host.sample())
    assert first is not None
    assert (first.boottime, first.tai - first.realtime) == (0, 37 * SECOND)
    host.realtime += 40
    host.pass_by(10_000_000)
    assert steering.take(host.sample()).realtime == first.realtime  # type: ignore[union-attr]
    host.realtime += SECOND  # somebody set the clock
    host.pass_by(10_000_000)
    assert steering.take(host.sample()).realtime == first.realtime + SECOND + 40  # type: ignore[union-attr]


def test_a_sample_that_was_interrupted_changes_nothing() -> None:
    host, steering = Host(3 * SECOND), Steering()
    steering.take(host.sample())
    host.pass_by(10_000_000)
    reading = steering.take(host.sample())
    host.width = 1_000_000
    host.pass_by(10_000_000)
    assert steering.take(host.sample()) is reading


@pytest.mark.parametrize("jump", [-(1 << 40), -1_000_000_000, 1_000_000_000])
def test_a_counter_that_jumps_tells_nothing_until_it_was_measured_again(jump: int) -> None:
    host, steering = Host(3 * SECOND), Steering()
    steering.take(host.sample())
    for _ in range(8):
        host.pass_by(steering.interval)
        assert steering.take(host.sample()) is not None
    host.tsc += jump
    assert steering.take(host.sample()) is None
    assert steering.restarts == 1
    host.pass_by(steering.interval)
    reading = steering.take(host.sample())
    assert reading is not None
    assert abs(reading.at(host.tsc) - host.monotonic) < 10


def words(page: ClockPage) -> list[int]:
    with mmap.mmap(page.fd, 4096, prot=mmap.PROT_READ) as view:
        return list(struct.unpack_from("<9Q", view))


def test_the_page_has_the_layout_of_the_header() -> None:
    header = re.findall(r"uint64_t (\w+);", tree.read("native/vdso/clock_page.h"))
    assert header == ["sequence", *(field.name for field in fields(Reading)), "resolution"]
    reading = Reading(1, 2, 3, 4, 5, -6, 7)
    assert reading.words() == (1, 2, 3, 4, 5, (1 << 64) - 6, 7)


async def test_the_page_is_told_and_told_again() -> None:
    page = ClockPage(counter_exact=True)
    page.start(asyncio.get_running_loop())
    assert not page.valid, "one sample says nothing about the speed"
    async with asyncio.timeout(10):
        while words(page)[0] < 6:
            await asyncio.sleep(0.005)
    sequence, tsc, horizon, multiplier, monotonic, realtime, *_, resolution = words(page)
    assert sequence % 2 == 0
    assert page.valid
    assert resolution >= 1
    sample = HostClock().sample()
    told = monotonic + ((sample.tsc - tsc) * multiplier >> 32)
    assert sample.tsc - tsc < horizon
    assert abs(told - sample.monotonic) < 1_000_000
    assert abs(realtime - (sample.realtime - sample.monotonic)) < 1_000_000
    fd = os.dup(page.fd)
    page.close()
    page.close()
    with mmap.mmap(fd, 4096, prot=mmap.PROT_READ) as view:
        assert struct.unpack_from("<3Q", view)[1:] == (0, 0)
    os.close(fd)
    assert not page.valid


async def test_a_counter_that_guests_do_not_share_is_not_told() -> None:
    page = ClockPage(counter_exact=False)
    page.start(asyncio.get_running_loop())
    page.update()
    assert not page.valid
    assert words(page)[:8] == [0] * 8
    page.close()


def test_a_host_that_jumps_again_and_again_is_given_up() -> None:
    host = Host(3 * SECOND)
    page = ClockPage(counter_exact=True, sampler=host)
    for _ in range(5):
        page.update()
        host.pass_by(10_000_000)
        page.update()
        host.tsc += SECOND
    host.pass_by(10_000_000)
    for _ in range(3):
        host.pass_by(10_000_000)
        page.update()
    assert not page.valid
    assert words(page)[0] % 2 == 0
    page.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(page.fd)
