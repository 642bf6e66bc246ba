"""Guests that attack by segments and modes: selectors, far transfers, compatibility mode, wild return addresses, MOV SS.

The same rule as in test_hostile.py: they only hurt themselves, and the next guest on the same vCPU works.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from kvm.arena import KERNEL_BASE, NOT_CANONICAL, SHORT, SYSCALL_ENTRY, TEXT, VCPU_AREA, Arena
from kvm.guestcode import ALL_ONES, CODE, DATA, EXECUTE, READ, WRITE, assemble

from asynckvm.platform import Fault, Interrupted, Syscall
from support import emulator
from support.pace import PACE

if TYPE_CHECKING:
    from asynckvm.platform import Machine, Restore

# On a slow machine those that have a descriptor here or in the kernels beside us.
SELECTORS = [*range(0x100 if PACE == 1 else 0x48), 0x1000, 0x7FFF, 0xFFFB, 0xFFFF]


@pytest.mark.parametrize("register", ["ds", "es", "fs", "gs", "ss"])
async def test_loads_of_every_selector(small_machine: Machine, restore: Restore, register: str) -> None:
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load(f"movl %edi, %eax; movw %ax, %{register}; syscall; movw %{register}, %ax; int3")
    loaded = []
    for selector in SELECTORS:
        exit_ = await arena.attack(rdi=selector)
        if isinstance(exit_, Fault):
            assert exit_.vector in (10, 11, 12, 13), (selector, exit_)
            continue
        loaded.append(selector)
        again = await arena.go_on()
        assert isinstance(again, Fault), again
        assert again.vector == 3
        await arena.witness.check()
    assert 0x2B in loaded
    assert not {0x10, 0x18, 0x40} & set(loaded), "a kernel segment"


FAR = {
    "far jump": "movq %rdi, (%rbx); movl %esi, 8(%rbx); rex.w ljmp *(%rbx)",
    "far call": "movq %rdi, (%rbx); movl %esi, 8(%rbx); rex.w lcall *(%rbx)",
    "far return": "push %rsi; push %rdi; lretq",
    "iretq": "pushq $0x2b; pushq %rsp; pushq $0x202; push %rsi; push %rdi; iretq",
    "iretq with stack selector": "push %rsi; pushq %rsp; pushq $0x202; pushq $0x33; push %rdi; iretq",
    "iretd": "subq $12, %rsp; movl %edi, (%rsp); movl %esi, 4(%rsp); movl $0x202, 8(%rsp); iretl",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", FAR)
async def test_far_transfers_to_every_selector(small_machine: Machine, how: str) -> None:
    """To code of ours, at an address both 32-bit and 64-bit code can have; there it makes system calls of all kinds."""
    arena = await Arena(small_machine, patience=SHORT).prepare()
    landing = CODE + 0x800
    # In 64-bit code this is: system call, then int3. In 32-bit code: the same bytes.
    arena.attacker.load(FAR[how])
    for selector in [*SELECTORS, *(random.Random(8).getrandbits(16) for _ in range(32 // PACE))]:
        for bytes_ in (b"\x0f\x05\xcc", b"\xcd\x80\xcc", b"\x0f\x34\xcc", b"\x90\xeb\xfe"):
            arena.attacker.space.write(landing, bytes_, force=True)
            exit_ = await arena.attack(rdi=landing, rsi=selector, rbx=DATA)
            if isinstance(exit_, Interrupted):
                # Spins there, in whatever mode; it can be run again.
                await arena.go_on()
            if selector >> 3 != 6 or selector >> 2 & 1:
                break


async def test_no_way_into_ring_0_by_compatibility_mode(small_machine: Machine) -> None:
    """32-bit code, should a host let a guest get there, whose SYSCALL may lose the upper half of the entry's address: what the
    guest has mapped at the lower half must not run in ring 0."""
    arena = await Arena(small_machine, patience=SHORT).prepare()
    landing = CODE + 0x800
    space = arena.attacker.space
    # Reads CR3, which only ring 0 can, and tells.
    tell = assemble(f"movq %cr3, %rax; movq %rax, {DATA:#x}; movw %cs, %bx; movw %bx, {DATA + 8:#x}; 1: jmp 1b")
    for entry in (SYSCALL_ENTRY, TEXT, KERNEL_BASE, VCPU_AREA):
        low = entry & 0xFFFFF000
        if low >= 0x10000:
            space.map(low, 0x1000, READ | WRITE | EXECUTE)
            space.write(low, tell.rjust(0x1000, b"\x90"), force=True)
    space.write(landing, b"\x0f\x05" * 4, force=True)
    for how, code in FAR.items():
        for selector in (0x08, 0x0B, 0x10, 0x18, 0x20, 0x23, 0x28, 0x2B, 0x30, 0x33, 0x38, 0x3B):
            space.write(DATA, bytes(16))  # there, so that nothing faults on it
            try:
                exit_ = await arena.attack(code, rdi=landing, rsi=selector, rbx=DATA + 4096)
            finally:
                assert space.read(DATA, 16) == bytes(16), f"{how} to {selector:#x} ran the guest's own code in ring 0"
            assert isinstance(exit_, Fault | Syscall)


@pytest.mark.parametrize("answered", [False, True])
async def test_jumps_to_the_system_call_entry(small_machine: Machine, answered: bool) -> None:
    """With any RCX and R11, which the entry takes for RIP and RFLAGS; also when the call is answered without Python."""
    source = random.Random(10)
    arena = await Arena(small_machine, patience=SHORT).prepare()
    arena.attacker.load("jmp *%rdi")
    if answered:
        arena.attacker.context.answers = {7: 1}
    wild = [source.getrandbits(64) for _ in range(50)]
    for address in [*NOT_CANONICAL, KERNEL_BASE, TEXT, SYSCALL_ENTRY, CODE, 0, *wild]:
        for flags in (0x202, source.getrandbits(64)):
            await arena.attack(rdi=SYSCALL_ENTRY, rcx=address, r11=flags, rax=7)
            await arena.go_on()


LEAPS = {
    "ret": "push %rdi; ret",
    "jmp": "jmp *%rdi",
    "call": "call *%rdi",
    "iretq": "pushq $0x2b; pushq %rsp; pushq $0x202; pushq $0x33; push %rdi; iretq",
    "sysretq": "movq %rdi, %rcx; movl $0x202, %r11d; sysretq",
    "lretq": "pushq $0x33; push %rdi; lretq",
}


@pytest.mark.parametrize("how", LEAPS)
async def test_leaps_to_non_canonical_addresses(small_machine: Machine, restore: Restore, how: str) -> None:
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load(LEAPS[how])
    for address in NOT_CANONICAL:
        exit_ = await arena.attack(rdi=address)
        assert isinstance(exit_, Fault), (hex(address), exit_)
        if emulator.POPS_AS_RING_0 and how in ("iretq", "lretq"):
            assert exit_.vector == 14, exit_  # SMAP keeps it off the stack
            continue
        # A host that emulates what got #GP may not know the instruction.
        assert exit_.vector in ((6, 12, 13) if small_machine.capabilities.syscall_as_fault else (12, 13)), exit_
    # The last bytes of the lower half, where the next instruction would be non-canonical.
    exit_ = await arena.attack(rdi=0x7FFFFFFFFFFE)
    assert isinstance(exit_, Fault)
    assert exit_.vector in (13, 14)


IRET_FLAGS = [0, 0x3002, 0x20002, 0x4002, 0x102, 0x10002, 0x180002, 0x40002, 0x200002, ALL_ONES, 0x80000000_00000202]


async def test_iretq_in_ring_3(small_machine: Machine, restore: Restore) -> None:
    """What ring 3 may do with IRETQ: jump with flags. IOPL, VM and IF stay what they were."""
    arena = await Arena(small_machine, restore).prepare()
    frame = "movq %rsp, %rax; pushq $0x2b; push %rax; push %rdi; pushq $0x33; leaq 1f(%rip), %rax; push %rax"
    arena.attacker.load(f"{frame}; iretq; 1: pushfq; pop %rbx; syscall")
    for flags in IRET_FLAGS:
        exit_ = await arena.attack(rdi=flags)
        for _ in range(6):
            if not (isinstance(exit_, Fault) and exit_.vector == 1):
                break
            exit_ = await arena.go_on()
        assert isinstance(exit_, (Syscall, Fault)), (hex(flags), exit_)
        if isinstance(exit_, Syscall):
            assert arena.attacker["rbx"] & 0x3000 == 0
            assert arena.attacker["rbx"] & 0x200


AFTER_MOV_SS = [
    "int3", ".byte 0xf1", "syscall", "int $0x80", "ud2", "hlt", "movq 0, %rax", "jmp .", "pushq $0x302; popfq; nop", "iretq",
]  # fmt: skip


@pytest.mark.parametrize("stepping", [False, True])
async def test_events_in_the_shadow_of_mov_ss(small_machine: Machine, restore: Restore, stepping: bool) -> None:
    arena = await Arena(small_machine, restore, patience=SHORT).prepare()
    step = "pushfq; orl $0x100, (%rsp); popfq; " if stepping else ""
    for load in ("movl $0x2b, %eax; movw %ax, %ss", "pushq $0x2b; popq %rax; movw %ax, %ss; movw %ax, %ss"):
        for then in AFTER_MOV_SS:
            exit_ = await arena.attack(f"{step}{load}; {then}; int3")
            for _ in range(12):
                if not (isinstance(exit_, Fault) and exit_.vector == 1 and stepping):
                    break
                exit_ = await arena.go_on()


async def test_selectors_of_another_privilege_do_not_keep_a_guest_from_going_on(small_machine: Machine) -> None:
    """Null selectors and data segments may be loaded with any RPL."""
    arena = await Arena(small_machine).prepare()
    arena.attacker.load("movl %edi, %eax; movw %ax, %ds; movw %ax, %es; movw %ax, %fs; movw %ax, %gs; syscall; syscall; int3")
    for selector in (1, 2, 3, 0x28, 0x29, 0x2A):
        assert isinstance(await arena.attack(rdi=selector), Syscall)
        assert isinstance(await arena.go_on(), Syscall)
        exit_ = await arena.go_on()
        assert isinstance(exit_, Fault)
        assert exit_.vector == 3


async def test_registers_after_32_bit_code(small_machine: Machine) -> None:
    """Where a host lets a guest get there, what it is given next is given to 64-bit code."""
    arena = await Arena(small_machine, patience=SHORT).prepare()
    landing = CODE + 0x800
    arena.attacker.load(FAR["far return"])
    arena.attacker.space.write(landing, b"\x90\xcd\x80\xcc", force=True)
    arena.attacker.space.write(landing + 0x100, assemble("rdfsbase %rax; rdgsbase %rbx; syscall"), force=True)
    for base in (0, 0xFFFF800000000000):
        for flags in (0x202, 0x200202):
            await arena.attack(rdi=landing, rsi=0x23)
            exit_ = await arena.attack(rip=landing + 0x100, fs_base=base, gs_base=base, rflags=flags)
            assert isinstance(exit_, Syscall)
            assert arena.attacker["rax"] == arena.attacker["rbx"] == base
            assert arena.attacker["rflags"] & 0x200000 == flags & 0x200000


@pytest.mark.parametrize("entry", [b"\x0f\x05", b"\x0f\x34", b"\xcd\x80"])
async def test_system_calls_of_32_bit_code_tell_no_address_of_the_host(small_machine: Machine, entry: bytes) -> None:
    arena = await Arena(small_machine, patience=SHORT).prepare()
    landing = CODE + 0x800
    arena.attacker.load(FAR["far return"])
    arena.attacker.space.write(landing, entry + b"\xcc", force=True)
    exit_ = await arena.attack(rdi=landing, rsi=0x23)
    assert isinstance(exit_, Fault)
    assert CODE <= arena.attacker["rip"] < CODE + 0x1000


@pytest.mark.parametrize("stack", [0x7FFFFFFF2100, 0x7FFFFFFF2000, 0x7FFFFFFF8000, 0x7FFFFFFFE000])
@pytest.mark.parametrize(("code", "vector"), [("ud2", 6), ("int3", 3), ("hlt", 13), ("movl $1, %eax; movw %ax, %ds; ud2", 6)])
async def test_faults_with_the_stack_at_the_end_of_user_space(small_machine: Machine, stack: int, code: str, vector: int) -> None:
    """There may be something of the platform's; a guest is told its fault all the same, and again."""
    arena = await Arena(small_machine).prepare()
    for _ in range(3):
        exit_ = await arena.attack(code, rsp=stack)
        assert isinstance(exit_, Fault)
        assert exit_.vector == vector
        assert arena.attacker["rsp"] == stack
