"""Timers: when they expire, what they miss, what is left of them, and what a process may ask of them."""

from __future__ import annotations

import asyncio
import signal
import struct
import time
from types import SimpleNamespace
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.signals import deliver
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.numbers import SI_KERNEL, SI_TIMER, SIG_IGN, bit
from asynckvm.linux.syscalls import timers as calls
from asynckvm.linux.timers import TIMERS_MAX, Timer
from asynckvm.linux.usercopy import NANOSECONDS
from support.fake_tasks import FakeKernel, FakeProcess

MILLISECOND = 1_000_000
SECONDS = 10
ALRM = signal.SIGALRM
AT = 0x7FFE_0000_1000
NEW, OLD, ID = AT, AT + 0x100, AT + 0x200


class FakeClock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.time = 1000 * NANOSECONDS

    def now(self) -> int:
        return self.time

    def delay(self, left: int) -> int:
        return max(left, 0) // 1000


@pytest.fixture
def process() -> Any:
    process = FakeProcess(FakeKernel(), 100)
    process.tasks[100].mask = (1 << 64) - 1
    return process


@pytest.fixture
def task(process: Any) -> Any:
    return process.tasks[100]


async def signalled(task: Any, number: int) -> Any:
    """The next signal of that number."""
    async with asyncio.timeout(SECONDS):
        while not task.process.pending.mask & bit(number) and not task.pending.mask & bit(number):
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def watcher(events: int, waiting: asyncio.Future[None] = waiting) -> None:
                if not waiting.done():
                    waiting.set_result(None)

            task.process.signal_queue.watch(watcher)
            await waiting
            task.process.signal_queue.unwatch(watcher)
    return deliver.take(task, bit(number))


def put(task: Any, address: int, layout: str, *values: int) -> int:
    task.space.write(address, struct.pack("<" + layout, *values))
    return address


def got(task: Any, address: int, layout: str) -> tuple[int, ...]:
    return struct.unpack("<" + layout, task.space.read(address, struct.calcsize("<" + layout)))


# ---------------------------------------------------------------- a timer by itself


async def test_a_timer_waits_for_its_own_clock() -> None:
    clock, fired = FakeClock(), asyncio.Event()
    looks = 0

    def delay(left: int) -> int:
        nonlocal looks
        looks += 1
        if looks == 3:
            clock.time += 5000
        return 0

    def fire() -> bool:
        fired.set()
        return True

    clock.delay = delay  # type: ignore[method-assign]
    timer = Timer(clock, fire)
    timer.set(clock.time + 5000, 0)
    assert timer.left == 5000
    await asyncio.wait_for(fired.wait(), SECONDS)
    assert looks == 3
    assert timer.left == 0


async def test_a_periodic_timer_counts_what_it_missed() -> None:
    clock, fired = FakeClock(), asyncio.Event()

    def fire() -> bool:
        fired.set()
        return True

    timer = Timer(clock, fire)
    timer.set(clock.time, 100)
    await asyncio.wait_for(fired.wait(), SECONDS)
    clock.time += 1050
    assert timer.left == 50
    assert timer.advance() == 10
    assert timer.left == 50
    assert timer.advance() == 0
    timer.cancel()
    assert timer.left == 0
    assert timer.advance() == 0


# ---------------------------------------------------------------- interval timers


async def test_an_alarm(task: Any) -> None:
    assert calls.alarm(task, 100) == 0
    assert calls.alarm(task, 0) == 100
    assert calls.setitimer(task, 0, put(task, NEW, "qqqq", 0, 0, 0, 2000), 0) == 0
    assert calls.alarm(task, 1) == 1
    calls.setitimer(task, 0, put(task, NEW, "qqqq", 0, 0, 0, 2000), OLD)
    assert got(task, OLD, "qqq")[2] == 0 or got(task, OLD, "qqq")[2] == 1
    began = time.monotonic_ns()
    info = await signalled(task, ALRM)
    assert time.monotonic_ns() - began >= MILLISECOND
    assert info.code == SI_KERNEL
    calls.getitimer(task, 0, OLD)
    assert got(task, OLD, "qqqq") == (0, 0, 0, 0)


async def test_a_periodic_alarm_goes_on_when_taken(process: Any, task: Any) -> None:
    calls.setitimer(task, 0, put(task, NEW, "qqqq", 0, 1, 0, 1), 0)
    for _ in range(3):
        await signalled(task, ALRM)
    calls.getitimer(task, 0, OLD)
    assert got(task, OLD, "qq") == (0, 1)
    process.timers.close()


