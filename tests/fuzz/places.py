"""Where everything is in an attacker's address space, and the values that have broken kernels before: what every random choice
of an address, a length, a selector or a number starts from.

Constants only; who draws from them is `grammar`, `script` and `case`.
"""

from __future__ import annotations

import re
from typing import Final

from support import tree

PAGE: Final = 0x1000
HUGE_PAGE: Final = 0x200000
USER_MIN: Final = 0x10000
USER_MAX: Final = 0x7FFFFFFF0000

# (address, bytes) of what each attacker has mapped; nothing else is, so each region ends at a hole.
CODE: Final = 0x400000
CODE_BYTES: Final = 2 * PAGE
DATA: Final = 0x10000000
DATA_BYTES: Final = 3 * PAGE
STACK: Final = 0x7FFF0000
STACK_BYTES: Final = 2 * PAGE
STACK_TOP: Final = STACK + STACK_BYTES
# The last page that can be mapped: code here runs out of user space.
EDGE: Final = USER_MAX - PAGE
WIDE: Final = 0x40000000

SYSCALL_INSTRUCTION: Final = b"\x0f\x05"
ONES: Final = (1 << 64) - 1


def _layout(name: str) -> int:
    """A constant of the guest's kernel half, from the header that C and assembly share."""
    header = tree.ROOT / "native/include/akvm/layout.h"
    found = re.search(rf"^#define {name}\s+(0x[0-9a-f]+)", header.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise LookupError(f"{header} does not define {name}")
    return int(found[1], 16)


KERNEL: Final = _layout("AKVM_KERNEL_BASE")
TEXT: Final = KERNEL + _layout("AKVM_TEXT_OFFSET")
SYSCALL_ENTRY: Final = TEXT + _layout("AKVM_STUB_SYSCALL")
VCPU_AREA: Final = KERNEL + _layout("AKVM_VCPU_OFFSET")
VCPU_STACK: Final = VCPU_AREA + _layout("AKVM_VCPU_STACKS") + _layout("AKVM_VCPU_STACK_BYTES")
TABLES: Final = _layout("AKVM_TABLES_WINDOW")

_STUBS: Final = ("SYSCALL", "IRET", "SYSRET", "SPACE", "EDIT", "FLUSH", "READ_MSR", "WRITE_MSR", "NOTHING", "END")
KERNEL_PLACES: Final = (
    KERNEL, KERNEL + 14 * 16, TEXT, TEXT + 14 * 16, TEXT + 0x800, VCPU_AREA, VCPU_AREA + 0x200, VCPU_STACK, VCPU_STACK - 48,
    VCPU_STACK - 40, TABLES, TABLES + PAGE, TABLES + 511 * 8, 0xFFFF800000000000, KERNEL - PAGE, KERNEL & 0xFFFFFFFF,
    *(TEXT + _layout(f"AKVM_STUB_{name}") for name in _STUBS),
)  # fmt: skip
NOT_CANONICAL: Final = (0x800000000000, 0x800000000008, 0xFFFF7FFFFFFFFFFF, 1 << 63, 0x0123456789ABCDEF, 0x7FFFFFFFFFFFFFFF)
EDGES: Final = (
    EDGE, EDGE + PAGE - 1, EDGE + PAGE - 2, EDGE + PAGE - 8, USER_MAX, USER_MAX + 8, 0x7FFFFFFFFFFE, 0x7FFFFFFFFFFF, ONES,
    ONES - 7, ONES - PAGE + 1, 0, 1, 8, USER_MIN - 8, USER_MIN,
)  # fmt: skip
MAPPED: Final = (
    CODE, CODE + 1, CODE + PAGE - 1, CODE + PAGE - 2, CODE + CODE_BYTES - 1, CODE + CODE_BYTES - 2, CODE + CODE_BYTES,
    DATA, DATA + 64, DATA + 3, DATA + PAGE - 1, DATA + PAGE - 4, DATA + PAGE - 64, DATA + PAGE, DATA + DATA_BYTES - 1,
    DATA + DATA_BYTES - 16, DATA + DATA_BYTES, DATA - 1, DATA - 8, STACK, STACK - 8, STACK_TOP, STACK_TOP - 8, STACK_TOP - 3,
    STACK_TOP - 64, WIDE, WIDE + HUGE_PAGE - 4, WIDE + HUGE_PAGE,
)  # fmt: skip
ADDRESSES: Final = MAPPED + MAPPED + EDGES + NOT_CANONICAL + KERNEL_PLACES
NUMBERS: Final = (
    0, 1, 2, 3, 7, 8, 16, 63, 64, 255, 256, 511, 512, 0xFFF, PAGE, 0x7FFF, 0xFFFF, 0x1F80, 0x37F, 0x7FFFFFFF, 0x80000000,
    0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, ONES, ONES - 1, ONES - 4095, 0xC0000082, 0xC0000080, 0xC0000102, 0x10,
)  # fmt: skip
# Every index of the GDT and some beyond, with the table bit and each ring; what Linux and other hosts use themselves.
SELECTORS: Final = (
    *range(0x60), 0x23, 0x2B, 0x33, 0x23, 0x63, 0x6B, 0x7B, 0xE008, 0xE033, 0xE02B, 0xFFFF, 0xFFFC, 0x8000,
)  # fmt: skip
# TF, AC, DF, NT, RF, VM, IOPL, VIF, VIP, ID, and all or nothing.
FLAGS: Final = (
    0x100, 0x40000, 0x400, 0x4000, 0x10000, 0x20000, 0x3000, 0x80000, 0x100000, 0x200000, 0, 0x202, 0x8D5, 0x40100, 0x10100,
    0xFFFFFFFF, ONES,
)  # fmt: skip
