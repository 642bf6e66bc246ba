"""Timers as files: on three clocks, once or again and again, counted by the clock and not by wake-ups."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.timerfd import TimerFile
from asynckvm.linux.syscalls import events, transfer
from asynckvm.linux.wait import READABLE
from support.fake_tasks import DATA, SECONDS, lone_task, result

CLOCKS = [time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME]
MS = 1_000_000
SECOND = 1_000_000_000
OLD = DATA + 0x100


class Clock:
    """A clock that shows what it is told; the loop's own timers are too late to matter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000 * SECOND
        monkeypatch.setattr("asynckvm.linux.files.timerfd.time.clock_gettime_ns", lambda _: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def count(file: TimerFile) -> int:
    return int.from_bytes(file.read(8), "little")


def setting(interval: int, value: int) -> bytes:
    return struct.pack("<qqqq", *divmod(interval, SECOND), *divmod(value, SECOND))


@pytest.mark.every_loop
@pytest.mark.parametrize("clock_id", CLOCKS)
@pytest.mark.parametrize("absolute", [False, True])
async def test_a_read_waits_until_it_expires(clock_id: int, absolute: bool) -> None:
    task: Any = lone_task()
    fd = events.timerfd_create(task, clock_id, 0)
    end = time.clock_gettime_ns(clock_id) + 30 * MS
    task.space.write(DATA, setting(0, end if absolute else 30 * MS))
    assert events.timerfd_settime(task, fd, int(absolute), DATA, 0) == 0
    reading = await task.begin(transfer.read(task, fd, DATA, 8))
    assert await result(reading) == 8
    assert time.clock_gettime_ns(clock_id) >= end
    assert task.space.read(DATA, 8) == struct.pack("<Q", 1)
    task.process.files.close(fd)


async def test_what_was_missed_is_counted(clock: Clock) -> None:
    file = TimerFile(time.CLOCK_MONOTONIC, 0)
    file.arm(5 * SECOND, 2 * SECOND, absolute=False)
    assert file.setting() == (5 * SECOND, 2 * SECOND)
    with pytest.raises(BlockingIOError):
        file.read(8)
    clock.now += 5 * SECOND
    assert file.poll() == READABLE
    clock.now += 5 * SECOND
    assert count(file) == 3
    assert file.poll() == 0
    assert file.setting() == (1 * SECOND, 2 * SECOND)
    file.close()


async def test_one_that_expires_once(clock: Clock) -> None:
    file = TimerFile(time.CLOCK_MONOTONIC, 0)
    file.arm(clock.now - 5, 0, absolute=True)
    assert count(file) == 1
    assert file.setting() == (0, 0)
    with pytest.raises(BlockingIOError):
        file.read(8)
    file.close()


async def test_setting_it_again_forgets_what_expired(clock: Clock) -> None:
    file = TimerFile(time.CLOCK_MONOTONIC, 0)
    file.arm(SECOND, 0, absolute=False)
    clock.now += 2 * SECOND
    file.arm(0, 0, absolute=False)
    assert file.poll() == 0
    assert file.setting() == (0, 0)
    file.close()


async def test_a_very_short_interval_keeps_the_loop_free() -> None:
    file = TimerFile(time.CLOCK_MONOTONIC, 0)
    wakes: list[int] = []
    file.queue.watch(wakes.append)
    file.arm(1, 1, absolute=False)
    async with asyncio.timeout(SECONDS):
        while not wakes:
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert wakes == [READABLE]
    assert count(file) > 1
    file.close()


async def test_calls(clock: Clock) -> None:
    task: Any = lone_task()
    with pytest.raises(SyscallError, match="EINVAL"):
        events.timerfd_create(task, time.CLOCK_PROCESS_CPUTIME_ID, 0)
    with pytest.raises(SyscallError, match="EINVAL"):
        events.timerfd_create(task, time.CLOCK_MONOTONIC, 1)
    fd = events.timerfd_create(task, time.CLOCK_MONOTONIC, 0)
    task.space.write(DATA, setting(SECOND, 3 * SECOND))
    with pytest.raises(SyscallError, match="EINVAL"):
        events.timerfd_settime(task, fd, 4, DATA, 0)
    assert events.timerfd_settime(task, fd, 2, DATA, 0) == 0
    clock.now += SECOND
    assert events.timerfd_settime(task, fd, 0, DATA, OLD) == 0
    assert task.space.read(OLD, 32) == setting(SECOND, 2 * SECOND)
    assert events.timerfd_gettime(task, fd, OLD) == 0
    assert task.space.read(OLD, 32) == setting(SECOND, 3 * SECOND)
    task.space.write(DATA, struct.pack("<qqqq", 0, 0, 0, SECOND))
    with pytest.raises(SyscallError, match="EINVAL"):
        events.timerfd_settime(task, fd, 0, DATA, 0)
    other = events.eventfd(task, 0)
    with pytest.raises(SyscallError, match="EINVAL"):
        events.timerfd_gettime(task, other, DATA)
    task.process.files.close(fd)
