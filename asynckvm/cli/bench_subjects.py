"""What is compared with the floors: asynckvm through its public platform API, as any caller would use it.

Each subject is an async generator that keeps its machine open and yields one sample for each `anext()`, so that floors can run
in between. Every subject checks its own counts. No statistics and no output here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Final

from asynckvm.cli.bench_guests import (
    ANSWERED,
    CALLS,
    CODE,
    COMPUTE,
    COUNT,
    CURSOR,
    DATA,
    END,
    LOOP,
    SPIN,
    TALLY,
    TOUCH,
    create_guest,
    expect,
    expect_call,
    open_guest,
)
from asynckvm.errors import InternalError
from asynckvm.model.exits import Interrupted, InterruptReason
from asynckvm.model.memory import PAGE
from asynckvm.model.registers import RegisterIndex
from asynckvm.platform import Access, Machine
from asynckvm.platform.layout import WORD_RAN_NS, WORD_STARTED_NS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asynckvm.model.config import PlatformName
    from asynckvm.platform import Context

__all__ = ["Sample", "async_switch", "compute", "exit_rate", "kick", "page_touch", "vcpu_exit"]

RIP: Final = RegisterIndex.rip
WARM_UP: Final = 50
START_SECONDS: Final = 10
TOUCH_AT: Final = 0x1000_0000


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """`ns`: nanoseconds for one operation. `parts`: where they went, in nanoseconds. `counts`: what else happened, for one
    operation. `result`: what the guest computed.
    """

    ns: float
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, float] = dataclasses.field(default_factory=dict)
    result: int = 0


class _Counts:
    """What a machine counts between two looks, for one operation: how the loop learned of exits, what vCPUs did beside them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before = self._look()

    def _look(self) -> dict[str, int]:
        now = self._machine.counters()
        counts = {name: getattr(now, name) for name in ("turns", "rings", "polls", "poll_hits")}
        for name in ("sleeps", "steals", "fp_switches", "space_switches", "stale_kicks"):
            counts[f"vcpu_{name}"] = sum(getattr(vcpu, name) for vcpu in now.vcpus)
        return counts

    def per(self, operations: int) -> dict[str, float]:
        return {name: (count - self._before[name]) / operations for name, count in self._look().items()}


