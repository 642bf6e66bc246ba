"""One turn: completions become exits, vCPUs are fed before coroutines run, and nothing a coroutine does harms the engine."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import uvloop
from unit.platform.fake_core import FakeCore
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching, until

from asynckvm.errors import InternalError, OverloadedError, UsageError
from asynckvm.model.exits import Interrupted, InterruptReason, Syscall
from asynckvm.model.states import CONTEXT_TRANSITIONS, ContextEvent, ContextState
from asynckvm.platform import EngineConfig, Machine, SchedulerConfig
from asynckvm.platform.passage import Passage

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.every_loop

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_a_system_call_reaches_the_coroutine(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    assert not task.done()
    core.syscall(index(context), 39, 1, 2, 3, 4, 5, 6)
    async with asyncio.timeout(SECONDS):
        assert await task == Syscall(39, (1, 2, 3, 4, 5, 6))
    await close(context)


async def test_vcpus_are_fed_before_coroutines_run(machine: Machine, core: FakeCore) -> None:
    """Four mailbox places; the fifth context is submitted while the first one's coroutine has not run yet."""
    those = contexts(machine, 5)
    seen: list[int] = []

    async def run(context: object) -> None:
        await those[0].switch()
        seen.extend(core.submitted)

    first = asyncio.create_task(run(those[0]))
    await passes()
    rest = switching(*those[1:])
    await passes()
    assert index(those[4]) not in core.submitted
    core.syscall(index(those[0]))
    await asyncio.wait_for(first, SECONDS)
    assert index(those[4]) in seen
    for context in those[1:]:
        core.syscall(index(context))
    await asyncio.wait_for(asyncio.gather(*rest), SECONDS)
    await close(*those)


async def test_a_coroutine_keeps_its_own_contextvars(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 2)

    async def run(number: int) -> str:
        variable.set(f"task {number}")
        await those[number].switch()
        return variable.get()

    tasks = [asyncio.create_task(run(number)) for number in range(2)]
    await passes()
    for context in those:
        core.syscall(index(context))
    assert await asyncio.wait_for(asyncio.gather(*tasks), SECONDS) == ["task 0", "task 1"]
    assert variable.get() == "unset"
    await close(*those)


