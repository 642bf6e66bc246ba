"""Records only for those who ask; abnormal ends always, once, with stable field names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching

from asynckvm.errors import GuestTrapError
from asynckvm.platform.exit_log import STREAM_RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from unit.platform.fake_core import FakeCore

    from asynckvm.platform import Context, Machine


async def run(context: Context, end: Callable[[int], None]) -> None:
    """One switch that ends as `end` says."""
    (task,) = switching(context)
    await passes()
    end(index(context))
    await asyncio.wait_for(task, SECONDS)


async def test_nothing_is_logged_unless_asked(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    with capture_logs() as logs:
        await run(context, lambda number: core.syscall(number, 1))
        await run(context, lambda number: core.fault(number, 14, 6, 0x1000, 1))
    assert logs == []
    await close(context)


async def test_chosen_exits_are_logged_with_their_fields(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    machine.log_exits(lambda record: record.exit == "fault" or record.syscall == 2)
    with capture_logs() as logs:
        await run(context, lambda number: core.syscall(number, 1))
        await run(context, lambda number: core.syscall(number, 2, 7, vcpu=1))
        await run(context, lambda number: core.fault(number, 14, 6, 0x1000, 1))
    common = {"event": "exit", "log_level": "info", "machine": machine.number, "context": context.number, "rip": 0}
    assert logs == [
        {
            **common,
            "generation": 2,
            "vcpu": 1,
            "exit": "syscall",
            "duration_ns": 1000,
            "syscall": 2,
            "args": (7, 0, 0, 0, 0, 0),
            "instruction": "SYSCALL",
        },
        {
            **common,
            "generation": 3,
            "vcpu": 1,
            "exit": "fault",
            "duration_ns": 1000,
            "vector": 14,
            "signal": 11,
            "code": 1,
            "address": 0x1000,
            "access": "WRITE",
        },
    ]
    await close(context)


async def test_a_filter_that_raises_is_switched_off(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    machine.log_exits(lambda record: bool(1 // 0))
    with capture_logs() as logs:
        await run(context, core.syscall)
        await run(context, core.syscall)
    assert [entry["event"] for entry in logs] == ["exit_filter_failed"]
    await close(context)


async def test_abnormal_ends_are_logged_once(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    machine.log_exits(lambda record: True)
    with capture_logs() as logs, pytest.raises(GuestTrapError):
        await run(context, lambda number: core.fault(number, 18))
    assert [(entry["event"], entry["error"], entry["vector"]) for entry in logs] == [("abnormal_end", "GuestTrapError", 18)]
    await close(context)


async def test_a_stream_sees_every_exit_and_ends_with_the_context(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    stream = context.exits()
    other = context.exits()
    for number in range(3):
        await run(context, lambda index_, number=number: core.syscall(index_, number))  # type: ignore[misc]
    await other.aclose()
    await close(context)
    assert [record.syscall async for record in stream] == [0, 1, 2]
    assert [record.syscall async for record in other] == [0, 1, 2]


async def test_a_slow_reader_loses_the_oldest(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    stream = context.exits()
    core.program = lambda native: core.syscall(native.index, native.generation)
    for _ in range(STREAM_RECORDS + 5):
        await context.switch()
    assert stream.dropped == 5
    assert (await anext(stream)).syscall == 6
    core.program = None
    await stream.aclose()
    await close(context)
