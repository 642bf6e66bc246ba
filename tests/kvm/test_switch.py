"""What a switch brings back: system calls, faults, all registers, segments; by both ways back to ring 3."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest
from kvm.guestcode import (
    ALL_ONES,
    CODE,
    DATA,
    DATA_BYTES,
    EXECUTE,
    GENERAL,
    PAGE,
    READ,
    STACK_TOP,
    SYSCALL_LOOP,
    WRITE,
    Guest,
    keep,
)  # fmt: skip

from asynckvm.model.exits import Fault, Syscall
from asynckvm.platform import Machine, Restore

INVERT = "; ".join(f"notq %{name}" for name in GENERAL)
UNMAPPED = 0x7000_0000_0000
NON_CANONICAL = 1 << 47


async def test_system_calls_bring_number_and_arguments_and_take_the_result(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "1: syscall; movq %rax, %rbx; jmp 1b", restore=restore)
    for number in range(100):
        arguments = tuple(number << 32 | register for register in range(6))
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=True):
            guest[name] = value
        guest["rax"] = number
        exit_ = await guest.run()
        assert isinstance(exit_, Syscall)
        assert (exit_.number, exit_.args) == (number, arguments)
        assert guest["rip"] == CODE + 2
        guest["rax"] = number + 1000
        exit_ = await guest.run()
        assert isinstance(exit_, Syscall)
        assert guest["rbx"] == number + 1000


async def test_the_two_instructions_are_told_apart(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "syscall; int $0x80; syscall", restore=restore, rax=20)
    exits = [await guest.run() for _ in range(3)]
    assert all(isinstance(exit_, Syscall) and exit_.number == 20 for exit_ in exits)
    first, second, third = (exit_.instruction for exit_ in exits if isinstance(exit_, Syscall))
    assert first == third != second
    assert guest["rip"] == CODE + 6


async def test_int_0x80_keeps_every_register(machine: Machine) -> None:
    guest = Guest(machine, "int $0x80", restore=Restore.FULL)
    values = {name: 0x1111111111111111 * (index % 15) + index for index, name in enumerate(GENERAL) if name != "rsp"}
    guest.go(**values)
    exit_ = await guest.run()
    assert isinstance(exit_, Syscall)
    assert {name: guest[name] for name in values} == values


FAULTS = {
    "load from zero": ("movq 0, %rax", signal.SIGSEGV, 1, 0, READ),
    "store to zero": ("movq %rax, 0", signal.SIGSEGV, 1, 0, WRITE),
    "jump to zero": ("xor %eax, %eax; jmp *%rax", signal.SIGSEGV, 1, 0, EXECUTE),
    "load from far": (f"movabs ${UNMAPPED + 5}, %rax; movb (%rax), %al", signal.SIGSEGV, 1, UNMAPPED + 5, READ),
    "store to code": (f"movq %rax, {CODE + 8:#x}", signal.SIGSEGV, 2, CODE + 8, WRITE),
    "jump to data": (f"movq ${DATA:#x}, %rax; jmp *%rax", signal.SIGSEGV, 2, DATA, EXECUTE),
    "read and write": (f"lock incq {CODE + 16:#x}", signal.SIGSEGV, 2, CODE + 16, WRITE),
    "store across the end": ("movq %rax, 0x1000fffc", signal.SIGSEGV, 1, 0x10010000, WRITE),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_page_faults_name_signal_address_and_access(machine: Machine, restore: Restore, name: str) -> None:
    code, number, reason, address, access = FAULTS[name]
    guest = Guest(machine, code, restore=restore)
    for _ in range(2):  # the same again: nothing was mapped or consumed by the first
        exit_ = await guest.run()
        assert isinstance(exit_, Fault)
        assert (exit_.signal, exit_.code, exit_.address, exit_.access) == (number, reason, address, access)
        assert exit_.vector == 14
        # Restartable: RIP is at the instruction, not past it.
        assert guest["rip"] == (address if access == EXECUTE else guest["rip"])


async def test_a_fault_can_be_repaired_and_the_instruction_runs_again(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "movq (%rdi), %rax; syscall", restore=restore, rdi=UNMAPPED)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    guest.space.map(UNMAPPED, PAGE, READ | WRITE)
    guest.space.write(UNMAPPED, b"repaired")
    exit_ = await guest.run()
    assert isinstance(exit_, Syscall)
    assert guest["rax"] == int.from_bytes(b"repaired", "little")


def register_values() -> dict[str, int]:
    values = {name: (0x0123456789ABCDEF * (2 * index + 3)) & ALL_ONES for index, name in enumerate(GENERAL)}
    return {**values, "rsp": STACK_TOP - 128}


async def test_all_registers_survive_a_system_call(machine: Machine, restore: Restore) -> None:
    values = register_values()
    guest = Guest(machine, f"{INVERT}; syscall", restore=restore, **values)
    exit_ = await guest.run()
    assert isinstance(exit_, Syscall)
    # The instruction itself puts RIP and RFLAGS into these two.
    expected = {name: value ^ ALL_ONES for name, value in values.items() if name not in ("rcx", "r11")}
    assert {name: guest[name] for name in expected} == expected
    assert guest["rcx"] == guest["rip"]


async def test_all_registers_survive_a_fault(machine: Machine, restore: Restore) -> None:
    values = register_values()
    guest = Guest(machine, f"{INVERT}; jmp *{DATA:#x}", restore=restore, **values)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    # SYSRET has lost RCX and R11 on the way in; that is what partial means.
    lost = ("rcx", "r11") if restore is Restore.PARTIAL else ()
    expected = {name: value ^ ALL_ONES for name, value in values.items() if name not in lost}
    assert {name: guest[name] for name in expected} == expected
    assert guest["rip"] == 0


async def test_the_automatic_way_back_loses_nothing(machine: Machine) -> None:
    """AUTO takes SYSRET only where nobody can tell: RCX and R11 are as given even right after a system call."""
    guest = Guest(machine, SYSCALL_LOOP + "; .org 64; 2: movq %rcx, %r8; movq %r11, %r9; int3")
    for _ in range(3):
        await guest.run()
    guest["rip"], guest["rcx"], guest["r11"] = CODE + 64, 0x1234567812345678, 0x8765432187654321
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert exit_.vector == 3
    assert (guest["r8"], guest["r9"]) == (0x1234567812345678, 0x8765432187654321)


FLAGS = {
    "CF": 1, "PF": 4, "AF": 0x10, "ZF": 0x40, "SF": 0x80, "DF": 0x400, "OF": 0x800, "NT": 0x4000, "AC": 0x40000, "ID": 0x200000,
}  # fmt: skip


async def test_flags_go_in_and_come_out(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "syscall; int3", restore=restore)
    # NT means nothing in 64-bit code; a host that emulates ring 0 clears it on the way in.
    ignored = FLAGS["NT"] if machine.capabilities.syscall_as_fault else 0
    for count in range(len(FLAGS) + 1):
        for names in itertools.islice(itertools.combinations(FLAGS, count), 12):
            flags = 0x202 | sum(FLAGS[name] for name in names)
            for _ in range(2):
                guest.go(rflags=flags)
                exit_ = await guest.run()
                assert isinstance(exit_, Syscall), (names, exit_)
                assert (guest["rflags"] ^ flags) & ~ignored == 0, (names, hex(guest["rflags"]))
            exit_ = await guest.run()
            assert isinstance(exit_, Fault)
            assert (exit_.vector, (guest["rflags"] ^ flags) & ~(ignored | 0x10000)) == (3, 0), names


async def test_segment_bases_are_the_context_s_own(small_machine: Machine, restore: Restore) -> None:
    """Loads through FS and GS see what each context was given, whichever ran on the vCPU before."""
    code = "1: movq %fs:0, %rax; movq %gs:8, %rbx; syscall; jmp 1b"
    guests = [Guest(small_machine, code, restore=restore, fs_base=DATA + 64 * n, gs_base=DATA + 64 * n + 16) for n in range(3)]
    for number, guest in enumerate(guests):
        for offset in range(4):
            word = (number << 8 | 0x50 | offset).to_bytes(8, "little")
            guest.space.write(DATA + 64 * number + 8 * offset, word)
    for _ in range(3):
        for number, guest in enumerate(guests):
            exit_ = await guest.run()
            assert isinstance(exit_, Syscall)
            assert (guest["rax"], guest["rbx"]) == (number << 8 | 0x50, number << 8 | 0x53)
            assert (guest["fs_base"], guest["gs_base"]) == (DATA + 64 * number, DATA + 64 * number + 16)


async def test_bases_written_in_ring_3_come_out_and_stay(small_machine: Machine, restore: Restore) -> None:
    if not small_machine.capabilities.fsgsbase and not host_has("fsgsbase"):
        pytest.skip("no FSGSBASE")
    code = "wrfsbase %rdi; wrgsbase %rsi; syscall; 1: rdfsbase %rax; rdgsbase %rbx; syscall; jmp 1b"
    guest = Guest(small_machine, code, restore=restore, rdi=DATA + 128, rsi=0x7FFF12345678)
    other = Guest(small_machine, SYSCALL_LOOP, restore=restore, fs_base=CODE, gs_base=CODE + 8)
    await guest.run()
    assert (guest["fs_base"], guest["gs_base"]) == (DATA + 128, 0x7FFF12345678)
    for _ in range(3):
        await other.run()
        assert (other["fs_base"], other["gs_base"]) == (CODE, CODE + 8)
        await guest.run()
        assert (guest["rax"], guest["rbx"]) == (DATA + 128, 0x7FFF12345678)


def host_has(flag: str) -> bool:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    return any(line.startswith("flags") and flag in line.split() for line in lines)


async def test_what_a_vcpu_resolves_costs_no_register(machine: Machine, restore: Restore) -> None:
    """A page fault amid the guest's code, on the way of a context that came in by SYSRET: RCX and R11 stay, too."""
    marks = "; ".join(f"movq ${n + 0x100}, %{name}" for n, name in enumerate(GENERAL) if name != "rsp")
    checks = "; ".join(f"cmpq ${n + 0x100}, %{name}; jne 2f" for n, name in enumerate(GENERAL) if name not in ("rsp", "rdi"))
    guest = Guest(machine, f"{marks}; movq ${DATA}, %rdi; 1: incb (%rdi); addq ${PAGE}, %rdi; {checks}; "
                  f"cmpq ${DATA + DATA_BYTES}, %rdi; jne 1b; syscall; 2: ud2", restore=restore)  # fmt: skip
    before = machine.counters().memory.faults
    assert isinstance(await guest.run(), Syscall)
    assert machine.counters().memory.faults > before


