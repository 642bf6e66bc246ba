"""Guest programs of the benchmarks: a few instructions each, and the machine, space and context to run them in.

The floors in native/bench run the same instructions; where a result exists, both must agree on it. No clock is read here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from asynckvm.errors import InternalError
from asynckvm.model.exits import Syscall
from asynckvm.model.registers import RegisterIndex
from asynckvm.platform import Access, Machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asynckvm.model.config import PlatformName
    from asynckvm.model.exits import Exit
    from asynckvm.platform import AddressSpace, Context

__all__ = [
    "ANSWERED", "CALLS", "CODE", "COMPUTE", "COUNT", "CURSOR", "DATA", "END", "LOOP", "SPIN", "TALLY", "TOUCH",
    "create_guest", "expect", "expect_call", "open_guest",
]  # fmt: skip

CODE: Final = 0x400000
DATA: Final = 0x600000
ANSWERED: Final = 39
END: Final = 60
# Registers of the programs below.
COUNT: Final = RegisterIndex.rbp
CURSOR: Final = RegisterIndex.rdi
TALLY: Final = RegisterIndex.rbx

# RBP times system call 39, then system call 60. R12 is left as it was.
CALLS: Final = bytes.fromhex(
    "b827000000"  # 1: mov $39,%eax
    "0f05"        #    syscall
    "48ffcd"      #    dec %rbp
    "75f4"        #    jnz 1b
    "b83c000000"  #    mov $60,%eax
    "0f05"        #    syscall
)  # fmt: skip
# System calls for ever, counted in RBX.
LOOP: Final = bytes.fromhex(
    "48ffc3"      # 1: inc %rbx
    "0f05"        #    syscall
    "ebf9"        #    jmp 1b
)  # fmt: skip
# Counts in memory at RDI for ever, so that the host sees it run.
SPIN: Final = bytes.fromhex(
    "48ff07"      # 1: incq (%rdi)
    "ebfb"        #    jmp 1b
)  # fmt: skip
# RDI turns of arithmetic (native/bench/floor_compute.c), result in RAX.
COMPUTE: Final = bytes.fromhex(
    "31c0"            #    xor %eax,%eax
    "4869c06d4ec641"  # 1: imul $0x41c64e6d,%rax,%rax
    "4801f8"          #    add %rdi,%rax
    "48c1c00d"        #    rol $13,%rax
    "48ffcf"          #    dec %rdi
    "75ed"            #    jnz 1b
    "0f05"            #    syscall
)  # fmt: skip
# A first system call, then a store to each of RBP pages from RDI on, then another.
TOUCH: Final = bytes.fromhex(
    "0f05"            #    syscall
    "c60701"          # 1: movb $1,(%rdi)
    "4881c700100000"  #    add $4096,%rdi
    "48ffcd"          #    dec %rbp
    "75f1"            #    jnz 1b
    "0f05"            #    syscall
)  # fmt: skip


def expect(what: str, counted: int, expected: int) -> None:
    """A benchmark that counts wrong is no result: InternalError."""
    if counted != expected:
        raise InternalError(f"benchmark: {what}: counted {counted}, expected {expected}")


def expect_call(exit_: Exit, number: int) -> None:
    """The exit must be system call `number`: InternalError."""
    if not isinstance(exit_, Syscall) or exit_.number != number:
        raise InternalError(f"benchmark: expected system call {number}, got {exit_}")


def create_guest(machine: Machine, code: bytes, space: AddressSpace | None = None) -> Context:
    """A context at the start of `code`, in a space of its own with a page of data, or in one that has the code already."""
    if space is None:
        space = machine.create_address_space()
        space.map(CODE, 0x1000, Access.READ | Access.EXECUTE)
        space.write(CODE, code, force=True)
        space.map(DATA, 0x1000, Access.READ | Access.WRITE)
    context = machine.create_context(space)
    context.registers = context.registers.replace(rip=CODE, rsp=DATA + 0x1000, rdi=DATA)
    return context


@contextlib.asynccontextmanager
async def open_guest(code: bytes, platform: PlatformName, *, memory: int = 64 << 20) -> AsyncIterator[tuple[Machine, Context]]:
    """A machine of one vCPU for as long as the block, with one context at the start of `code`."""
    async with Machine.open(platform=platform, vcpus=1, memory=memory) as machine:
        yield machine, create_guest(machine, code)
