"""Guest memory against a model: spaces are mapped, protected, written, discarded and forked at random, and a guest looks.

The model knows for each page whether it is there, whether it may be written, and its first word; the guest's load or store must
find that, or fault as it says.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from kvm.guestcode import CODE, EXECUTE, PAGE, READ, WRITE, assemble, switched
from stress.lives import COPIES_PAGES

from asynckvm.errors import GuestMemoryError
from asynckvm.model.exits import Fault, Syscall
from asynckvm.model.registers import RegisterIndex as R

if TYPE_CHECKING:
    import random

    from soak.session import Session

    from asynckvm.platform import AddressSpace, Context

BASE: Final = 0x40000000
PAGES: Final = 1024
_LOAD: Final = "movq (%rdi), %rbx; syscall; movq %rsi, (%rdi); syscall"
_STORE_AT: Final = 5  # the load and its system call are three and two bytes
_MAPERR, _ACCERR = 1, 2
# Whole huge pages, odd pieces, single pages.
_LENGTHS: Final = (1, 1, 2, 7, 16, 33, 512)


class Page(NamedTuple):
    writable: bool
    value: int
    file: int  # the word that the file has there; 0 for none


class Model:
    """A space and what must be in it."""

    def __init__(self, session: Session, space: AddressSpace, pages: dict[int, Page]) -> None:
        self.session, self.space, self.pages = session, space, pages
        self.context: Context = session.machine.create_context(space)

    def close(self) -> None:
        self.context.close()
        self.space.close()

    def fork(self) -> Model:
        return Model(self.session, self.space.fork(), dict(self.pages))

    def step(self, source: random.Random) -> None:
        """One change from the host's side."""
        first = source.randrange(PAGES)
        length = min(source.choice(_LENGTHS), PAGES - first)
        numbers = range(first, first + length)
        address, size = BASE + first * PAGE, length * PAGE
        way = source.randrange(7)
        if way <= 1:
            access = READ | WRITE if source.random() < 0.8 else READ
            self.space.map(address, size, access)
            self.pages |= dict.fromkeys(numbers, Page(access == READ | WRITE, 0, 0))
        elif way == 2:
            length = min(length, COPIES_PAGES)
            self.space.map(address, length * PAGE, READ | WRITE, file=self.session.nursery.file)
            self.pages |= {first + number: Page(True, number + 1, number + 1) for number in range(length)}
        elif way == 3:
            self.space.unmap(address, size)
            for number in numbers:
                self.pages.pop(number, None)
        elif way == 4 and all(number in self.pages for number in numbers):
            writable = source.random() < 0.5
            self.space.protect(address, size, READ | WRITE if writable else READ)
            self.pages |= {number: self.pages[number]._replace(writable=writable) for number in numbers}
        elif way == 5:
            there = [number for number in numbers if number in self.pages]
            # As madvise(2): it does what it can, and then complains about the holes.
            with contextlib.nullcontext() if len(there) == length else pytest.raises(GuestMemoryError):
                self.space.discard(address, size)
            self.pages |= {number: self.pages[number]._replace(value=self.pages[number].file) for number in there}
        elif first in self.pages:
            value = source.getrandbits(64)
            self.space.write(address, value.to_bytes(8, "little"), force=True)
            self.pages[first] = self.pages[first]._replace(value=value)

    async def look(self, source: random.Random) -> None:
        """One load or store of the guest's."""
        number = source.choice(list(self.pages)) if self.pages and source.random() < 0.8 else source.randrange(PAGES)
        page, stores, value = self.pages.get(number), source.random() < 0.5, source.getrandbits(64)
        address, words = BASE + number * PAGE, self.context.words
        words[R.rip] = CODE + (_STORE_AT if stores else 0)
        words[R.rdi], words[R.rsi], words[R.rbx] = address, value, 0
        exit_ = await switched(self.context)
        if page is None or (stores and not page.writable):
            fault = (11, _MAPERR if page is None else _ACCERR, address)
            assert isinstance(exit_, Fault), f"{exit_}, not {fault}, at page {number}: {page}"
            assert exit_[:3] == fault, f"{exit_}, not {fault}, at page {number}: {page}"
            return
        assert isinstance(exit_, Syscall), f"{exit_} at page {number}: {page}"
        if stores:
            self.pages[number] = page._replace(value=value)
        else:
            assert words[R.rbx] == page.value, f"{words[R.rbx]:#x} at page {number}: {page}"


async def mapper(session: Session, source: random.Random) -> None:
    """One actor's action: a small family of spaces from birth to death."""
    space = session.machine.create_address_space()
    space.map(CODE, PAGE, READ | EXECUTE)
    space.write(CODE, assemble(_LOAD), force=True)
    family = [Model(session, space, {})]
    for _ in range(source.randint(20, 120)):
        one = source.choice(family)
        way = source.random()
        if way < 0.4:
            one.step(source)
        elif way < 0.95:
            await one.look(source)
        elif len(family) < 4:
            family.append(one.fork())
    source.shuffle(family)
    for one in family:
        one.close()
