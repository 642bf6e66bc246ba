"""The one source of chance of a case: everything random about it comes from here, so a case is a function of two numbers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from fuzz.places import ADDRESSES, NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Source:
    """Random numbers of case `index` under the master seed `seed`."""

    __slots__ = ("bits", "bytes", "unit")

    def __init__(self, seed: int, index: int) -> None:
        chance = random.Random(seed << 64 | index)
        self.bits = chance.getrandbits
        self.unit = chance.random
        self.bytes = chance.randbytes

    def below(self, bound: int) -> int:
        return int(self.unit() * bound)

    def pick(self, things: Sequence[T]) -> T:
        return things[int(self.unit() * len(things))]

    def address(self) -> int:
        """Mostly one that means something, or near one."""
        chance = self.unit()
        if chance < 0.7:
            return self.pick(ADDRESSES)
        if chance < 0.9:
            return (self.pick(ADDRESSES) + self.bits(7) - 64) & 0xFFFF_FFFF_FFFF_FFFF
        return self.bits(64)

    def number(self) -> int:
        chance = self.unit()
        if chance < 0.6:
            return self.pick(NUMBERS)
        if chance < 0.8:
            return self.address()
        return self.bits(64) >> self.bits(6)
