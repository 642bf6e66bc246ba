"""How tests make guests: assembly text to machine code, and a small address space with code, data and stack to run it in.

Knows the platform's public API and nothing of what a test wants to find out. Addresses are the same in every guest (and in
native_signals.c), so expected values can be written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from asynckvm.platform import Access, Interrupted, InterruptReason, Restore, Syscall
from support import tree
from support.pace import paced

if TYPE_CHECKING:
    from asynckvm.platform import AddressSpace, Context, Exit, ExitStream, Machine

T = TypeVar("T")

PAGE = 0x1000
HUGE_PAGE = 0x200000
CODE = 0x400000
CODE_BYTES = 4 * PAGE
DATA = 0x10000000
DATA_BYTES = 16 * PAGE
STACK = 0x7FFF0000
STACK_BYTES = 16 * PAGE
STACK_TOP = STACK + STACK_BYTES

READ = Access.READ
WRITE = Access.WRITE
EXECUTE = Access.EXECUTE

# Bounds one run of a guest. Emulated hosts are slow; a run that takes longer hangs.
RUN_SECONDS = paced(20)

# The order of context.words.
WORDS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "fs_base", "gs_base",
)  # fmt: skip
GENERAL = WORDS[:16]
ALL_ONES = (1 << 64) - 1

# What was assembled once is kept between test runs: starting an assembler takes long on an emulated machine.
ASSEMBLED = tree.ROOT / "build/assembled"

RESTORES = {"iret": Restore.FULL, "sysret": Restore.PARTIAL}

SPIN = "1: pause; jmp 1b"
# Counts in memory, so that the host can see it run.
COUNT = f"1: lock incq {DATA:#x}; pause; jmp 1b"
SYSCALL_LOOP = "1: syscall; jmp 1b"


@functools.cache
def assemble(text: str) -> bytes:
    """Machine code of GNU assembly text (AT&T syntax, `;` ends a statement); labels are reached relative to RIP."""
    kept = ASSEMBLED / hashlib.sha256(text.encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return kept.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        objects, binary = Path(folder, "guest.o"), Path(folder, "guest.bin")
        seconds = paced(30)
        subprocess.run(["as", "--64", "-o", objects, "-"], input=text + "\n", text=True, check=True, timeout=seconds)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", objects, binary], check=True, timeout=seconds)
        code = binary.read_bytes()
    ASSEMBLED.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=ASSEMBLED, delete=False) as file:
        file.write(code)
    os.replace(file.name, kept)
    return code


def machine_code(code: str | bytes) -> bytes:
    return assemble(code) if isinstance(code, str) else code


# What tests leave open stays referenced here until its machine is closed (fixture `kept`), so that only the tests about
# dropped objects meet the warnings about them.
KEPT: list[object] = []


def keep(thing: T) -> T:
    KEPT.append(thing)
    return thing


def create_space(machine: Machine, code: str | bytes = b"", *, code_access: Access = READ | EXECUTE) -> AddressSpace:
    """An address space with code at CODE, zeroed data at DATA and a stack below STACK_TOP."""
    space = keep(machine.create_address_space())
    space.map(CODE, CODE_BYTES, code_access)
    space.map(DATA, DATA_BYTES, READ | WRITE)
    space.map(STACK, STACK_BYTES, READ | WRITE)
    if code:
        space.write(CODE, machine_code(code), force=True)
    return space


async def switched(context: Context, seconds: float = RUN_SECONDS) -> Exit:
    """The next exit that is the guest's own or somebody's interrupt; the ends of time slices are passed over."""
    async with asyncio.timeout(seconds):
        while (exit_ := await context.switch()) == Interrupted(InterruptReason.PREEMPTED):
            pass
        return exit_


class Guest:
    """A context at the start of its code, and the run that a test waits for."""

    def __init__(
        self,
        machine: Machine,
        code: str | bytes = b"",
        *,
        space: AddressSpace | None = None,
        restore: Restore = Restore.AUTO,
        entry: int = CODE,
        **registers: int,
    ) -> None:
        self.machine = machine
        self.space = create_space(machine, code) if space is None else space
        self.owns_space = space is None
        self.context: Context = keep(machine.create_context(self.space))
        self.context.restore = restore
        self.records: ExitStream | None = None
        self.go(entry, **registers)

    def go(self, rip: int = CODE, **registers: int) -> Guest:
        """Start over at `rip`: every register zero but RSP, RFLAGS and those named."""
        values = {"rsp": STACK_TOP - 64, "rflags": 0x202, "rip": rip, **registers}
        words = self.context.words
        for index, name in enumerate(WORDS):
            words[index] = values.pop(name, 0)
        assert not values, f"no such registers: {values}"
        return self

    def load(self, code: str | bytes) -> Guest:
        """Other code at CODE; the registers stay."""
        self.space.write(CODE, machine_code(code), force=True)
        return self

    async def run(self, seconds: float = RUN_SECONDS) -> Exit:
        return await switched(self.context, seconds)

    async def run_somewhere(self) -> tuple[Exit, int]:
        """An exit and the vCPU it came from."""
        if self.records is None:
            self.records = self.context.exits()
        exit_ = await self.run()
        vcpu = (await anext(self.records)).vcpu
        await self.records.aclose()
        self.records = None
        return exit_, vcpu

    def __getitem__(self, name: str) -> int:
        return int(self.context.words[WORDS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self.context.words[WORDS.index(name)] = value

    def word(self, address: int) -> int:
        """The 8 bytes at an address, as the host reads them."""
        return int.from_bytes(self.space.read(address, 8), "little")

    def close(self) -> None:
        self.context.close()
        if self.owns_space:
            self.space.close()


def vcpu_threads() -> list[int]:
    """Thread ids of this process's vCPU threads."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().startswith("akvm-vcpu"):
                found.append(int(task.name))
    return found


