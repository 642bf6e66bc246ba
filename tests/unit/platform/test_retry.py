"""Idempotent operations: retried with a reason when interrupted, never beyond the bound, never when ring 0 said no."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching

from asynckvm.errors import ClosedError, GuestOperationError, HostError, InternalError, UsageError
from asynckvm.model.exits import ExitKind, Interrupted, InterruptReason
from asynckvm.platform import Flush, Nothing, ReadMsr, WriteMsr
from asynckvm.platform.decode import FAILURES

if TYPE_CHECKING:
    from unit.platform.fake_core import FakeCore

    from asynckvm.platform import Machine


async def test_values_travel_in_rcx_rdx_rax(machine: Machine, core: FakeCore) -> None:
    seen: list[tuple[int, int, int]] = []

    def ring0(context: Any) -> None:
        registers = context.registers
        seen.append((registers.rcx, registers.rdx, registers.rax))
        registers.rdx, registers.rax = 0x12345678, 0xFFFF_FFFF_9ABC_DEF0
        core.end(context.index, ExitKind.OPERATION)

    core.program = ring0
    assert await machine.retry_in_guest(ReadMsr(0xC000_0082)) == 0x1234_5678_9ABC_DEF0
    assert await machine.retry_in_guest(WriteMsr(0x140, 0xA_0000_000B), vcpu=1) == 0
    assert await machine.retry_in_guest(Flush(), vcpu="all") == [0, 0]
    assert seen[:2] == [(0xC000_0082, 0, 0), (0x140, 0xA, 0xB)]
    assert core.operated == [(0, 0), (1, 1), (0, 2), (1, 2)]


async def test_interrupted_operations_run_again(machine: Machine, core: FakeCore) -> None:
    left = 3

    def ring0(context: Any) -> None:
        nonlocal left
        left -= 1
        if left:
            core.interrupted(context.index, int(InterruptReason.SHOOTDOWN))
        else:
            core.end(context.index, ExitKind.OPERATION)

    core.program = ring0
    with capture_logs() as logs:
        assert await machine.retry_in_guest(Nothing(), vcpu=1) == 0
    assert [(entry["event"], entry["attempt"], entry["reason"], entry["vcpu"]) for entry in logs] == [
        ("retry", 1, "SHOOTDOWN", 1),
        ("retry", 2, "SHOOTDOWN", 1),
    ]


async def test_the_bound_holds(machine: Machine, core: FakeCore) -> None:
    core.program = lambda context: core.interrupted(context.index, 1)
    with pytest.raises(GuestOperationError) as caught:
        await machine.retry_in_guest(Nothing(), attempts=3)
    assert (caught.value.attempts, caught.value.vector) == (3, None)
    assert len(core.operated) == 3


async def test_an_exception_is_an_answer(machine: Machine, core: FakeCore) -> None:
    core.program = lambda context: core.end(context.index, ExitKind.OPERATION, vector=13, detail=1, host_errno=14)
    with pytest.raises(GuestOperationError) as caught:
        await machine.retry_in_guest(ReadMsr(0x1234))
    assert (caught.value.attempts, caught.value.vector) == (1, 13)
    core.program = lambda context: core.end(context.index, ExitKind.ERROR, detail=2)
    with pytest.raises(InternalError):
        await machine.retry_in_guest(ReadMsr(0x1234))


@pytest.mark.parametrize(("code", "hint"), [(errno.ENOMEM, "memory="), (errno.EAGAIN, "pids.max")])
async def test_what_the_host_has_no_more_of(machine: Machine, core: FakeCore, code: int, hint: str) -> None:
    """Its own errno, however the core wrote its sign, and no defect of ours."""
    host_call = FAILURES.index("host call failed")
    for number in (code, -code):
        core.program = lambda context: core.end(context.index, ExitKind.ERROR, detail=host_call, host_errno=number)  # noqa: B023
        with pytest.raises(HostError, match=hint) as caught:
            await machine.retry_in_guest(Nothing())
        assert caught.value.errno == code


async def test_wrong_arguments(machine: Machine) -> None:
    for operation, vcpu, attempts in ((None, 0, 1), (Nothing(), 2, 1), (Nothing(), -1, 1), (Nothing(), 0, 0)):
        with pytest.raises(UsageError):
            await machine.retry_in_guest(operation, vcpu, attempts)  # type: ignore[arg-type]


async def test_an_operation_makes_a_spinner_leave(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    core.status(0, index(context))
    await machine.retry_in_guest(Nothing(), vcpu=0)
    assert await asyncio.wait_for(task, SECONDS) == Interrupted(InterruptReason.PREEMPTED)
    await close(context)


async def test_a_cancelled_operation_holds_its_place_until_it_is_back(machine: Machine, core: FakeCore) -> None:
    held: list[int] = []
    core.obedient = False
    core.program = lambda context: held.append(context.index)
    task = asyncio.create_task(machine.retry_in_guest(Nothing()))
    await passes()
    task.cancel()
    following = asyncio.create_task(machine.retry_in_guest(Nothing()))
    await passes()
    assert not task.done()
    core.program = lambda context: core.end(context.index, ExitKind.OPERATION)
    core.interrupted(held[0], 4)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), SECONDS)
    assert await asyncio.wait_for(following, SECONDS) == 0


async def test_closing_ends_an_operation(machine: Machine, core: FakeCore) -> None:
    core.program = lambda context: None
    task = asyncio.create_task(machine.retry_in_guest(Nothing()))
    await passes()
    await asyncio.wait_for(machine.close(), SECONDS)
    with pytest.raises(ClosedError):
        await task
