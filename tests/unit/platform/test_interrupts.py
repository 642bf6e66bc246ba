"""Interrupts and cancellation, before, during and after a run: never lost, never doubled, never early."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching

from asynckvm.errors import UsageError
from asynckvm.model.exits import Interrupted, InterruptReason, Syscall

if TYPE_CHECKING:
    from unit.platform.fake_core import FakeCore

    from asynckvm.platform import Machine

pytestmark = pytest.mark.every_loop

BOUNCED = Interrupted(InterruptReason.BOUNCED)
CALL = Syscall(0, (0,) * 6)


async def test_interrupt_before_a_switch_ends_it_at_once(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    for _ in range(3):
        context.interrupt()
    assert await asyncio.wait_for(context.switch(), SECONDS) == BOUNCED
    assert core.order == []
    (task,) = switching(context)
    await passes()
    assert not task.done()  # three were one
    core.syscall(index(context))
    await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_interrupt_during_a_switch(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    context.interrupt(InterruptReason.TIMEOUT)
    assert await asyncio.wait_for(task, SECONDS) == Interrupted(InterruptReason.TIMEOUT)
    await close(context)


async def test_interrupt_while_queued_needs_no_vcpu(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 5)
    tasks = switching(*those)
    await passes()
    those[4].interrupt()
    assert await asyncio.wait_for(tasks[4], SECONDS) == BOUNCED
    assert core.interrupts == []
    assert machine.counters().waiting == 0
    for context in those[:4]:
        core.syscall(index(context))
    await asyncio.wait_for(asyncio.gather(*tasks[:4]), SECONDS)
    await close(*those)


async def test_late_interrupt_stays_for_the_next_switch(machine: Machine, core: FakeCore) -> None:
    """The run had ended otherwise while the interrupt was under way."""
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    context.interrupt()
    core.syscall(index(context))
    assert await asyncio.wait_for(task, SECONDS) == CALL
    assert await asyncio.wait_for(context.switch(), SECONDS) == BOUNCED
    await close(context)


@pytest.mark.parametrize("reason", [InterruptReason.PREEMPTED, InterruptReason.SHOOTDOWN])
async def test_late_preemption_means_nothing(machine: Machine, core: FakeCore, reason: InterruptReason) -> None:
    (context,) = contexts(machine, 1)
    core.obedient = False
    context.interrupt(reason)
    (task,) = switching(context)
    await passes()
    context.interrupt(reason)
    core.syscall(index(context))
    assert await asyncio.wait_for(task, SECONDS) == CALL
    (task,) = switching(context)
    await passes()
    assert not task.done()
    core.syscall(index(context))
    await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_several_reasons_collapse_into_the_strongest(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    for reason in (InterruptReason.PREEMPTED, InterruptReason.TIMEOUT, InterruptReason.BOUNCED):
        context.interrupt(reason)
    core.interrupted(index(context), 1 | 2 | 8)
    assert await asyncio.wait_for(task, SECONDS) == Interrupted(InterruptReason.TIMEOUT)
    (task,) = switching(context)
    await passes()
    assert not task.done()
    core.syscall(index(context))
    await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_an_interrupt_the_run_did_not_see_is_kept(machine: Machine, core: FakeCore) -> None:
    """Preempted first; the bounce reached the core after the run had come back."""
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    context.interrupt(InterruptReason.BOUNCED)
    core.interrupted(index(context), int(InterruptReason.PREEMPTED))
    assert await asyncio.wait_for(task, SECONDS) == Interrupted(InterruptReason.PREEMPTED)
    assert await asyncio.wait_for(context.switch(), SECONDS) == BOUNCED
    await close(context)


@pytest.mark.parametrize("reason", [InterruptReason.CLOSED, InterruptReason.BOUNCED | InterruptReason.TIMEOUT])
async def test_only_one_reason_that_callers_may_give(machine: Machine, reason: InterruptReason) -> None:
    (context,) = contexts(machine, 1)
    with pytest.raises(UsageError):
        context.interrupt(reason)
    await close(context)


async def test_cancel_ends_only_when_the_vcpu_gave_the_context_back(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    task.cancel("enough")
    task.cancel("enough")
    await passes()
    assert not task.done()
    assert core.interrupts == [(index(context), 4)] * 2
    core.interrupted(index(context), int(InterruptReason.CANCELLED))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), SECONDS)
    assert task.cancelled()
    core.obedient = True
    (task,) = switching(context)
    await passes()
    assert not task.done()  # the cancellation was not kept
    core.syscall(index(context))
    assert await asyncio.wait_for(task, SECONDS) == CALL
    await close(context)


async def test_cancel_keeps_an_exit_that_came_meanwhile(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    task.cancel()
    core.syscall(index(context), 60, 1)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), SECONDS)
    submits = len(core.order)
    assert await asyncio.wait_for(context.switch(), SECONDS) == Syscall(60, (1, 0, 0, 0, 0, 0))
    assert len(core.order) == submits
    await close(context)


async def test_cancel_of_a_queued_context_is_immediate(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 5)
    tasks = switching(*those)
    await passes()
    tasks[4].cancel()
    assert machine.counters().waiting == 0
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(tasks[4]), SECONDS)
    assert core.interrupts == []
    for context in those[:4]:
        core.syscall(index(context))
    await asyncio.wait_for(asyncio.gather(*tasks[:4]), SECONDS)
    await close(*those)


async def test_cancel_by_a_neighbour_of_the_same_batch_keeps_the_exit(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 2)

    async def run() -> None:
        await those[0].switch()
        tasks[0].cancel()

    murderer = asyncio.create_task(run())
    await passes()
    tasks = switching(those[1])
    await passes()
    core.syscall(index(those[0]))
    core.syscall(index(those[1]), 7)
    await asyncio.wait_for(murderer, SECONDS)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(tasks[0]), SECONDS)
    assert await asyncio.wait_for(those[1].switch(), SECONDS) == Syscall(7, (0,) * 6)
    await close(*those)


async def test_a_bounce_survives_a_cancellation(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    core.obedient = False
    (task,) = switching(context)
    await passes()
    context.interrupt()
    task.cancel()
    core.interrupted(index(context), 1 | 4)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), SECONDS)
    assert await asyncio.wait_for(context.switch(), SECONDS) == BOUNCED
    await close(context)


async def test_timeouts_work_on_top(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await context.switch()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(context.switch(), 0.001)
    assert core.submitted == {}
    assert [bits for _, bits in core.interrupts] == [4, 4]
    await close(context)


async def test_an_abandoned_coroutine_leaves_a_usable_context(machine: Machine, core: FakeCore) -> None:
    """Its frame is closed while the context runs; the exit that comes later is kept."""
    (context,) = contexts(machine, 1)
    core.obedient = False
    coroutine = context.switch()
    coroutine.send(None)
    coroutine.close()
    with pytest.raises(UsageError, match="one at a time"):
        await context.switch()
    core.syscall(index(context), 9)
    await passes()
    assert await asyncio.wait_for(context.switch(), SECONDS) == Syscall(9, (0,) * 6)
    await close(context)


async def test_half_of_many_cancelled_at_random_points(machine: Machine, core: FakeCore) -> None:
    """Exactly those that were cancelled end; every other one gets its own exit."""
    those = contexts(machine, 40)
    tasks = switching(*those)
    await passes()
    victims = set(range(0, 40, 2))
    for number in sorted(victims, key=lambda number: number * 7 % 40):
        tasks[number].cancel()
        ready = [each for each in those if index(each) in core.submitted and those.index(each) not in victims]
        if ready:
            core.syscall(index(ready[0]), those.index(ready[0]))
        await passes(2)
    async with asyncio.timeout(SECONDS):
        while not all(task.done() for task in tasks):
            for each in those:
                if index(each) in core.submitted:
                    core.syscall(index(each), those.index(each))
            await asyncio.sleep(0)
    assert {number for number, task in enumerate(tasks) if task.cancelled()} == victims
    assert all(task.result() == Syscall(number, (0,) * 6) for number, task in enumerate(tasks) if number not in victims)
    await close(*those)