async def until_counting(guest: Guest, more: int = 1, seconds: float = RUN_SECONDS) -> None:
    """Return when a guest that runs COUNT in a task of its own has counted `more` than now."""
    target = guest.word(DATA) + more
    async with asyncio.timeout(seconds):
        while guest.word(DATA) < target:
            await asyncio.sleep(0)


class Witness:
    """A well-behaved guest to run after a hostile one: its registers, flags, vector state and system calls must work."""

    CODE = """
    1:  movq %xmm15, %rax; movq %xmm0, %rbx
        notq %rcx; notq %r8; notq %r9; notq %r10; notq %r12; notq %r13; notq %r14; notq %r15; notq %rbp
        pushfq; popq %rdx; addq $1, (%rsi)
        stmxcsr 8(%rsi); fnstcw 12(%rsi)
        syscall
        jmp 1b
    """
    SETUP = "movq %rax, %xmm15; movq %rbx, %xmm0; syscall"
    TURNED = ("r8", "r9", "r10", "r12", "r13", "r14", "r15", "rbp")

    def __init__(self, machine: Machine) -> None:
        self.guest = Guest(machine, self.CODE)
        self.setup_address = CODE + PAGE
        self.guest.space.write(self.setup_address, assemble(self.SETUP), force=True)
        self.marks = (0x1122334455667788, 0x99AABBCCDDEEFF00)
        self.turns = 0
        self.values: dict[str, int] = {}

    async def prepare(self) -> Witness:
        self.guest.go(self.setup_address, rax=self.marks[0], rbx=self.marks[1])
        exit_ = await self.guest.run()
        assert isinstance(exit_, Syscall), exit_
        self.values = {name: 0x0101010101010101 * (index + 3) for index, name in enumerate(self.TURNED)}
        self.guest.go(CODE, rsi=DATA, **self.values)
        return self

    async def check(self) -> None:
        guest = self.guest
        exit_ = await guest.run()
        self.turns += 1
        assert isinstance(exit_, Syscall), exit_
        assert (guest["rax"], guest["rbx"]) == self.marks, "vector registers changed"
        self.values = {name: value ^ ALL_ONES for name, value in self.values.items()}
        assert {name: guest[name] for name in self.TURNED} == self.values
        assert guest["rdx"] & ~0x8D5 == 0x202, f"flags {guest['rdx']:#x}"
        assert guest["rsp"] == STACK_TOP - 64
        assert guest["rip"] == CODE + len(assemble(self.CODE)) - 2
        assert guest.space.read(DATA, 14) == self.turns.to_bytes(8, "little") + (0x1F80).to_bytes(4, "little") + b"\x7f\x03"

    def close(self) -> None:
        self.guest.close()
