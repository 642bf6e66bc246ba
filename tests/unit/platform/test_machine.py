"""A machine's life: opening fails with a hint, closing ends everything in bounded time, a forked child may not touch it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import warnings
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from unit.platform.fake_core import FakeCore
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching, until

from asynckvm.errors import (
    ClosedError,
    HostForkedError,
    InternalError,
    OverloadedError,
    UsageError,
)
from asynckvm.platform import Access, EngineConfig, Machine, MachineConfig, WriteMsr, open_machines

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.platform import Context


async def test_wrong_settings_are_refused_before_anything_opens(core: FakeCore) -> None:
    with pytest.raises(UsageError, match="memory"):
        Machine.open(memory=12345, binding=core.binding())
    with pytest.raises(UsageError, match="mystery"):
        Machine.open(mystery=1, binding=core.binding())
    with pytest.raises(UsageError, match="not both"):
        Machine.open(config=MachineConfig(), vcpus=1, binding=core.binding())
    assert core.opens == 0


@pytest.mark.parametrize("honoured", [True, False])
async def test_opening_hears_from_every_vcpu(core: FakeCore, honoured: bool) -> None:
    """CPUID faulting is switched on everywhere where it is honoured; otherwise an empty operation asks for a sign of life."""
    core.capabilities.cpuid_faulting = honoured
    async with Machine.open(vcpus=2, memory=2 << 20, binding=core.binding()) as machine:
        assert machine.capabilities.cpuid_faulting is honoured
        assert core.operated == [(0, WriteMsr.CODE if honoured else 3), (1, WriteMsr.CODE if honoured else 3)]


async def test_cancelled_opening_closes_what_the_thread_opens(core: FakeCore) -> None:
    task = asyncio.create_task(_open(core))
    await passes(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: core.closes == core.opens)


async def _open(core: FakeCore) -> Machine:
    return await Machine.open(memory=2 << 20, binding=core.binding())


@pytest.mark.every_loop
async def test_close_under_load_ends_every_switch(core: FakeCore) -> None:
    machine = await Machine.open(vcpus=2, memory=2 << 20, binding=core.binding())
    descriptors = len(os.listdir("/proc/self/fd"))
    assert machine in open_machines()
    those = contexts(machine, 20)
    tasks = switching(*those)
    await passes()
    words = those[0].space  # kept alive beside its contexts
    await asyncio.wait_for(asyncio.gather(machine.close(), machine.close()), SECONDS)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
    assert [type(result) for result in results] == [ClosedError] * 20
    await machine.close()
    assert core.closes == 1
    assert machine not in open_machines()
    assert len(os.listdir("/proc/self/fd")) < descriptors
    for use in (
        machine.create_address_space,
        machine.counters,
        machine.flight_recorder,
        lambda: machine.create_context(words),
        lambda: words.read(0x10000, 1),
        lambda: those[0].words,
        those[0].interrupt,
        lambda: machine.open_file(0),
    ):
        with pytest.raises(ClosedError):
            use()
    with pytest.raises(ClosedError):
        await those[0].switch()
    with pytest.raises(ClosedError):
        await machine.retry_in_guest(WriteMsr(1, 2))
    those[0].close()
    words.close()
    assert machine.dump() == f"machine {machine.number} CLOSED"


async def test_views_die_with_the_machine(core: FakeCore) -> None:
    machine = await Machine.open(memory=2 << 20, binding=core.binding())
    (context,) = contexts(machine, 1)
    words = context.words
    await machine.close()
    with pytest.raises(ValueError, match="released"):
        words[0]


async def test_a_thread_that_does_not_come_back(core: FakeCore) -> None:
    machine = await Machine.open(memory=2 << 20, binding=core.binding(), close_timeout_ns=2_000_000)
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    core.obedient = False
    core.close_error = errno.ETIMEDOUT
    with capture_logs() as logs, pytest.raises(InternalError) as caught:
        await asyncio.wait_for(machine.close(), SECONDS)
    assert "vCPU 0" in caught.value.dump
    assert [entry["event"] for entry in logs] == ["close_timeout"]
    with pytest.raises(ClosedError):
        await asyncio.wait_for(task, SECONDS)
    assert machine.closed


async def test_cancelling_close_does_not_stop_it(core: FakeCore) -> None:
    machine = await Machine.open(memory=2 << 20, binding=core.binding())
    task = asyncio.create_task(machine.close())
    await passes(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(machine.close(), SECONDS)
    assert core.closes == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside the executor's threads is the point here
async def test_a_forked_child_is_refused(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for use in (machine.create_address_space, lambda: context.words, lambda: context.space.read(0x10000, 1)):
                try:
                    use()
                except HostForkedError:
                    continue
                break
            else:
                code = 0 if machine.closed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not machine.closed
    await close(context)


async def test_dropped_objects_are_freed_and_reported(machine: Machine, core: FakeCore) -> None:
    live = len(core.live)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        those: list[Context] = contexts(machine, 3)
        assert len(core.live) == live + 3
        those.clear()
        gc.collect()
        await passes()
        assert [warning.category for warning in caught] == [ResourceWarning] * 3
        caught.clear()  # a warning keeps its source, and a context its space
        gc.collect()
        await passes()
        assert [warning.category for warning in caught] == [ResourceWarning]
    assert len(core.live) == live
    assert core.spaces == {}


async def test_a_space_with_contexts_cannot_be_closed(machine: Machine) -> None:
    (context,) = contexts(machine, 1)
    with pytest.raises(UsageError, match="1 contexts are attached"):
        context.space.close()
    await close(context)
    context.close()
    context.space.close()
    with pytest.raises(ClosedError):
        context.space.fork()


async def test_too_many_contexts(core: FakeCore) -> None:
    async with Machine.open(memory=2 << 20, contexts=2, binding=core.binding()) as machine:
        those = contexts(machine, 2)
        with pytest.raises(OverloadedError):
            machine.create_context(those[0].space)
        await close(*those)


async def test_an_overdue_run_is_reported_and_kicked_again(core: FakeCore) -> None:
    engine = EngineConfig(overdue_ns=1_000_000)
    async with Machine.open(memory=2 << 20, binding=core.binding(), engine=engine) as machine:
        (context,) = contexts(machine, 1)
        (task,) = switching(context)
        await passes()
        core.obedient = False
        with capture_logs() as logs:
            context.interrupt()
            await until(lambda: len(core.interrupts) >= 3)
        assert {entry["event"] for entry in logs} == {"overdue"}
        assert logs[0]["context"] == context.number
        assert logs[0]["duration_ns"] >= 1_000_000
        assert "vCPU 1" in logs[0]["dump"]
        core.interrupted(index(context), 1)
        await asyncio.wait_for(task, SECONDS)
        count = len(core.interrupts)
        await until(lambda: machine._engine._watchdog._timer is None)
        assert len(core.interrupts) == count
        core.obedient = True
        await close(context)


async def test_counters_and_dump(machine: Machine, core: FakeCore) -> None:
    those = contexts(machine, 5)
    tasks = switching(*those)
    await passes()
    counters = machine.counters()
    assert (counters.contexts, counters.in_flight, counters.waiting) == (5, 4, 1)
    assert len(counters.vcpus) == 2
    assert counters.vcpus[0].context == -1
    assert counters.memory.spaces == 1
    assert machine.flight_recorder()[1][0].rip == 0x1234
    assert "rip 0x1234" in machine.dump()
    core.akvm_vcpu_status = lambda *_: -errno.EIO  # type: ignore[method-assign]
    assert "vCPU 0: unreadable" in machine.dump()
    del core.akvm_vcpu_status  # type: ignore[method-assign]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await close(*those)


async def test_objects_of_two_machines_do_not_mix(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with Machine.open(memory=2 << 20, binding=FakeCore().binding()) as other:
        space = machine.create_address_space()
        with pytest.raises(UsageError, match="another machine"):
            other.create_context(space)
        with other.open_file(path) as file, pytest.raises(UsageError, match="another machine"):
            space.map(0x10000, 4096, Access.READ, file=file)
        space.close()
