"""Addresses, access rights and regions of guest memory as values; no memory is touched here."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

__all__ = ["HUGE_PAGE", "PAGE", "USER_MAX", "USER_MIN", "Access", "Region", "is_canonical"]

PAGE: Final = 4096
HUGE_PAGE: Final = 2 << 20

# User addresses lie in [USER_MIN, USER_MAX); the last 15 pages of what Linux offers are the platform's own (akvm.h).
USER_MIN: Final = 0x10000
USER_MAX: Final = 0x7FFF_FFFF_0000

_LOWER_HALF_END: Final = 1 << 47
_UPPER_HALF_START: Final = (1 << 64) - (1 << 47)


class Access(enum.IntFlag):
    """What may be done, or was tried, with memory. The values are the native ones."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4


class Region(NamedTuple):
    """One mapping: [start, end), its rights, and where its bytes come from (`file` 0: anonymous memory).

    `shared`: stores go to the file.
    """

    start: int
    end: int
    access: Access
    file: int
    offset: int
    shared: bool = False


def is_canonical(address: int) -> bool:
    """Whether bits 63..47 of a 64-bit address are all equal (4-level paging; SDM vol. 1, 3.3.7.1)."""
    return 0 <= address < _LOWER_HALF_END or _UPPER_HALF_START <= address < 1 << 64