async def vcpu_exit(operations: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """System calls answered on the vCPU thread; the one exit that ends the guest's loop is shared among them."""
    async with open_guest(CALLS, platform) as (_, context):
        context.answers = {ANSWERED: 0}
        words = context.words
        for calls in itertools.chain([WARM_UP], itertools.repeat(operations)):
            words[RIP] = CODE
            words[COUNT] = calls
            before = context.counters
            started_ns = time.monotonic_ns()
            exit_ = await context.switch()
            ended_ns = time.monotonic_ns()
            after = context.counters
            expect_call(exit_, END)
            expect("exits", after.exits - before.exits, 1)
            if calls == WARM_UP:
                continue
            expect("exits resolved on the vCPU thread", after.native_exits - before.native_exits, calls)
            yield Sample((ended_ns - started_ns) / calls, {"on_vcpu": (after.ran_ns - before.ran_ns) / calls})


async def async_switch(operations: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """One coroutine, one context, one vCPU: the median of `await context.switch()`, and of its parts by the core's stamps."""
    async with open_guest(LOOP, platform) as (machine, context):
        words, switch, clock = context.words, context.switch, time.monotonic_ns
        for _ in range(WARM_UP):
            await switch()
        while True:
            before, tally, counts = context.counters, words[TALLY], _Counts(machine)
            stamps = []
            for _ in range(operations):
                called_ns = clock()
                await switch()
                stamps.append((called_ns, words[WORD_STARTED_NS], words[WORD_RAN_NS], clock()))
            after = context.counters
            expect("exits", after.exits - before.exits, operations)
            expect("system calls, as the guest counts", words[TALLY] - tally, operations)
            expect("exits resolved on the vCPU thread", after.native_exits - before.native_exits, 0)
            yield Sample(
                statistics.median(resumed - called for called, _, _, resumed in stamps),
                {
                    "call_to_vcpu": statistics.median(began - called for called, began, _, _ in stamps),
                    "on_vcpu": statistics.median(ran for _, _, ran, _ in stamps),
                    "vcpu_to_resumed": statistics.median(resumed - began - ran for _, began, ran, resumed in stamps),
                },
                counts.per(operations),
            )


async def kick(operations: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """From `context.interrupt()` on a guest that is seen to spin, to its coroutine running again; one exit for each."""
    async with open_guest(SPIN, platform) as (machine, context):

        async def spin() -> int:
            exit_ = await context.switch()
            resumed_ns = time.monotonic_ns()
            if exit_ != Interrupted(InterruptReason.BOUNCED):
                raise InternalError(f"benchmark: a kick ended as {exit_}")
            return resumed_ns

        async def once() -> tuple[int, int]:
            spinning = asyncio.ensure_future(spin())
            await _seen_running(context)
            started_ns = time.monotonic_ns()
            context.interrupt()
            resumed_ns = await spinning
            left_ns = context.words[WORD_STARTED_NS] + context.words[WORD_RAN_NS]
            return left_ns - started_ns, resumed_ns - left_ns

        for _ in range(WARM_UP):
            await once()
        while True:
            before, counts = context.counters, _Counts(machine)
            kicks = [await once() for _ in range(operations)]
            expect("exits", context.counters.exits - before.exits, operations)
            yield Sample(
                statistics.median(leaving + resuming for leaving, resuming in kicks),
                {
                    "interrupt_to_left": statistics.median(leaving for leaving, _ in kicks),
                    "left_to_resumed": statistics.median(resuming for _, resuming in kicks),
                },
                counts.per(operations),
            )


async def _seen_running(context: Context) -> None:
    """Return when the guest's counter in memory moves."""
    deadline = time.monotonic() + START_SECONDS
    first = context.space.read(DATA, 8)
    await asyncio.sleep(0)
    while context.space.read(DATA, 8) == first:
        if time.monotonic() > deadline:
            raise InternalError(f"benchmark: the guest did not start to run within {START_SECONDS} s")
        await asyncio.sleep(0)


async def exit_rate(vcpus: int, contexts: int, exits: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """Many contexts in one space on `vcpus`, `exits` switches each: nanoseconds of wall time for one exit."""
    async with Machine.open(platform=platform, vcpus=vcpus, memory=64 << 20) as machine:
        first = create_guest(machine, LOOP)
        crowd = [first, *(create_guest(machine, LOOP, first.space) for _ in range(contexts - 1))]

        async def run(context: Context, count: int) -> None:
            for _ in range(count):
                await context.switch()

        async with asyncio.TaskGroup() as tasks:
            for context in crowd:
                tasks.create_task(run(context, 1))
        while True:
            before, counts = sum(context.counters.exits for context in crowd), _Counts(machine)
            loop_ns, process_ns, started_ns = time.thread_time_ns(), time.process_time_ns(), time.monotonic_ns()
            async with asyncio.TaskGroup() as tasks:
                for context in crowd:
                    tasks.create_task(run(context, exits))
            ended_ns = time.monotonic_ns()
            loop_ns, process_ns = time.thread_time_ns() - loop_ns, time.process_time_ns() - process_ns
            total = contexts * exits
            expect("exits", sum(context.counters.exits for context in crowd) - before, total)
            cpu = {"loop_cpu": loop_ns / total, "vcpus_cpu": (process_ns - loop_ns) / total}
            yield Sample((ended_ns - started_ns) / total, cpu, counts.per(total))


async def compute(operations: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """A loop of arithmetic in ring 3, with the one exit that ends it."""
    async with open_guest(COMPUTE, platform) as (_, context):
        words = context.words
        for turns in itertools.chain([WARM_UP], itertools.repeat(operations)):
            words[RIP] = CODE
            words[CURSOR] = turns
            before = context.counters.exits
            started_ns = time.monotonic_ns()
            await context.switch()
            ended_ns = time.monotonic_ns()
            expect("exits", context.counters.exits - before, 1)
            if turns != WARM_UP:
                yield Sample((ended_ns - started_ns) / turns, result=words[RegisterIndex.rax])


async def page_touch(pages: int, platform: PlatformName) -> AsyncGenerator[Sample]:
    """The first store to each page of memory that no guest of this machine had before; a machine for each sample."""
    bytes_ = pages * PAGE
    while True:
        async with open_guest(TOUCH, platform, memory=(64 << 20) + bytes_) as (_, context):
            context.space.map(TOUCH_AT, bytes_, Access.READ | Access.WRITE)
            context.words[CURSOR] = TOUCH_AT
            context.words[COUNT] = pages
            await context.switch()
            resident, before = context.space.resident, context.counters
            started_ns = time.monotonic_ns()
            await context.switch()
            ended_ns = time.monotonic_ns()
            after = context.counters
            expect("exits", after.exits - before.exits, 1)
            expect("resident pages", context.space.resident - resident, pages)
            expect("end of the touched memory", context.words[CURSOR], TOUCH_AT + bytes_)
            faults = after.native_exits - before.native_exits
            if not pages * PAGE // (2 << 20) <= faults <= pages:
                raise InternalError(f"benchmark: {faults} page faults for {pages} pages")
            yield Sample((ended_ns - started_ns) / pages, {"faults": faults})