LOAD_SELECTORS = "movl %edi, %eax; movw %ax, %ds; movw %ax, %es; movw %ax, %fs; movw %ax, %gs; syscall"
LOOK_AT_SELECTORS = "1: xor %eax, %eax; movw %ds, %ax; movw %es, %bx; movw %fs, %dx; movw %gs, %r8w; syscall; jmp 1b"


def selectors(guest: Guest) -> tuple[int, ...]:
    """What LOOK_AT_SELECTORS saw. Null selectors are alike: a return to ring 3 may clear their RPL (SDM vol. 2A, IRET)."""
    return tuple(0 if guest[name] < 4 else guest[name] for name in ("rax", "rbx", "rdx", "r8"))


def selectors_are_known(machine: Machine) -> None:
    if machine.capabilities.kvm_module == "kvm_pvm":
        pytest.skip("this KVM neither tells nor loads the selectors of ring 3, not even by KVM_GET_SREGS and KVM_SET_SREGS")


async def test_selectors_loaded_in_ring_3_are_never_seen_by_another(small_machine: Machine, restore: Restore) -> None:
    selectors_are_known(small_machine)
    for selector in (0x2B, 0x33, 3):
        loader = Guest(small_machine, LOAD_SELECTORS, restore=restore, rdi=selector)
        looker = Guest(small_machine, LOOK_AT_SELECTORS, restore=restore)
        assert isinstance(await loader.run(), Syscall)
        # FS and GS have no base any more, whatever it was.
        assert (loader["fs_base"], loader["gs_base"]) == (0, 0)
        assert isinstance(await looker.run(), Syscall)
        assert selectors(looker) == (0, 0, 0, 0)


