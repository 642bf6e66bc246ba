"""Ranges of locked memory, against a set of pages."""

from __future__ import annotations

import random

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.locked import RANGES_MAX, LockedRanges


def test_ranges_are_what_a_set_of_pages_is() -> None:
    pages: set[int] = set()
    ranges = LockedRanges()
    choose = random.Random(4)
    for _ in range(400):
        start = choose.randrange(60)
        end = start + choose.randrange(1, 12)
        if choose.random() < 0.5:
            ranges.add(start, end)
            pages.update(range(start, end))
        else:
            ranges.remove(start, end)
            pages.difference_update(range(start, end))
        assert ranges.total == len(pages)
        assert all(ranges.overlaps(page, page + 1) == (page in pages) for page in range(75))


def test_there_are_only_so_many() -> None:
    ranges = LockedRanges()
    for index in range(RANGES_MAX):
        ranges.add(2 * index, 2 * index + 1)
    with pytest.raises(SyscallError):
        ranges.add(2 * RANGES_MAX, 2 * RANGES_MAX + 1)
    ranges.add(0, 2 * RANGES_MAX)
    assert ranges.total == 2 * RANGES_MAX
