"""The registers of a guest thread as a frozen value, in the order in which the core keeps them.

The order is that of the first twenty words of `struct akvm_context`. No rule about what values are allowed lives here, except
the check that Linux's own return to user mode makes: `entry_fault`.
"""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from asynckvm.model.exits import Fault
from asynckvm.model.memory import Access, is_canonical
from asynckvm.model.signals import SI_KERNEL, SIGBUS, SIGSEGV

__all__ = ["REGISTER_NAMES", "WORDS", "RegisterIndex", "Registers", "entry_fault"]

_MASK: Final = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """General registers, flags and segment bases; unsigned 64-bit values, truncated when they are stored."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 0x202
    fs_base: int = 0
    gs_base: int = 0

    def replace(self, **changes: int) -> Registers:
        """A copy with some registers changed."""
        return dataclasses.replace(self, **changes)

    def words(self) -> tuple[int, ...]:
        """The twenty values in native order, modulo 2**64."""
        return tuple(getattr(self, name) & _MASK for name in REGISTER_NAMES)


REGISTER_NAMES: Final = tuple(field.name for field in dataclasses.fields(Registers))
WORDS: Final = len(REGISTER_NAMES)


class _Index(NamedTuple):
    rax: int = 0
    rbx: int = 1
    rcx: int = 2
    rdx: int = 3
    rsi: int = 4
    rdi: int = 5
    rsp: int = 6
    rbp: int = 7
    r8: int = 8
    r9: int = 9
    r10: int = 10
    r11: int = 11
    r12: int = 12
    r13: int = 13
    r14: int = 14
    r15: int = 15
    rip: int = 16
    rflags: int = 17
    fs_base: int = 18
    gs_base: int = 19


# `words[RegisterIndex.rdi]`: positions in `Context.words`.
RegisterIndex: Final = _Index()


def entry_fault(rip: int, rsp: int, fs_base: int, gs_base: int) -> Fault | None:
    """What Linux would deliver instead of entering user mode with a non-canonical address, or None.

    RIP: SIGSEGV; RSP, FS and GS base: SIGBUS; SI_KERNEL and the bad value as address in each case.
    """
    for value, signal in ((rip, SIGSEGV), (rsp, SIGBUS), (fs_base, SIGBUS), (gs_base, SIGBUS)):
        if not is_canonical(value):
            return Fault(signal, SI_KERNEL, value, Access.NONE, -1, 0)
    return None