async def test_selectors_loaded_in_ring_3_stay_with_their_context(small_machine: Machine, restore: Restore) -> None:
    selectors_are_known(small_machine)
    chosen = (0, 0x2B, 3)
    code = f"{LOAD_SELECTORS}; {LOOK_AT_SELECTORS}"
    guests = [Guest(small_machine, code, restore=restore, rdi=selector) for selector in chosen]
    for guest in guests:
        assert isinstance(await guest.run(), Syscall)
    for _ in range(2):
        for selector, guest in zip(chosen, guests, strict=True):
            assert isinstance(await guest.run(), Syscall)
            assert selectors(guest) == (selector if selector > 3 else 0,) * 4


async def test_code_and_stack_segments_are_linux_s(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "1: movw %cs, %ax; movw %ss, %bx; syscall; jmp 1b", restore=restore)
    for _ in range(2):
        guest["rax"] = 0
        assert isinstance(await guest.run(), Syscall)
        assert (guest["rax"], guest["rbx"]) == (0x33, 0x2B)


@pytest.mark.parametrize("value", [NON_CANONICAL, ~NON_CANONICAL & ALL_ONES, 1 << 63, 0xFFFF_7FFF_FFFF_FFFF])
@pytest.mark.parametrize("name", ["rip", "rsp", "fs_base", "gs_base"])
async def test_non_canonical_addresses_never_enter(machine: Machine, restore: Restore, name: str, value: int) -> None:
    """Reported as Linux would: SIGSEGV for RIP, SIGBUS for the rest; both SI_KERNEL."""
    guest = Guest(machine, SYSCALL_LOOP, restore=restore)
    guest[name] = value
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert (exit_.signal, exit_.code) == (signal.SIGSEGV if name == "rip" else signal.SIGBUS, 0x80)
    guest.go()
    assert isinstance(await guest.run(), Syscall)


@pytest.mark.parametrize("value", [0xFFFF_8000_0000_0000, 0x7FFF_FFFF_FFFF, ALL_ONES])
async def test_the_last_canonical_addresses_do_enter(machine: Machine, restore: Restore, value: int) -> None:
    guest = Guest(machine, SYSCALL_LOOP, restore=restore, rsp=value, gs_base=value, fs_base=value)
    for _ in range(2):
        assert isinstance(await guest.run(), Syscall)
        assert (guest["rsp"], guest["fs_base"], guest["gs_base"]) == (value,) * 3


async def test_an_empty_address_space_faults_at_once(machine: Machine, restore: Restore) -> None:
    space = keep(machine.create_address_space())
    guest = Guest(machine, space=space, restore=restore)
    for rip in (0, CODE, 0x7FFFFFFFEFFF, 0x10000):
        guest.go(rip)
        exit_ = await guest.run()
        assert isinstance(exit_, Fault)
        assert (exit_.signal, exit_.code, exit_.address, exit_.access) == (signal.SIGSEGV, 1, rip, EXECUTE)
