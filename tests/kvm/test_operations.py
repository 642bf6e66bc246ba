"""Idempotent ring-0 operations: on every vCPU, beside running guests, with an end whatever happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import COUNT, RUN_SECONDS, Guest, Witness, until_counting

from asynckvm.errors import ClosedError, GuestOperationError, UsageError
from asynckvm.platform import Flush, Interrupted, InterruptReason, Nothing, ReadMsr, WriteMsr
from support import emulator

if TYPE_CHECKING:
    from asynckvm.platform import Machine

STAR, LSTAR, PAT, NO_SUCH_MSR = 0xC0000081, 0xC0000082, 0x277, 0x12345678
# Write-back wherever a guest's page tables can point: PAT's first and fifth entries (SDM vol. 3A, 12.12).
WRITE_BACK = 6


@pytest.mark.kvm_only("reads registers of ring 0")
async def test_the_set_up_is_the_same_on_every_vcpu(machine: Machine) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        star = await machine.retry_in_guest(ReadMsr(STAR), vcpu="all")
        lstar = await machine.retry_in_guest(ReadMsr(LSTAR), vcpu="all")
        pat = await machine.retry_in_guest(ReadMsr(PAT), vcpu="all")
    assert star == [0x23 << 48 | 0x10 << 32] * 2
    assert len(set(lstar)) == len(set(pat)) == 1
    assert lstar[0] >= machine.capabilities.kernel_base
    assert pat[0] & 0xFF == pat[0] >> 32 & 0xFF == WRITE_BACK


async def test_an_exception_is_an_answer(machine: Machine) -> None:
    witness = await Witness(machine).prepare()
    for vcpu in range(2):
        for operation in (ReadMsr(NO_SUCH_MSR), WriteMsr(LSTAR, 1 << 47)):
            if isinstance(operation, WriteMsr) and emulator.WRITES_ANY_LSTAR:
                continue
            async with asyncio.timeout(RUN_SECONDS):
                with pytest.raises(GuestOperationError) as error:
                    await machine.retry_in_guest(operation, vcpu=vcpu)
            assert (error.value.vcpu, error.value.attempts, error.value.vector) == (vcpu, 1, 13)
            await witness.check()


async def test_operations_reach_a_vcpu_that_a_guest_does_not_leave(machine: Machine) -> None:
    """Every vCPU is spinning; the operation is done all the same, and the spinners go on."""
    guests = [Guest(machine, COUNT) for _ in range(2)]
    tasks = [asyncio.create_task(guest.run(60)) for guest in guests]
    for guest in guests:
        await until_counting(guest)
    async with asyncio.timeout(RUN_SECONDS):
        for _ in range(10):
            for operation in (Nothing(), Flush()):
                assert await machine.retry_in_guest(operation, vcpu="all") == [0, 0]
    for guest, task in zip(guests, tasks, strict=True):
        await until_counting(guest)
        guest.context.interrupt()
        assert await task == Interrupted(InterruptReason.BOUNCED)


async def test_an_operation_behind_a_guest_that_has_not_started(small_machine: Machine) -> None:
    """Submitted while the vCPU's next guest, which never leaves by itself, still waits in the mailbox."""
    guest = Guest(small_machine, COUNT)
    for _ in range(20):
        task = asyncio.create_task(guest.run(60))
        await asyncio.sleep(0)  # its switch() has begun, and nothing more is known
        async with asyncio.timeout(RUN_SECONDS / 4):
            assert await small_machine.retry_in_guest(Nothing()) == 0
        guest.context.interrupt()
        assert await task == Interrupted(InterruptReason.BOUNCED)


@pytest.mark.kvm_only("reads registers of ring 0")
async def test_many_operations_at_once(machine: Machine) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        results = await asyncio.gather(*(machine.retry_in_guest(ReadMsr(STAR), vcpu=number % 2) for number in range(40)))
    assert set(results) == {0x23 << 48 | 0x10 << 32}


@pytest.mark.kvm_only("reads registers of ring 0")
async def test_a_cancelled_operation_leaves_the_next_one_whole(machine: Machine) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        for passes in range(30):
            task = asyncio.create_task(machine.retry_in_guest(Flush(), vcpu=passes % 2))
            for _ in range(passes % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await machine.retry_in_guest(ReadMsr(STAR), vcpu=passes % 2) == 0x23 << 48 | 0x10 << 32


async def test_what_is_no_operation_is_refused(machine: Machine) -> None:
    for bad in ({"vcpu": 2}, {"vcpu": -1}, {"attempts": 0}):
        with pytest.raises(UsageError):
            await machine.retry_in_guest(Nothing(), **bad)
    with pytest.raises(UsageError):
        await machine.retry_in_guest("hlt")
    await machine.close()
    with pytest.raises(ClosedError):
        await machine.retry_in_guest(Nothing())