async def test_an_ignored_alarm_is_looked_at_ever_more_rarely(process: Any, task: Any) -> None:
    task.mask = 0
    process.actions.set(ALRM, Action(SIG_IGN))
    calls.setitimer(task, 0, put(task, NEW, "qqqq", 0, 1, 0, 1), 0)
    timer = process.timers.interval(0)
    ticks: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(ticks) < 3:
            await asyncio.sleep(0.001)
            if not ticks or ticks[-1] != timer._tick:
                ticks.append(timer._tick)
    assert ticks == sorted(ticks)
    # Heard again, it comes.
    process.actions.set(ALRM, Action())
    await signalled(task, ALRM)
    process.timers.close()


def running(task: Any) -> list[asyncio.TimerHandle]:
    """The thread uses a millisecond of processor time every two; the last handle stops it."""
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []

    def run() -> None:
        task.cpu_ns += MILLISECOND
        handles.append(loop.call_later(0.002, run))

    run()
    return handles


async def test_a_limit_of_processor_time(process: Any, task: Any) -> None:
    process.limits[Limit.CPU] = (1, 3)
    process.timers.watch_limit()
    task.cpu_ns = NANOSECONDS - MILLISECOND
    handles = running(task)
    await signalled(task, signal.SIGXCPU)
    assert process.limits[Limit.CPU] == (2, 3)
    task.cpu_ns = 2 * NANOSECONDS
    await signalled(task, signal.SIGXCPU)
    assert process.limits[Limit.CPU] == (3, 3)
    assert process.ended is None
    task.cpu_ns = 3 * NANOSECONDS
    async with asyncio.timeout(SECONDS):
        while process.ended is None:
            await asyncio.sleep(0)
    assert process.ended.signal == signal.SIGKILL
    handles[-1].cancel()
    process.timers.close()


async def test_a_limit_that_is_taken_back(process: Any, task: Any) -> None:
    process.limits[Limit.CPU] = (1, INFINITY)
    process.timers.watch_limit()
    process.limits[Limit.CPU] = (INFINITY, INFINITY)
    process.timers.watch_limit()
    task.cpu_ns = 2 * NANOSECONDS
    assert process.timers._limit.timer.left == 0
    process.timers.close()


@pytest.mark.parametrize("which", [1, 2])
async def test_processor_time(which: int, process: Any, task: Any) -> None:
    number = (signal.SIGVTALRM, signal.SIGPROF)[which - 1]
    calls.setitimer(task, which, put(task, NEW, "qqqq", 0, 0, 0, 2000), 0)
    handles = running(task)
    await signalled(task, number)
    handles[-1].cancel()
    assert task.cpu_ns >= 2 * MILLISECOND
    assert task.context.interrupts > 0
    process.timers.close()


@pytest.mark.parametrize("times", [(0, 0, 0, 1_000_000), (0, -1, 0, 0), (-1, 0, 0, 0)])
async def test_interval_timers_that_are_refused(times: tuple[int, ...], task: Any) -> None:
    with pytest.raises(SyscallError, match="EINVAL"):
        calls.setitimer(task, 0, put(task, NEW, "qqqq", *times), 0)
    with pytest.raises(SyscallError, match="EINVAL"):
        calls.getitimer(task, 3, OLD)


# ---------------------------------------------------------------- timer_create


def create(task: Any, clock: int = 1, *event: int) -> int:
    where = put(task, NEW, "Qiii", *event) if event else 0
    assert calls.timer_create(task, clock, where, ID) == 0
    return got(task, ID, "i")[0]


def settime(task: Any, number: int, interval: int, value: int, flags: int = 0) -> None:
    fields = (*divmod(interval, NANOSECONDS), *divmod(value, NANOSECONDS))
    calls.timer_settime(task, number, flags, put(task, NEW, "qqqq", *fields), OLD)


async def test_a_timer_with_everything_left_out(process: Any, task: Any) -> None:
    create(task)
    number = create(task)
    settime(task, number, 0, MILLISECOND)
    info = await signalled(task, ALRM)
    assert (info.code, info.timer, info.value, info.overrun) == (SI_TIMER, 1, 1, 0)
    calls.timer_gettime(task, number, OLD)
    assert got(task, OLD, "qqqq") == (0, 0, 0, 0)
    process.timers.close()


