"""Which memory a process has locked. Nothing is ever swapped out here, so a lock only brings pages in and is told back.

Source: mlock(2), mm/mlock.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import PARTS_AT_ONCE
from asynckvm.model.memory import PAGE, Access

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asynckvm.linux.memory import Memory

# Ranges of one process that do not touch.
RANGES_MAX: Final = 1024
_PAGES_AT_ONCE: Final = 256


class LockedRanges:
    """Locked addresses as [start, end), which neither overlap nor touch."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(end - start for start, end in self._ranges)

    def overlaps(self, start: int, end: int) -> bool:
        return any(first < end and start < last for first, last in self._ranges)

    def add(self, start: int, end: int) -> None:
        """ENOMEM when there are too many."""
        apart = [row for row in self._ranges if row[1] < start or end < row[0]]
        if len(apart) >= RANGES_MAX:
            raise SyscallError(errno.ENOMEM)
        near = [row for row in self._ranges if row[1] >= start and end >= row[0]]
        apart.append((min([start, *(row[0] for row in near)]), max([end, *(row[1] for row in near)])))
        self._ranges = apart

    def replace(self, ranges: list[tuple[int, int]]) -> None:
        """These and no others, which neither overlap nor touch. ENOMEM when there are too many."""
        if len(ranges) > RANGES_MAX:
            raise SyscallError(errno.ENOMEM)
        self._ranges = ranges

    def remove(self, start: int, end: int) -> None:
        if self.overlaps(start, end):
            rest = [piece for first, last in self._ranges for piece in ((first, min(last, start)), (max(first, end), last))]
            self._ranges = [(first, last) for first, last in rest if first < last]


async def bring_in(memory: Memory, address: int, end: int, turn: Callable[[], Awaitable[None]]) -> None:
    """Make the pages of a range exist: those that can be stored to for good, others as far as they can be read.

    `turn` lets others run now and then; it raises when the caller is to end.
    """
    for count, (region, start, stop) in enumerate(memory.parts(address, end), 1):
        if not count % PARTS_AT_ONCE:
            await turn()
        if not region.access & Access.READ:
            continue
        for done in range(start, stop, _PAGES_AT_ONCE * PAGE):
            for page in range(done, min(stop, done + _PAGES_AT_ONCE * PAGE), PAGE):
                if region.access & Access.WRITE:
                    memory.space.compare_exchange(page, 0, 0)
                else:
                    memory.space.read(page, 1)
            await turn()
