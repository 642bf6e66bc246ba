"""Guests that attack: whatever ring 3 executes only ever hurts itself, and the next guest on the same vCPU works.

Instructions, addresses, stacks and flags; segments and ways into other modes are in test_hostile_segments.py.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from kvm.arena import KERNEL_BASE, SHORT, SYSCALL_ENTRY, TABLES_WINDOW, TEXT, TEXT_BYTES, VCPU_AREA, VCPU_BYTES, Arena
from kvm.guestcode import (
    ALL_ONES,
    CODE,
    CODE_BYTES,
    DATA,
    DATA_BYTES,
    EXECUTE,
    GENERAL,
    READ,
    STACK_TOP,
    WRITE,
    Guest,
    Witness,
    keep,
)  # fmt: skip

from asynckvm.platform import USER_MAX, Fault, ReadMsr, Restore, Syscall
from support import emulator
from support.pace import PACE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.platform import Machine

SLOT = 16


# A KVM that emulates ring 0 may keep some INT n as hypercalls of its own (CPUID, RDMSR and WRMSR, checked for ring 0).
HYPERCALLS = (0x17, 0x19, 0x1A)
LSTAR = 0xC0000082


async def test_every_software_interrupt(small_machine: Machine, restore: Restore) -> None:
    """`int n`: 3, 4 and 0x80 have gates for ring 3; every other n is #GP with the gate's number."""
    arena = await Arena(small_machine, restore).prepare()
    emulated = small_machine.capabilities.int80_as_ud
    for n in range(256):
        exit_ = await arena.attack(bytes([0xCD, n, 0x0F, 0x0B]), rcx=LSTAR, rax=0x12345)
        if n == 0x80:
            assert isinstance(exit_, Syscall), exit_
            continue
        assert isinstance(exit_, Fault), (n, exit_)
        if n in (3, 4):
            assert exit_.vector == n
        elif not (emulated and n in HYPERCALLS):
            assert (exit_.vector, exit_.signal, exit_.code, exit_.address) == (13, 11, 0x80, 0), n
            counted = n * 16 if emulator.INT_COUNTS_TWICE else n * 8
            assert (exit_.error_code, arena.attacker["rip"]) == (counted + 2, CODE), n


@pytest.mark.kvm_only("reads registers of ring 0")
async def test_no_software_interrupt_changes_a_register_of_ring_0(small_machine: Machine, restore: Restore) -> None:
    arena = await Arena(small_machine, restore).prepare()
    entry = await small_machine.retry_in_guest(ReadMsr(LSTAR))
    for n in range(256):
        await arena.attack(bytes([0xCD, n, 0x0F, 0x0B]), rcx=LSTAR, rax=0x12345)
    assert await small_machine.retry_in_guest(ReadMsr(LSTAR)) == entry


PRIVILEGED = """
    hlt; cli; sti; clts; invd; wbinvd; rdmsr; wrmsr; swapgs; sysretq; sysretl; sysexitq; xsetbv; lgdt (%rdi); lidt (%rdi);
    lldt %ax; ltr %ax; lmsw %ax; invlpg (%rdi); invpcid (%rdi), %rax; monitor; mwait; rdpmc; inb $0x60, %al; inl %dx, %eax;
    outb %al, $0x60; outl %eax, %dx; insb; insl; outsb; outsl; rep insb; rep outsb; vmrun; vmload; vmsave; stgi; clgi;
    skinit; invlpga; vmxoff; vmlaunch; vmresume; vmxon (%rdi); vmclear (%rdi); vmptrld (%rdi); vmread %rax, %rbx; vmwrite
    %rax, %rbx; invept (%rdi), %rax; invvpid (%rdi), %rax; xsaves (%rdi); xrstors (%rdi); rsm; sysenter; clac; stac; getsec;
    encls; encodekey128 %eax, %eax; serialize; wbnoinvd; sgdt (%rdi); sidt (%rdi); sldt %eax; str %eax; smsw %eax; rdpkru;
    wrpkru; enclu; vmcall; vmmcall; vmfunc; rdtsc; rdtscp; rdpid %rax; rdrand %rax; rdseed %rax; xgetbv; cpuid; pause;
    lfence; mfence; clflush (%rdi); clzero; verr %ax; verw %ax; lar %ax, %eax; lsl %ax, %eax; ud1 %eax, %eax; ud2; int1;
    int3; prefetchw (%rdi); umwait %eax; tpause %eax; umonitor %rax; incsspq %rax; setssbsy; saveprevssp; rstorssp (%rdi);
    clrssbsy (%rdi); xbegin .+6; xend; xtest; xabort $1; bndmk (%rax), %bnd0; pconfig; hreset $0; uiret; clui; stui; testui
""".replace("\n", " ").split(";")
MOVES = [
    *(f"movq %cr{n}, %rax" for n in (0, 2, 3, 4, 8)), *(f"movq %rax, %cr{n}" for n in (0, 2, 3, 4, 8)),
    *(f"movq %dr{n}, %rax" for n in range(8)), *(f"movq %rax, %dr{n}" for n in range(8)),
]  # fmt: skip
PORTS = [
    "inb $0x60, %al", "inl %dx, %eax", "outb %al, $0x60", "outl %eax, %dx", "insb", "insl", "outsb", "outsl",
    "rep insb", "rep outsb",
]  # fmt: skip
# These, the moves above and the ports must fault; what the rest does is the processor's affair.
OUTLAWS = {"hlt", "cli", "sti", "clts", "invd", "rdmsr", "wrmsr", "swapgs", "xsetbv", *MOVES, *PORTS}


