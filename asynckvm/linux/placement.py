"""Where new mappings go in an address space, when the program leaves that to the kernel. Source: mmap(2), mm/mmap.c."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import MMAP_WINDOWS, page_down, page_up
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, USER_MIN

if TYPE_CHECKING:
    from asynckvm.platform import AddressSpace

_WINDOW_32BIT: Final = (0x4000_0000, 0x8000_0000)
# Regions looked at before a search gives up on small holes; bounds the time of one call in a program with many mappings.
_SEARCH_REGIONS_MAX: Final = 64


class Placement:
    """The free room of one address space. Remembers what was never used, so that a search is short."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        # Of each window: everything below is taken, everything from the second on was never used.
        self._low = [start for start, _ in MMAP_WINDOWS]
        self._high = [start for start, _ in MMAP_WINDOWS]

    def copy(self, space: AddressSpace) -> Placement:
        """For a copy of the address space."""
        twin = Placement(space)
        twin._low, twin._high = list(self._low), list(self._high)
        return twin

    def find(self, hint: int, length: int, *, low: bool = False) -> int:
        """Room for `length` bytes: at the hint when there is some, else in a window; below 2 GiB when `low`. ENOMEM."""
        hint = page_down(hint)
        if hint and in_user_space(hint, length) and self.is_free(hint, hint + length):
            return hint
        if low:
            windows = [(*_WINDOW_32BIT, _WINDOW_32BIT[0])]
        else:
            windows = [(start, end, high) for start, high, (_, end) in zip(self._low, self._high, MMAP_WINDOWS, strict=True)]
        # Where 2 MiB pages fit, they are a hundred times cheaper to touch first.
        align = HUGE_PAGE if length >= HUGE_PAGE else PAGE
        for start, end, high in windows:
            found = self._search(start, end, length, align)
            if found is not None:
                return found
            found = -(-high // align) * align
            if found + length <= end and self.is_free(found, found + length):
                return found
        raise SyscallError(errno.ENOMEM)

    def is_free(self, start: int, end: int) -> bool:
        region = self._space.region(start)
        return region is None or region.start >= end

    def note_mapped(self, address: int, length: int) -> None:
        for index, (start, end) in enumerate(MMAP_WINDOWS):
            if start <= address < end:
                self._high[index] = max(self._high[index], address + length)
                if address <= self._low[index] < address + length:
                    self._low[index] = address + length

    def note_unmapped(self, address: int) -> None:
        for index, (start, end) in enumerate(MMAP_WINDOWS):
            if start <= address < end:
                self._low[index] = min(self._low[index], address)

    def _search(self, low: int, end: int, length: int, align: int) -> int | None:
        """The lowest room in [low, end), None when the first regions leave none."""
        position = -(-low // align) * align
        for _ in range(_SEARCH_REGIONS_MAX):
            region = self._space.region(position)
            if region is None or region.start >= position + length:
                return position if position + length <= end else None
            position = -(-region.end // align) * align
        return None


def in_user_space(address: int, length: int) -> bool:
    return address >= USER_MIN and page_up(address + length) <= USER_MAX