async def test_an_exception_ends_its_own_task_only(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 2)

    async def run() -> None:
        await those[0].switch()
        raise LookupError

    bad = asyncio.create_task(run())
    (good,) = switching(those[1])
    await passes()
    core.syscall(index(those[0]))
    core.syscall(index(those[1]), 5)
    assert (await asyncio.wait_for(good, SECONDS)) == Syscall(5, (0,) * 6)
    with pytest.raises(LookupError):
        await bad
    await close(*those)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_keyboard_interrupt_loses_no_completion(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """It leaves the loop through the engine, in the middle of a batch; the rest of the batch is woken later."""
    core = FakeCore()
    loop = new_loop()
    opened: list[Machine] = []

    async def start() -> list[asyncio.Task[object]]:
        machine = await Machine.open(vcpus=2, memory=2 << 20, contexts=8, binding=core.binding())
        opened.append(machine)
        those = contexts(machine, 2)

        async def run() -> None:
            await those[0].switch()
            raise KeyboardInterrupt

        tasks: list[asyncio.Task[object]] = [asyncio.create_task(run()), *switching(those[1])]
        await passes()
        return tasks

    async def wait(task: asyncio.Task[object]) -> object:
        return await asyncio.wait_for(task, SECONDS)

    async def stop() -> None:
        for context in list(opened[0]._contexts):
            context.close()
            context.space.contexts or context.space.close()
        await opened[0].close()

    try:
        tasks = loop.run_until_complete(start())
        for number in sorted(core.submitted, reverse=True):
            core.syscall(number)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(wait(tasks[1]))
        assert loop.run_until_complete(wait(tasks[1])) == Syscall(0, (0,) * 6)
        assert isinstance(tasks[0].exception(), KeyboardInterrupt)
        loop.run_until_complete(stop())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def test_one_switch_at_a_time(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    with pytest.raises(UsageError, match="one at a time"):
        await context.switch()
    with pytest.raises(UsageError, match="belongs to the vCPU"):
        _ = context.registers
    with pytest.raises(UsageError, match="still in switch"):
        context.close()
    core.syscall(index(context))
    await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_refused_when_too_many_wait(core: FakeCore) -> None:
    scheduler = SchedulerConfig(brief_ahead=0, ahead=0, max_waiting=1)
    async with Machine.open(vcpus=2, memory=2 << 20, binding=core.binding(), scheduler=scheduler) as machine:
        those = contexts(machine, 4)
        tasks = switching(*those)
        await passes()
        with pytest.raises(OverloadedError):
            await tasks[3]
        assert machine.counters().fairness.refused == 1
        for context in those[:3]:
            core.syscall(index(context))
            await passes()
        await asyncio.wait_for(asyncio.gather(*tasks[:3]), SECONDS)
        await close(*those)


async def test_a_refused_submit_is_an_internal_error_and_frees_its_place(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 5)
    core.fail_submit = 1
    tasks = switching(*those)
    with pytest.raises(InternalError):
        await asyncio.wait_for(tasks[0], SECONDS)
    await passes()
    assert len(core.submitted) == 4
    for context in those[1:]:
        core.syscall(index(context))
    await asyncio.wait_for(asyncio.gather(*tasks[1:]), SECONDS)
    await close(*those)


async def test_a_turn_is_bounded(core: FakeCore) -> None:
    """Guests that exit at once do not keep the loop from its other callbacks."""
    async with Machine.open(vcpus=2, memory=2 << 20, binding=core.binding(), engine=EngineConfig(turn_completions=8)) as machine:
        core.program = lambda context: core.syscall(context.index)
        (context,) = contexts(machine, 1)
        switches = 0

        async def run() -> None:
            nonlocal switches
            while True:
                await context.switch()
                switches += 1

        task = asyncio.create_task(run())
        await until(lambda: switches)
        before = switches
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert switches - before <= 4 * 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        core.program = None
        await close(context)


async def test_no_wake_up_is_lost(machine: Machine, core: FakeCore) -> None:
    """Completions arrive from another thread at any moment of the loop's way to sleep."""
    rounds = 1000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    (context,) = contexts(machine, 1)
    number = index(context)
    stop = threading.Event()

    def play() -> None:
        while not stop.is_set():
            if number in core.submitted:
                core.syscall(number)

    player = threading.Thread(target=play)
    player.start()
    try:
        async with asyncio.timeout(30):
            for _ in range(rounds):
                await context.switch()
    finally:
        stop.set()
        player.join(SECONDS)
        sys.setswitchinterval(interval)
    assert core.rings <= core.arms
    await close(context)


async def test_polling_finds_a_completion_without_the_doorbell(core: FakeCore) -> None:
    engine = EngineConfig(cpus=2, spin_ns=50_000)
    async with Machine.open(vcpus=2, memory=2 << 20, binding=core.binding(), engine=engine) as machine:
        (context,) = contexts(machine, 1)
        core.on_poll = lambda: [core.syscall(number) for number in list(core.submitted)] and None
        arms = core.arms
        for _ in range(10):
            await asyncio.wait_for(context.switch(), SECONDS)
        assert machine.counters().poll_hits == 10
        assert core.arms == arms
        core.on_poll = None
        await close(context)


async def test_no_polling_when_every_processor_is_busy(core: FakeCore) -> None:
    engine = EngineConfig(cpus=2, spin_ns=50_000)
    async with Machine.open(vcpus=2, memory=2 << 20, binding=core.binding(), engine=engine) as machine:
        those = contexts(machine, 2)
        tasks = switching(*those)
        await passes()
        before = core.polls
        core.syscall(index(those[0]))
        await passes()
        tasks[0] = switching(those[0])[0]
        await passes()
        assert len(core.submitted) == 2
        assert core.polls - before <= 1  # while one vCPU was idle
        for context in those:
            core.syscall(index(context))
        await asyncio.wait_for(asyncio.gather(*tasks), SECONDS)
        await close(*those)


async def test_polling_in_vain_becomes_rare(core: FakeCore) -> None:
    engine = EngineConfig(cpus=2, spin_ns=50_000)
    async with Machine.open(vcpus=1, memory=2 << 20, binding=core.binding(), engine=engine) as machine:
        (context,) = contexts(machine, 1)
        before = core.polls
        for _ in range(200):
            (task,) = switching(context)
            await passes(3)
            core.syscall(index(context))
            await asyncio.wait_for(task, SECONDS)
        assert core.polls - before <= 20
        await close(context)


async def test_a_spinner_is_preempted_only_when_somebody_waits(core: FakeCore) -> None:
    scheduler = SchedulerConfig(brief_ahead=0, ahead=0, quantum_ns=1_000_000)
    async with Machine.open(vcpus=1, memory=2 << 20, binding=core.binding(), scheduler=scheduler) as machine:
        core.vcpus = 1
        core.interrupts.clear()
        those = contexts(machine, 2)
        (spinner,) = switching(those[0])
        await passes()
        core.status(0, index(those[0]))
        assert machine._engine._ticker is None
        (other,) = switching(those[1])
        assert await asyncio.wait_for(spinner, SECONDS) == Interrupted(InterruptReason.PREEMPTED)
        assert core.interrupts == [(index(those[0]), InterruptReason.PREEMPTED)]
        core.syscall(index(those[1]))
        await asyncio.wait_for(other, SECONDS)
        await close(*those)


async def test_states_change_only_as_the_table_says(machine: Machine, core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every assignment the engine makes is one of the table's transitions (or its end after several)."""
    reachable = {
        (int(before), int(after)) for (before, _), after in CONTEXT_TRANSITIONS.items() if isinstance(before, ContextState)
    }
    slot = Passage.state
    steps: list[tuple[int, int]] = []

    def assign(passage: Passage, value: int) -> None:
        steps.append((slot.__get__(passage), value))  # type: ignore[attr-defined]
        slot.__set__(passage, value)  # type: ignore[attr-defined]

    those = contexts(machine, 6)
    monkeypatch.setattr(Passage, "state", property(slot.__get__, assign))  # type: ignore[attr-defined]
    tasks = switching(*those)
    await passes()
    those[5].interrupt()
    tasks[4].cancel()
    for context in those[:2]:
        core.syscall(index(context))
    those[2].interrupt()
    tasks[3].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
    moved = {(before, after) for before, after in steps if before != after}
    assert moved <= reachable
    assert len(moved) == 5
    assert ContextEvent.CLOSE not in moved
    await close(*those)