@pytest.mark.parametrize("shape", ["plain", "random registers"])
async def test_every_privileged_and_odd_instruction(small_machine: Machine, restore: Restore, shape: str) -> None:
    arena = await Arena(small_machine, restore, patience=SHORT).prepare()
    source = random.Random(4)
    for text in [*map(str.strip, PRIVILEGED), *MOVES, *PORTS]:
        registers = {} if shape == "plain" else {name: source.getrandbits(64) for name in GENERAL if name not in ("rsp", "rdi")}
        exit_ = await arena.attack(f"{text}; int3", rdi=DATA, **registers)
        if text in OUTLAWS:
            assert isinstance(exit_, Fault), (text, exit_)
            assert exit_.vector in (6, 13), (text, exit_)


async def test_every_two_byte_opcode(small_machine: Machine) -> None:
    """0F xx with the operand prefixes, and the three-byte maps: whatever the decoder makes of them."""
    arena = await Arena(small_machine, patience=SHORT).prepare()
    for prefix in (b"", b"\x66", b"\xf2", b"\xf3", b"\x48"):
        for opcode in range(256):
            if opcode == 0x05:
                continue
            await arena.attack(prefix + bytes([0x0F, opcode, 0x00, 0xCC, 0xCC, 0xCC, 0xCC]), rax=DATA, rdi=DATA)


