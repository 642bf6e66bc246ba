"""Every way in which ring 3 can raise an exception becomes the signal Linux would send: against a table, and against Linux.

The native oracle (native_signals.c) runs the same code at the same addresses outside KVM; rows where this host's own kernel or
hypervisor is known to differ from the manual say so.
"""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from kvm.guestcode import CODE, DATA, Guest, Witness, assemble

from asynckvm.model.exits import Fault, Syscall
from support.emulator import EMULATOR
from support.pace import paced

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.platform import Machine, Restore

SI_KERNEL = 0x80
UPPER_HALF = 0xFFFF_8000_0000_0000
PAST = -1  # RIP is past the whole snippet: a trap


class Row(NamedTuple):
    """Code, and what is to come of it. `rip`: offset of the reported RIP; `address`: None for si_addr == RIP.

    `native` False: not to be compared with this host's own kernel. `unemulated`: a host that emulates ring 0 emulates what got
    #GP, too, and reports #UD for this instruction, which its emulator does not know.
    """

    code: str
    signal: int
    si_code: int
    address: int | None
    vector: int
    rip: int = 0
    native: bool = True
    unemulated: bool = False


SEGV_KERNEL = (signal.SIGSEGV, SI_KERNEL, 0, 13)

ROWS = {
    "divide by zero": Row("div %eax", signal.SIGFPE, 1, None, 0),
    "divide overflow": Row("mov $-1, %edx; idiv %ebx", signal.SIGFPE, 1, None, 0, 5),
    # The manual says past the instruction, and some hypervisors report it at the instruction.
    "int1": Row(".byte 0xf1", signal.SIGTRAP, 1, None, 1, PAST, native=False),
    "int3": Row("int3", signal.SIGTRAP, SI_KERNEL, 0, 3, PAST),
    "int 3, two bytes": Row(".byte 0xcd, 3", signal.SIGTRAP, SI_KERNEL, 0, 3, PAST),
    "int 4": Row("int $4", signal.SIGSEGV, SI_KERNEL, 0, 4, PAST),
    "ud2": Row("ud2", signal.SIGILL, 2, None, 6),
    "into": Row(".byte 0xce", signal.SIGILL, 2, None, 6),
    "lock on a register": Row(".byte 0xf0, 0x48, 0x01, 0xc0", signal.SIGILL, 2, None, 6),
    "hlt": Row("hlt", *SEGV_KERNEL),
    "cli": Row("cli", *SEGV_KERNEL),
    "sti": Row("sti", *SEGV_KERNEL),
    "in": Row("inb $0x80, %al", *SEGV_KERNEL),
    "out": Row("outb %al, $0x80", *SEGV_KERNEL),
    "in by dx": Row("inl %dx, %eax", *SEGV_KERNEL),
    "insb": Row("mov $0x10000000, %edi; insb", *SEGV_KERNEL, 5),
    "lgdt": Row(f"lgdt {DATA:#x}", *SEGV_KERNEL),
    "lidt": Row(f"lidt {DATA:#x}", *SEGV_KERNEL),
    "lldt": Row("lldt %ax", *SEGV_KERNEL),
    "ltr": Row("ltr %ax", *SEGV_KERNEL),
    "lmsw": Row("lmsw %ax", *SEGV_KERNEL),
    "clts": Row("clts", *SEGV_KERNEL),
    "invd": Row("invd", *SEGV_KERNEL),
    "wbinvd": Row("wbinvd", *SEGV_KERNEL),
    "invlpg": Row(f"invlpg {DATA:#x}", *SEGV_KERNEL),
    "swapgs": Row("swapgs", *SEGV_KERNEL),
    "sysretq": Row("sysretq", *SEGV_KERNEL),
    "rdmsr": Row("rdmsr", *SEGV_KERNEL),
    "wrmsr": Row("wrmsr", *SEGV_KERNEL),
    "xsetbv": Row("xsetbv", *SEGV_KERNEL),
    "read cr0": Row("movq %cr0, %rax", *SEGV_KERNEL),
    "write cr0": Row("movq %rax, %cr0", *SEGV_KERNEL),
    "write cr2": Row("movq %rax, %cr2", *SEGV_KERNEL),
    "write cr3": Row("movq %rax, %cr3", *SEGV_KERNEL),
    "write cr4": Row("movq %rax, %cr4", *SEGV_KERNEL),
    "write cr8": Row("movq %rax, %cr8", *SEGV_KERNEL),
    "read dr7": Row("movq %dr7, %rax", *SEGV_KERNEL),
    "write dr7": Row("movq %rax, %dr7", *SEGV_KERNEL),
    "int n": Row("int $0x21", *SEGV_KERNEL),
    "non-canonical load": Row("movabs $0x800000000000, %rax; movq (%rax), %rax", *SEGV_KERNEL, 10),
    "non-canonical jump": Row("movabs $0x800000000000, %rax; jmp *%rax", *SEGV_KERNEL, 10),
    "non-canonical by rbp": Row("movabs $0x800000000000, %rbp; movq (%rbp), %rax", signal.SIGBUS, SI_KERNEL, 0, 12, 10),
    "non-canonical push": Row("movabs $0x800000000100, %rsp; push %rax", signal.SIGBUS, SI_KERNEL, 0, 12, 10),
    "misaligned movaps": Row("movl $0x10000008, %eax; movaps (%rax), %xmm0", *SEGV_KERNEL, 5),
    "kernel half load": Row("mov $-8, %rax; movq (%rax), %rax", signal.SIGSEGV, 1, (1 << 64) - 8, 14, 7),
    "kernel half store": Row(f"movabs ${UPPER_HALF:#x}, %rax; movq %rax, (%rax)", signal.SIGSEGV, 1, UPPER_HALF, 14, 10),
    "kernel data segment": Row("mov $0x18, %eax; movw %ax, %ds", *SEGV_KERNEL, 5),
    "null stack segment": Row("xor %eax, %eax; movw %ax, %ss", *SEGV_KERNEL, 2),
    "wild mxcsr": Row("movl $-1, 0x10000000; ldmxcsr 0x10000000", *SEGV_KERNEL, 11, unemulated=True),
    "alignment check": Row("pushfq; orl $0x40000, (%rsp); popfq; movl $0x10000001, %eax; movl (%rax), %ebx",
                           signal.SIGBUS, 1, 0, 17, 14),
    "x87 divide": Row("fninit; pushq $0x37b; fldcw (%rsp); fld1; fldz; fdivrp; fwait", signal.SIGFPE, 3, None, 16, 16),
    "x87 invalid": Row("fninit; pushq $0x37e; fldcw (%rsp); fldz; fldz; fdivp; fwait", signal.SIGFPE, 7, None, 16, 16),
    "x87 stack": Row("fninit; pushq $0x37e; fldcw (%rsp); fstp %st(0); fwait", signal.SIGFPE, 7, None, 16, 12),
    "sse divide": Row("pushq $0x1d80; ldmxcsr (%rsp); pxor %xmm0, %xmm0; mov $1, %eax; cvtsi2sd %eax, %xmm1; divsd %xmm0, %xmm1",
                      signal.SIGFPE, 3, None, 19, 22),
    "sse invalid": Row("pushq $0x1f00; ldmxcsr (%rsp); pxor %xmm0, %xmm0; divsd %xmm0, %xmm0", signal.SIGFPE, 7, None, 19, 13),
    "sse inexact": Row("pushq $0x0f80; ldmxcsr (%rsp); mov $1, %eax; cvtsi2sd %eax, %xmm1; mov $3, %eax; cvtsi2sd %eax, %xmm0;"
                       "divsd %xmm0, %xmm1", signal.SIGFPE, 6, None, 19, 27),
    "sse overflow": Row("pushq $0x1b80; ldmxcsr (%rsp); mov $0x7fe0000000000000, %rax; movq %rax, %xmm0; mulsd %xmm0, %xmm0",
                        signal.SIGFPE, 4, None, 19, 24),
    "sse underflow": Row("pushq $0x1780; ldmxcsr (%rsp); mov $0x0010000000000000, %rax; movq %rax, %xmm0; mulsd %xmm0, %xmm0",
                         signal.SIGFPE, 5, None, 19, 24),
    "single step": Row("pushfq; orl $0x100, (%rsp); popfq; nop", signal.SIGTRAP, 2, None, 1, PAST),
    "single step of a jump": Row("pushfq; orl $0x100, (%rsp); popfq; jmp 1f; ud2; 1:", signal.SIGTRAP, 2, None, 1, PAST),
}  # fmt: skip