async def test_overruns(process: Any, task: Any) -> None:
    number = create(task, 1, 0xABCD, 40, 0, 0)
    settime(task, number, 1000, 1000)
    info = await signalled(task, 40)
    assert (info.value, info.number) == (0xABCD, 40)
    assert calls.timer_getoverrun(task, number) == info.overrun
    first = await signalled(task, 40)
    assert first.overrun >= 0
    # Real time passes while the signal is pending.
    deadline = time.monotonic_ns() + MILLISECOND
    async with asyncio.timeout(SECONDS):
        while not process.pending.mask or time.monotonic_ns() < deadline:
            await asyncio.sleep(0.001)
    assert deliver.take(task, bit(40)).overrun > 0  # type: ignore[union-attr]
    assert calls.timer_getoverrun(task, number) > 0
    process.timers.close()


async def test_an_absolute_time_in_the_past_comes_at_once(process: Any, task: Any) -> None:
    process.credentials = Credentials()
    number = create(task, 8, 5, signal.SIGUSR1, 4, 100)
    settime(task, number, 0, NANOSECONDS, flags=1)
    info = await signalled(task, signal.SIGUSR1)
    assert info.value == 5
    assert process.pending.mask == 0
    process.timers.close()


async def test_setting_a_timer_anew_takes_its_signal_back(process: Any, task: Any) -> None:
    number = create(task, 1, 5, 40, 0, 0)
    settime(task, number, 0, 1)
    async with asyncio.timeout(SECONDS):
        while not process.pending.mask:
            await asyncio.sleep(0.001)
    settime(task, number, 0, 1000 * NANOSECONDS)
    assert process.pending.mask == 0
    calls.timer_gettime(task, number, OLD)
    assert got(task, OLD, "qqq")[2] == 999
    settime(task, number, 0, 0)
    calls.timer_gettime(task, number, OLD)
    assert got(task, OLD, "qqqq") == (0, 0, 0, 0)


async def test_a_silent_timer_only_shows_its_time(process: Any, task: Any) -> None:
    number = create(task, 1, 0, 0, 1, 0)
    settime(task, number, 0, 1)
    calls.timer_gettime(task, number, OLD)
    assert got(task, OLD, "qqqq") == (0, 0, 0, 0)
    settime(task, number, 1000 * NANOSECONDS, 1)
    calls.timer_gettime(task, number, OLD)
    assert got(task, OLD, "qqq") == (1000, 0, 999)
    assert process.timers[number].timer._handle is None


async def test_timers_end_with_the_program(process: Any, task: Any) -> None:
    number = create(task)
    calls.setitimer(task, 0, put(task, NEW, "qqqq", 0, 0, 50, 0), 0)
    process.timers.executed()
    for gone in (
        lambda: calls.timer_delete(task, number),
        lambda: calls.timer_gettime(task, number, OLD),
        lambda: calls.timer_getoverrun(task, number),
    ):
        with pytest.raises(SyscallError, match="EINVAL"):
            gone()
    assert calls.alarm(task, 0) == 50


@pytest.mark.parametrize(
    ("clock", "event", "error"),
    [
        (4, (), "ENOTSUP"),
        (8, (), "EPERM"),
        (12, (), "EINVAL"),
        (-1, (), "EINVAL"),
        (1, (0, 65, 0, 0), "EINVAL"),
        (1, (0, 10, 3, 0), "EINVAL"),
        (1, (0, 10, 4, 999), "EINVAL"),
    ],
)
async def test_timers_that_are_refused(clock: int, event: tuple[int, ...], error: str, task: Any) -> None:
    with pytest.raises(SyscallError, match=error):
        create(task, clock, *event)


async def test_clocks_of_processor_time(process: Any, task: Any) -> None:
    for clock in (2, 3, (~100 << 3) | 2, (~100 << 3) | 6, (~0 << 3) | 6):
        number = create(task, clock, 0, 41, 0, 0)
        settime(task, number, 0, task.cpu_ns, flags=1)
        task.cpu_ns += 1
        settime(task, number, 0, task.cpu_ns, flags=1)
        await signalled(task, 41)
    process.timers.close()


async def test_there_is_a_bound(process: Any, task: Any) -> None:
    for _ in range(TIMERS_MAX):
        create(task)
    with pytest.raises(SyscallError, match="EAGAIN"):
        create(task)
    process.timers.close()
    process.limits[11] = (0, 0)
    with pytest.raises(SyscallError, match="EAGAIN"):
        create(task)


def test_a_null_pointer_as_time_of_a_timer(task: Any) -> None:
    process = SimpleNamespace(process=SimpleNamespace(timers={}))
    with pytest.raises(SyscallError, match="EINVAL"):
        calls.timer_settime(process, 0, 0, 0, 0)  # type: ignore[arg-type]
