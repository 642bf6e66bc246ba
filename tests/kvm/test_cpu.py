"""What the processor tells a guest, on every vCPU: time stamps and CPUID."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import READ, WRITE, Guest, assemble

from asynckvm.model.exits import Syscall
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.platform import Machine, Restore

READ_CLOCK = "lfence; rdtsc; shlq $32, %rdx; orq %rdx, %rax; lfence"
# CPUID of the leaf in EBP, subleaf in R9D (ECX is lost on the way in by SYSRET); EAX goes to RSI, ECX to RDI.
CPUID = "1: movl %ebp, %eax; movl %r9d, %ecx; cpuid; movq %rax, %rsi; movq %rcx, %rdi; xorl %eax, %eax; syscall; jmp 1b"
SECONDS = paced(30)


@pytest.fixture(scope="module")
def host_clock() -> Iterator[Callable[[], int]]:
    """The host's time-stamp counter, read by the same instruction in this process."""
    code = assemble(READ_CLOCK + "; ret")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    yield ctypes.CFUNCTYPE(ctypes.c_uint64)(address)


Answers = list[tuple[int, ...]]


async def on_every_vcpu(machine: Machine, restore: Restore, rounds: int, **registers: int) -> dict[int, Answers]:
    """RSI (EAX), RBX, RDI (ECX), RDX of CPUID, by the vCPU they were read on; enough guests at once to keep all busy."""
    guests = [Guest(machine, CPUID, restore=restore) for _ in range(4)]
    found: dict[int, Answers] = {}
    async with asyncio.timeout(SECONDS):
        while len(found) < 2 or min(map(len, found.values())) < rounds:
            for guest in guests:
                guest.go(**registers)
            ends = await asyncio.gather(*(guest.run_somewhere() for guest in guests))
            for guest, (exit_, vcpu) in zip(guests, ends, strict=True):
                assert isinstance(exit_, Syscall), exit_
                found.setdefault(vcpu, []).append(tuple(guest[name] for name in ("rsi", "rbx", "rdi", "rdx")))
    for guest in guests:
        guest.close()
    return found


async def test_rdtsc_lies_between_two_readings_of_the_host(
    machine: Machine, restore: Restore, host_clock: Callable[[], int]
) -> None:
    if not machine.capabilities.tsc_offset_exact:
        pytest.skip("this KVM sets no exact TSC offset")
    guests = [Guest(machine, f"1: {READ_CLOCK}; movq %rax, %rbx; syscall; jmp 1b", restore=restore) for _ in range(4)]
    seen: dict[int, int] = {}

    async def measure(guest: Guest) -> None:
        before = host_clock()
        exit_, vcpu = await guest.run_somewhere()
        after = host_clock()
        assert isinstance(exit_, Syscall), exit_
        assert before <= guest["rbx"] <= after
        seen[vcpu] = seen.get(vcpu, 0) + 1

    async with asyncio.timeout(SECONDS):
        while len(seen) < 2 or min(seen.values()) < 100:
            await asyncio.gather(*(measure(guest) for guest in guests))


async def test_cpuid_offers_no_virtualization_on_any_vcpu(machine: Machine, restore: Restore) -> None:
    """Where CPUID faults (or KVM answers it), no VMX and no SVM."""
    if not machine.capabilities.cpuid_faulting and machine.capabilities.kvm_module == "kvm_pvm":
        pytest.skip("CPUID is native in ring 3 here, whatever KVM was told")
    for leaf, bit in ((1, 5), (0x8000_0001, 2)):
        for vcpu, answers in (await on_every_vcpu(machine, restore, 3, rbp=leaf)).items():
            assert not any(answer[2] >> bit & 1 for answer in answers), f"leaf {leaf:#x} on vCPU {vcpu}"


async def test_cpuid_is_the_same_on_every_vcpu(machine: Machine, restore: Restore) -> None:
    """Vendor, features and XSAVE areas; the APIC id, which may differ, is left out."""
    for leaf, subleaf in ((0, 0), (1, 0), (7, 0), (0xD, 0), (0x8000_0001, 0)):
        found = await on_every_vcpu(machine, restore, 3, rbp=leaf, r9=subleaf)
        answers = {answer for answers in found.values() for answer in answers}
        assert all(value >> 32 == 0 for answer in answers for value in answer)
        if leaf == 1:
            answers = {(eax, ebx & 0xFFFFFF, ecx, edx) for eax, ebx, ecx, edx in answers}
        assert len(answers) == 1, f"leaf {leaf:#x}"
        assert any(answers.pop())


async def test_cpuid_and_xgetbv_agree(machine: Machine, restore: Restore) -> None:
    """A program that checks OSXSAVE before XGETBV, as the manual asks for, finds what it may use."""
    guest = Guest(machine, CPUID, restore=restore, rbp=1)
    assert isinstance(await guest.run(), Syscall)
    if not guest["rdi"] >> 27 & 1:
        pytest.skip("no OSXSAVE")
    guest.load("xorl %ecx, %ecx; xgetbv; movl %eax, %ebx; xorl %eax, %eax; syscall").go()
    assert isinstance(await guest.run(), Syscall)
    enabled = guest["rbx"]
    assert enabled == machine.capabilities.xcr0
    guest.load(CPUID).go(rbp=0xD)
    assert isinstance(await guest.run(), Syscall)
    assert enabled & ~guest["rsi"] == 0, "XCR0 has what CPUID does not offer"


async def test_cpuid_in_a_loop_beside_mapping_changes(machine: Machine) -> None:
    """An answer given on the vCPU thread holds nothing that a change of the space waits for."""
    guest = Guest(machine, "1: xorl %eax, %eax; cpuid; decq %r8; jnz 1b; syscall", r8=2000)
    running = asyncio.create_task(guest.run())
    changes = 0
    while not running.done() or changes < 50:
        guest.space.map(0x5000_0000, 0x10000, READ | WRITE)
        guest.space.write(0x5000_0000, b"x" * 0x10000)
        guest.space.unmap(0x5000_0000, 0x10000)
        changes += 1
        await asyncio.sleep(0)
    assert isinstance(await running, Syscall)