def expected_rip(row: Row) -> int:
    return CODE + (len(assemble(row.code)) if row.rip == PAST else row.rip)


def in_the_table(row: Row) -> list[int]:
    """As native_signals tells it: signal, code, address, RIP."""
    return [row.signal, row.si_code, expected_rip(row) if row.address is None else row.address, expected_rip(row)]


@pytest.fixture(scope="module")
def linux(native_signals: Path) -> dict[str, list[int]]:
    """What Linux says to each row: signal, code, address, RIP."""
    lines = "".join(assemble(row.code).hex() + "\n" for row in ROWS.values())
    done = subprocess.run([native_signals], input=lines, capture_output=True, text=True, check=True, timeout=paced(60))
    answers = done.stdout.splitlines()
    assert len(answers) == len(ROWS), done.stderr
    return {name: [] if answer == "none" else [*map(int, answer.split())] for name, answer in zip(ROWS, answers, strict=True)}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.native])
def test_the_table_is_linux_s(linux: dict[str, list[int]], name: str) -> None:
    row = ROWS[name]
    if EMULATOR and linux[name] != in_the_table(row):
        pytest.skip(f"{EMULATOR} emulates another processor: {linux[name]}")
    assert linux[name] == in_the_table(row)


@pytest.mark.parametrize("name", ROWS)
async def test_guests_get_the_signals_of_the_table(
    small_machine: Machine, restore: Restore, name: str, linux: dict[str, list[int]]
) -> None:
    """On an emulated processor that is not like the real ones: those that the Linux beside us gets from it."""
    row = ROWS[name]
    witness = await Witness(small_machine).prepare()
    guest = Guest(small_machine, row.code, restore=restore)
    for _ in range(2):
        guest.go()
        exit_ = await guest.run()
        assert isinstance(exit_, Fault), exit_
        if EMULATOR and linux[name] != in_the_table(row):
            assert [exit_.signal, exit_.code, exit_.address, guest["rip"]] == linux[name]
            await witness.check()
            continue
        address = guest["rip"] if row.address is None else row.address
        expected = [(row.vector, row.signal, row.si_code, address)]
        if row.unemulated and small_machine.capabilities.syscall_as_fault:
            expected.append((6, signal.SIGILL, 2, guest["rip"]))
        assert (exit_.vector, exit_.signal, exit_.code, exit_.address) in expected
        assert guest["rip"] == expected_rip(row) or (name == "int1" and guest["rip"] == CODE)
        await witness.check()