@pytest.mark.parametrize("seed", range(4))
async def test_random_bytes(small_machine: Machine, seed: int) -> None:
    """Random code with random registers; what it may do to itself, its data and its stack is its own affair."""
    source = random.Random(seed)
    arena = await Arena(small_machine, access=READ | WRITE | EXECUTE, patience=SHORT).prepare()
    for _ in range(max(50, 250 // PACE)):
        registers = {name: source.choice((DATA + 4096, source.getrandbits(64), source.getrandbits(16))) for name in GENERAL}
        registers["rsp"] = source.choice((STACK_TOP - 64, DATA + 8192))
        await arena.attack(source.randbytes(64).ljust(80, b"\xcc"), **registers)


def kernel_places() -> Iterable[int]:
    """Every slot of the kernel image of a machine with one vCPU and the page after it, then samples of the kernel half.

    On a slow machine as many fewer, with every page among them."""
    end = VCPU_AREA + VCPU_BYTES + 0x1000
    yield from range(KERNEL_BASE, end, min(SLOT * PACE, 4096))
    yield from range(TABLES_WINDOW, TABLES_WINDOW + 64 * 4096, min(512 * PACE, 4096))
    source = random.Random(5)
    for _ in range(200 // PACE):
        yield TABLES_WINDOW + source.randrange(1 << 39) & ~7
        yield 0xFFFF_8000_0000_0000 + source.randrange(1 << 47) & ~7
    yield from (0xFFFF_8000_0000_0000, ALL_ONES & ~7, KERNEL_BASE - 8, KERNEL_BASE + 0x200000, 0xFFFFFFFFFF600000)


KERNEL_ATTACKS = {
    "load": ("movq (%rdi), %rax; int3", READ),
    "store": ("movq %rax, (%rdi); int3", WRITE),
    "jump": ("jmp *%rdi", EXECUTE),
}


def is_system_call(arena: Arena, address: int, exit_: object) -> bool:
    """Where SYSCALL arrives as a fetch fault at its entry, a jump there cannot be told from it: it is one, with RCX as RIP."""
    return arena.machine.capabilities.syscall_as_fault and address == SYSCALL_ENTRY and isinstance(exit_, Syscall)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", KERNEL_ATTACKS)
async def test_the_kernel_half_is_closed(small_machine: Machine, how: str) -> None:
    """SIGSEGV, SEGV_MAPERR at the very address: a guest cannot even tell what is mapped there."""
    code, access = KERNEL_ATTACKS[how]
    arena = await Arena(small_machine).prepare()
    arena.attacker.load(code)
    for address in kernel_places():
        exit_ = await arena.attack(rdi=address, rax=ALL_ONES)
        if is_system_call(arena, address, exit_) and how == "jump":
            continue
        assert isinstance(exit_, Fault), (hex(address), exit_)
        assert (exit_.signal, exit_.code, exit_.address, exit_.access) == (11, 1, address, access), (hex(address), exit_)
        assert arena.attacker["rip"] == (address if access == EXECUTE else CODE)


@pytest.mark.parametrize("register", ["rip", "rsp"])
async def test_kernel_addresses_in_the_host_s_registers(small_machine: Machine, restore: Restore, register: str) -> None:
    """The same from outside: a context whose RIP or RSP points into the kernel half."""
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load("push %rax; syscall")
    for address in [TEXT + n for n in range(0, TEXT_BYTES, SLOT)] + [VCPU_AREA + n for n in range(0, VCPU_BYTES, 64)]:
        exit_ = await arena.attack(**{register: address})
        if is_system_call(arena, address, exit_) and register == "rip":
            continue
        assert isinstance(exit_, Fault), (hex(address), exit_)
        assert (exit_.signal, exit_.vector) == (11, 14)
        assert exit_.address == (address if register == "rip" else address - 8)


WILD_STACKS = [
    0, 1, 7, 8, 0x7FFFFFFFFFFF, 0x800000000000, 0x800000000008, 0xFFFF7FFFFFFFFFFF, 0xFFFF800000000000, 1 << 63, ALL_ONES,
    ALL_ONES - 7, KERNEL_BASE, KERNEL_BASE + 8, TEXT + 0x1000, VCPU_AREA + 0x1400, VCPU_AREA + 0x13D8, VCPU_AREA + 0x1FFF,
    TABLES_WINDOW + 4096, STACK_TOP + 1, STACK_TOP - 3, CODE + 64, DATA, DATA + 1, 0x12345,
]  # fmt: skip
WILD_STACK_CODE = {
    "syscall": "movq %rdi, %rsp; syscall; syscall; int3",
    "int3": "movq %rdi, %rsp; int3",
    "ud2": "movq %rdi, %rsp; ud2",
    "page fault": "movq %rdi, %rsp; movq 0, %rax",
    "push": "movq %rdi, %rsp; push %rax; syscall",
    "call": "movq %rdi, %rsp; call 1f; 1: syscall",
    "int 0x80": "movq %rdi, %rsp; int $0x80",
    "step": "pushfq; orl $0x100, (%rsp); popfq; movq %rdi, %rsp; nop",
    "iret": "movq %rdi, %rsp; iretq",
    "ret": "movq %rdi, %rsp; ret",
}


@pytest.mark.parametrize("how", WILD_STACK_CODE)
async def test_wild_stacks(small_machine: Machine, restore: Restore, how: str) -> None:
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load(WILD_STACK_CODE[how])
    for stack in WILD_STACKS:
        if how == "iret" and emulator.POPS_AS_RING_0 and stack >= KERNEL_BASE:
            continue
        exit_ = await arena.attack(rdi=stack)
        if how in ("syscall", "int 0x80"):
            assert isinstance(exit_, Syscall), (hex(stack), exit_)
        if how in ("syscall", "int 0x80", "int3", "ud2", "page fault"):
            assert arena.attacker["rsp"] == stack
        # And once more from there: the second entry has the wild value from the host.
        await arena.go_on()


FIXED, SETTABLE = 0x202, 0x254DD5


async def test_wild_flags_from_the_host(small_machine: Machine, restore: Restore) -> None:
    """All 64 bits of RFLAGS at random: what ring 3 may not have is not given to it."""
    source = random.Random(6)
    arena = await Arena(small_machine, restore).prepare()
    # RF is for one instruction; NT means nothing, and a host that emulates ring 0 clears it on the way in.
    ignored = 0x10000 | (0x4000 if small_machine.capabilities.syscall_as_fault else 0)
    arena.attacker.load("syscall; nop; syscall; int3")
    for turn in range(300):
        flags = source.getrandbits(64) if turn % 2 else source.getrandbits(22)
        exit_ = await arena.attack(rflags=flags)
        while isinstance(exit_, Fault) and exit_.vector == 1:
            assert flags & 0x100
            assert arena.attacker["rflags"] & ~(SETTABLE | FIXED) == 0
            exit_ = await arena.go_on()
        assert isinstance(exit_, Syscall), (hex(flags), exit_)
        seen = arena.attacker["rflags"]
        assert (seen ^ (flags & SETTABLE | FIXED)) & ~ignored == 0, (hex(flags), hex(seen))
        await arena.go_on()


async def test_wild_flags_by_popf(small_machine: Machine, restore: Restore) -> None:
    source = random.Random(7)
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load("push %rdi; popfq; pushfq; pop %rbx; syscall; int3")
    for _ in range(300):
        flags = source.getrandbits(64)
        exit_ = await arena.attack(rdi=flags)
        for _ in range(8):
            if isinstance(exit_, Syscall):
                assert arena.attacker["rbx"] & 0x3000 == 0, "IOPL"
                assert arena.attacker["rbx"] & 0x200, "IF"
                break
            assert isinstance(exit_, Fault)
            assert exit_.vector in (1, 17), exit_
            if exit_.vector == 17:
                break
            exit_ = await arena.go_on()


async def test_games_with_xsave(small_machine: Machine, restore: Restore) -> None:
    """XRSTOR of random and of forged images from guest memory: #GP for what is invalid, never more."""
    if not small_machine.capabilities.xcr0:
        pytest.skip("no XSAVE in guests here")
    source = random.Random(9)
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load("xorl %edx, %edx; notl %edx; movl %edx, %eax; xrstor (%rdi); xsave 4096(%rdi); syscall; int3")
    for turn in range(200):
        image = bytearray(source.randbytes(2816))
        header = [0] * 8
        if turn % 4 == 0:
            header = [source.getrandbits(64) for _ in header]
        elif turn % 4 == 1:
            header[0] = source.getrandbits(20)
        elif turn % 4 == 2:
            header[0], header[1] = source.getrandbits(8), 1 << 63 | source.getrandbits(10)
        else:
            header[0] = 7
        image[512:576] = b"".join(word.to_bytes(8, "little") for word in header)
        if turn % 3:
            image[24:28] = source.getrandbits(16).to_bytes(4, "little")
        arena.attacker.space.write(DATA, bytes(image))
        exit_ = await arena.attack(rdi=DATA + (turn % 7 == 0))
        if isinstance(exit_, Fault):
            assert exit_.vector in (13, 17), exit_


async def test_nothing_executable_and_nothing_at_all(small_machine: Machine, restore: Restore) -> None:
    """A guest that unmaps itself by faulting, with no stack, no code, no data."""
    arena = await Arena(small_machine, restore).prepare()
    arena.attacker.load("1: incq %rax; jmp 1b")
    for address, length in ((CODE, CODE_BYTES), (DATA, DATA_BYTES)):
        arena.attacker.space.unmap(address, length)
        exit_ = await arena.attack(rdi=DATA)
        assert isinstance(exit_, Fault)
        assert exit_.address == CODE


async def test_the_host_s_own_instructions_are_out_of_reach(small_machine: Machine) -> None:
    """A system call at the very end of user space: it returns to where nothing of its own is."""
    last = USER_MAX - 4096
    space = keep(small_machine.create_address_space())
    space.map(last, 4096, READ | EXECUTE)
    space.write(last + 4094, b"\x0f\x05", force=True)
    witness = await Witness(small_machine).prepare()
    for restore in (Restore.AUTO, Restore.FULL, Restore.PARTIAL):
        guest = Guest(small_machine, space=space, restore=restore, entry=last + 4094)
        assert isinstance(await guest.run(), Syscall)
        assert guest["rip"] == last + 4096
        exit_ = await guest.run()
        assert isinstance(exit_, Fault)
        assert (exit_.signal, exit_.vector) == (11, 14)
        await witness.check()
        guest.close()
