"""Where things lie in a Linux program's address space, and the page arithmetic everything here shares.

Numbers only: what is mapped there is decided in `loader` and `memory`.
"""

from __future__ import annotations

from typing import Final

from asynckvm.model.memory import PAGE, USER_MAX

# The stack ends up to STACK_SHIFT_PAGES below USER_MAX; its whole size is mapped at once and paid for when touched.
STACK_BYTES: Final = 8 << 20
STACK_SHIFT_PAGES: Final = 1 << 14
STACK_GUARD: Final = 1 << 20
# mmap() without an address takes the lowest room it finds in these windows, one after the other. The first ends where the
# lowest possible stack begins; nothing that grows lives in either.
MMAP_WINDOWS: Final = (
    (0x7F00_0000_0000, USER_MAX - STACK_SHIFT_PAGES * PAGE - STACK_BYTES - STACK_GUARD),
    (0x1000_0000_0000, 0x5000_0000_0000),
)
# Position-independent programs are loaded up to PROGRAM_SHIFT_PAGES above this (Linux's ELF_ET_DYN_BASE).
PROGRAM_BASE: Final = 0x5555_5555_4000
PROGRAM_SHIFT_PAGES: Final = 1 << 28
# Mappings that a call looks at between two turns of the event loop: a program may have 65,536.
PARTS_AT_ONCE: Final = 256


def page_down(address: int) -> int:
    return address & ~(PAGE - 1)


def page_up(address: int) -> int:
    return (address + PAGE - 1) & ~(PAGE - 1)