async def test_a_fault_can_be_stepped_over(small_machine: Machine, restore: Restore) -> None:
    """What a SIGILL handler that skips the instruction does."""
    guest = Guest(small_machine, "ud2; mov $7, %ebx; syscall", restore=restore)
    assert isinstance(await guest.run(), Fault)
    guest["rip"] += 2
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 7


async def test_single_stepping_by_the_host_s_hand(small_machine: Machine) -> None:
    """TF set in the context: one instruction at a time, through code that calls, loads and stores; then on at full speed."""
    code = "mov $3, %ecx; 1: push %rcx; pop %rax; decl %ecx; jnz 1b; call 2f; int3; 2: movq %rsp, (%rdi); ret"
    guest = Guest(small_machine, code, rdi=DATA, rflags=0x302)
    trail = []
    while True:
        exit_ = await guest.run()
        assert isinstance(exit_, Fault)
        if exit_.vector == 3:
            break
        assert (exit_.signal, exit_.code, exit_.vector) == (signal.SIGTRAP, 2, 1)
        assert guest["rflags"] & 0x100
        trail.append(guest["rip"] - CODE)
        assert len(trail) < 40
    assert trail == [5, *[6, 7, 9, 5] * 2, 6, 7, 9, 11, 17, 20, 16]
    guest.go(rdi=DATA)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert exit_.vector == 3


async def test_a_system_call_under_the_trap_flag(small_machine: Machine, restore: Restore) -> None:
    """SYSCALL masks TF in ring 0; it must come back with the result, and stepping goes on after it."""
    guest = Guest(small_machine, "pushfq; orl $0x100, (%rsp); popfq; syscall; nop; nop", restore=restore)
    exit_ = await guest.run()
    assert isinstance(exit_, Syscall), exit_
    assert guest["rflags"] & 0x100
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert (exit_.vector, exit_.code) == (1, 2)


UMIP = {"sgdt": f"sgdt {DATA:#x}", "sidt": f"sidt {DATA:#x}", "sldt": "sldt %eax", "str": "str %eax", "smsw": "smsw %eax"}


@pytest.mark.parametrize("name", UMIP)
async def test_descriptor_tables_do_not_show_where_umip_is_on(small_machine: Machine, restore: Restore, name: str) -> None:
    if not small_machine.capabilities.umip:
        pytest.skip("no UMIP in guests here")
    guest = Guest(small_machine, UMIP[name] + "; syscall", restore=restore)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert (exit_.signal, exit_.code, exit_.vector) == (signal.SIGSEGV, SI_KERNEL, 13)
