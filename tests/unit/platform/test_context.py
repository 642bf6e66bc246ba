"""Registers, FP state, answers, weights and the checks before entry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from unit.platform.fake_core import XSAVE_BYTES, FakeCore
from unit.platform.helpers import SECONDS, close, contexts, index, passes, switching

from asynckvm.errors import GuestTrapError, InternalError, OutOfMemoryError, UsageError
from asynckvm.model.exits import Fault
from asynckvm.model.memory import Access
from asynckvm.platform import Priority, RegisterIndex, Registers, Restore

if TYPE_CHECKING:
    from asynckvm.platform import Machine

# FP status in the XSAVE image: FCW, FSW, MXCSR.
DIVIDE_X87 = (0x37B).to_bytes(2, "little") + (0x04).to_bytes(2, "little")


async def test_registers_are_shared_with_the_core(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    values = Registers(**{name: position + 1 for position, name in enumerate(Registers.__slots__)})
    context.registers = values
    assert context.registers == values
    native = core.live[index(context)]
    assert (native.registers.rax, native.registers.rflags, native.fs_base, native.gs_base) == (1, 18, 19, 20)
    context.words[RegisterIndex.gs_base] = 77
    assert native.gs_base == 77
    context.registers = values.replace(rax=-1)
    assert context.registers.rax == (1 << 64) - 1
    await close(context)


async def test_state_beside_the_registers(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    image = bytes(range(64)) * (XSAVE_BYTES // 64)
    context.xsave = image
    assert context.xsave == image
    with pytest.raises(UsageError):
        context.xsave = b"short"
    context.restore = Restore.PARTIAL
    assert core.live[index(context)].restore == 2
    context.answers = {39: 1, 102: 0}
    assert list(core.answers.values()) == [{39: 1, 102: 0}]
    with pytest.raises(UsageError):
        context.answers = {512: 0}
    context.answers = {}
    assert core.answers == {}
    context.weight, context.priority = 2.0, Priority.HIGH
    assert (context.weight, context.priority) == (2.0, Priority.HIGH)
    with pytest.raises(UsageError):
        context.weight = 0
    with pytest.raises(UsageError):
        context.priority = 9  # type: ignore[assignment]
    await close(context)


@pytest.mark.parametrize(("name", "signal"), [("rip", 11), ("rsp", 7), ("fs_base", 7), ("gs_base", 7)])
async def test_non_canonical_registers_never_enter(machine: Machine, core: FakeCore, name: str, signal: int) -> None:
    (context,) = contexts(machine, 1)
    context.registers = Registers(**{name: 1 << 47})
    assert await context.switch() == Fault(signal, 0x80, 1 << 47, Access.NONE, -1, 0)
    assert core.order == []
    for canonical in ((1 << 47) - 1, (1 << 64) - (1 << 47)):
        context.registers = Registers(**{name: canonical})
        (task,) = switching(context)
        await passes()
        core.syscall(index(context))
        await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_exits_that_end_a_guest_are_typed_errors(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    for fields, kind in (
        ({"kind": 2, "vector": 8}, GuestTrapError),
        ({"kind": 5, "detail": 1, "host_errno": 12}, OutOfMemoryError),
        ({"kind": 5, "detail": 2, "kvm_exit_reason": 17}, InternalError),
        ({"kind": 5, "detail": 99, "host_errno": -5}, InternalError),
        ({"kind": 0}, InternalError),
    ):
        (task,) = switching(context)
        await passes()
        core.end(index(context), **fields)  # type: ignore[arg-type]
        with pytest.raises(kind):
            await asyncio.wait_for(task, SECONDS)
    await close(context)


async def test_float_faults_are_decoded_from_the_image(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    core.xsave[0:4] = DIVIDE_X87
    core.xsave[24:28] = (0x1F80 & ~(0x08 << 7) | 0x08).to_bytes(4, "little")
    context.registers = Registers(rip=0x4000)
    for vector, code in ((16, 3), (19, 4)):
        (task,) = switching(context)
        await passes()
        core.fault(index(context), vector)
        assert await asyncio.wait_for(task, SECONDS) == Fault(8, code, 0x4000, Access.NONE, vector, 0)
    await close(context)


async def test_counters(machine: Machine, core: FakeCore) -> None:
    (context,) = contexts(machine, 1)
    (task,) = switching(context)
    await passes()
    core.syscall(index(context), ran_ns=500)
    await asyncio.wait_for(task, SECONDS)
    assert context.counters == (1, 0, 500)
    await close(context)
