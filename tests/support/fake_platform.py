"""A platform without KVM, for tests of what stands on it: memory is a dictionary of pages, a guest is a Python generator.

The generator yields exits and is sent RAX; what it reads and writes of its memory it does through the space. Only what
`asynckvm.linux` uses is here, with the same errors.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias
from weakref import WeakValueDictionary

from asynckvm.errors import GuestMemoryError, GuestStringError, OutOfMemoryError, UsageError
from asynckvm.model.exits import Exit, Instruction, Interrupted, InterruptReason, Syscall
from asynckvm.model.memory import PAGE, USER_MAX, USER_MIN, Access, Region
from asynckvm.model.registers import REGISTER_NAMES, WORDS, Registers
from asynckvm.platform import DirectCall

Script: TypeAlias = Callable[["FakeSpace"], Generator[Exit, int, None]]


class _Inode(dict[int, bytearray]):
    """What shared mappings show at each offset: all of them the same, but it is never stored in the file itself. `number` is its
    number in regions."""

    numbers = iter(range(1, 1 << 30))

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)


class _Page:
    def __init__(self, access: Access, data: bytearray, file: int, offset: int, shared: _Inode | None) -> None:
        self.access = access
        self.data = data
        self.file = file
        self.offset = offset
        self.shared = shared


class FakeFile:
    inodes: ClassVar[WeakValueDictionary[tuple[int, int], _Inode]] = WeakValueDictionary()

    def __init__(self, fd: int, *, writable: bool = False) -> None:
        self.data = os.pread(fd, 1 << 24, 0)
        self.closed = False
        self.writable = writable
        status = os.fstat(fd)
        self.inode = self.inodes.setdefault((status.st_dev, status.st_ino), _Inode())
        self.number = self.inode.number
        if writable:
            for offset in range(0, len(self.data), PAGE):
                self.page(offset, shared=True)

    def page(self, offset: int, *, shared: bool) -> bytearray:
        data = bytearray(self.data[offset : offset + PAGE].ljust(PAGE, b"\0"))
        return self.inode.setdefault(offset, data) if shared else data

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeSpace:
    def __init__(self) -> None:
        self.pages: dict[int, _Page] = {}
        self.closed = False

    def map(
        self,
        address: int,
        length: int,
        access: Access,
        file: FakeFile | None = None,
        offset: int = 0,
        *,
        shared: bool = False,
        stable: bool = False,
    ) -> None:
        _check(address, length)
        assert length <= 1 << 28, "too much for a dictionary"
        if shared and (file is None or (access & Access.WRITE and not file.writable)):
            raise UsageError("a shared mapping needs a file that was opened for it")
        number, inode = (file.number, file.inode if shared else None) if file else (0, None)
        for done in range(0, length, PAGE):
            data = file.page(offset + done, shared=shared) if file else bytearray(PAGE)
            self.pages[address + done] = _Page(access, data, number, offset + done if file else 0, inode)

    def move(self, source: int, to: int, length: int) -> None:
        _check(source, length)
        _check(to, length)
        if abs(source - to) < length:
            raise UsageError("the ranges overlap")
        self.present(source, length)
        self.unmap(to, length)
        for done in range(0, length, PAGE):
            self.pages[to + done] = self.pages.pop(source + done)

    def extend(self, address: int, length: int) -> None:
        _check(address, length)
        if address - PAGE not in self.pages or address in self.pages:
            raise GuestMemoryError(address)
        for done in range(address, address + length, PAGE):
            last = self.pages[done - PAGE]
            offset = last.offset + PAGE if last.file else 0
            assert last.shared is not None or not last.file, "a private view has forgotten its file"
            data = bytearray(PAGE) if last.shared is None else last.shared.setdefault(offset, bytearray(PAGE))
            self.pages[done] = _Page(last.access, data, last.file, offset, last.shared)

    def present(self, address: int, length: int) -> bytes:
        _check(address, length)
        for page in range(address, address + length, PAGE):
            if page not in self.pages:
                raise GuestMemoryError(page)
        return b"\1" * (length // PAGE)

    def compare_exchange(self, address: int, expected: int, desired: int) -> int:
        if address % 4:
            raise UsageError(f"not a multiple of 4: {address:#x}")
        page, offset = self._at(address, Access.WRITE, 0)
        old = int.from_bytes(page.data[offset : offset + 4], "little")
        if old == expected:
            page.data[offset : offset + 4] = desired.to_bytes(4, "little")
        return old

    def unmap(self, address: int, length: int) -> None:
        _check(address, length)
        for page in [page for page in self.pages if address <= page < address + length]:
            del self.pages[page]

    def protect(self, address: int, length: int, access: Access) -> None:
        _check(address, length)
        pages = range(address, address + length, PAGE)
        for page in pages:
            if page not in self.pages:
                raise GuestMemoryError(page)
        for page in pages:
            self.pages[page].access = access

    def discard(self, address: int, length: int) -> None:
        _check(address, length)
        inside = range(address, address + length, PAGE)
        for number, page in self.pages.items():
            if number in inside and page.shared is None:
                page.data = bytearray(PAGE)
        if self.mapped(address, length) < length:
            raise GuestMemoryError(next(page for page in inside if page not in self.pages))

    def read(self, address: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            page, offset = self._at(address + len(found), Access.READ, len(found))
            found += page.data[offset : offset + length - len(found)]
        return bytes(found)

    def write(self, address: int, data: bytes, *, force: bool = False) -> None:
        done = 0
        while done < len(data):
            page, offset = self._at(address + done, Access.NONE if force else Access.WRITE, done)
            piece = data[done : done + PAGE - offset]
            page.data[offset : offset + len(piece)] = piece
            done += len(piece)

    def read_string(self, address: int, limit: int) -> bytes:
        found = bytearray()
        while (byte := self.read(address + len(found), 1)) != b"\0":
            found += byte
            if len(found) > limit:
                raise GuestStringError(address, limit)
        return bytes(found)

    def region(self, address: int) -> Region | None:
        above = sorted(page for page in self.pages if page + PAGE > address)
        if not above:
            return None
        start = end = above[0]
        page = self.pages[start]
        while start - PAGE in self.pages and self._same(self.pages[start - PAGE], page):
            start -= PAGE
        while end in self.pages and self._same(self.pages[end], page):
            end += PAGE
        return Region(start, end, page.access, page.file, self.pages[start].offset, page.shared is not None)

    def mapped(self, address: int, length: int) -> int:
        pages = range(address & ~(PAGE - 1), address + length, PAGE)
        inside = (page for page in self.pages if page in pages) if len(pages) > len(self.pages) else filter(self.pages.get, pages)
        return sum(min(page + PAGE, address + length) - max(page, address) for page in inside)

    def room(self, start: int, end: int, length: int, alignment: int = PAGE) -> int | None:
        place = -(-start // alignment) * alignment
        while place + length <= end:
            taken = [page for page in self.pages if page < place + length and page + PAGE > place]
            if not taken:
                return place
            place = -(-(max(taken) + PAGE) // alignment) * alignment
        return None

    @property
    def resident(self) -> int:
        return len(self.pages)

    def set_budget(self, budget: FakeBudget | None) -> None:
        """Nothing here is charged."""

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _same(one: _Page, other: _Page) -> bool:
        return (one.access, one.file) == (other.access, other.file) and one.shared is other.shared

    def _at(self, address: int, access: Access, done: int) -> tuple[_Page, int]:
        page = self.pages.get(address & ~(PAGE - 1))
        if page is None or access not in page.access:
            raise GuestMemoryError(address, done)
        return page, address % PAGE


class FakeBudget:
    """A bound for what is charged to it by hand."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.used = 0

    def charge(self, pages: int) -> None:
        if self.used + pages > self.pages:
            raise OutOfMemoryError("charge", errno.ENOMEM)
        self.used += pages

    def release(self, pages: int) -> None:
        self.used -= pages

    def close(self) -> None:
        """The bound stays."""


class Counters(NamedTuple):
    exits: int
    native_exits: int
    ran_ns: int


class FakeDirectFile:
    """Owns a descriptor. `held`: how often, while somebody moves its position."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.held = 0

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1


class FakeDirectFiles:
    """What vCPUs would read by themselves."""

    def __init__(self) -> None:
        self.files: dict[int, FakeDirectFile] = {}
        self.closed = False

    def open(self, fd: int) -> FakeDirectFile:
        return FakeDirectFile(fd)

    def add(self, descriptor: int, file: FakeDirectFile) -> None:
        assert not self.closed
        self.files[descriptor] = file

    def remove(self, descriptor: int) -> None:
        assert not self.closed
        self.files.pop(descriptor, None)

    def close(self) -> None:
        self.closed = True


class FakeContext:
    """Runs a script. An interrupt is seen before the next exit, as on the real thing."""

    def __init__(self, space: FakeSpace, script: Script) -> None:
        self.space = space
        self.words = memoryview(bytearray(8 * WORDS)).cast("Q")
        self.answers: dict[int, int] = {}
        self.direct_files: FakeDirectFiles | None = None
        self.direct_calls: dict[DirectCall, int] = {}
        self.exits = 0
        self.interrupts = 0
        self.closed = False
        self.xsave = bytes(FakeMachine.capabilities.xsave_bytes)
        self._script = script
        self._running: Generator[Exit, int, None] | None = None

    async def switch(self) -> Exit:
        if self.interrupts:
            self.interrupts = 0
            return Interrupted(InterruptReason.BOUNCED)
        self.exits += 1
        try:
            if self._running is None:
                self._running = self._script(self.space)
                return next(self._running)
            return self._running.send(self.words[0])
        except StopIteration:
            return syscall(231, 0)

    def interrupt(self, reason: InterruptReason = InterruptReason.BOUNCED) -> None:
        assert reason is InterruptReason.BOUNCED
        self.interrupts += 1

    @property
    def registers(self) -> Registers:
        return Registers(**dict(zip(REGISTER_NAMES, self.words, strict=True)))

    @registers.setter
    def registers(self, registers: Registers) -> None:
        for position, value in enumerate(registers.words()):
            self.words[position] = value

    def set_direct_files(self, files: FakeDirectFiles | None) -> None:
        self.direct_files = files

    @property
    def counters(self) -> Counters:
        return Counters(self.exits, 0, 1000 * self.exits)

    def close(self) -> None:
        self.closed = True


class Memory(NamedTuple):
    frames_total: int = 1 << 18
    frames_used: int = 1 << 10


class FakeMachine:
    """Every context it makes runs `script`."""

    class capabilities:  # noqa: N801  an attribute of the machine
        fsgsbase = False
        xsave_bytes = 4096
        xcr0 = 7
        tsc_offset_exact = False

    class config:  # noqa: N801
        vcpus = 2
        memory = 1 << 30

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda _: iter(()))  # type: ignore[assignment,return-value]
        self.spaces: list[FakeSpace] = []
        self.contexts: list[FakeContext] = []

    def create_address_space(self) -> FakeSpace:
        self.spaces.append(FakeSpace())
        return self.spaces[-1]

    def create_memory_budget(self, pages: int) -> FakeBudget:
        return FakeBudget(pages)

    def create_direct_files(self, numbers: Mapping[DirectCall, int]) -> FakeDirectFiles:
        assert set(numbers) == set(DirectCall)
        return FakeDirectFiles()

    def create_context(self, space: FakeSpace) -> FakeContext:
        self.contexts.append(FakeContext(space, self.script))
        return self.contexts[-1]

    def open_file(self, file: int | os.PathLike[str], *, writable: bool = False, length: int = 0) -> FakeFile:
        if isinstance(file, int):
            return FakeFile(file, writable=writable)
        with open(file, "rb") as opened:
            return FakeFile(opened.fileno(), writable=writable)

    def dump(self) -> str:
        return "no machine"

    def memory_counters(self) -> Memory:
        return Memory()


def syscall(number: int, *args: int) -> Syscall:
    """A system call with its missing arguments zero, negative ones as the register would hold them."""
    values: Any = tuple(value & (1 << 64) - 1 for value in (*args, 0, 0, 0, 0, 0, 0)[:6])
    return Syscall(number, values, Instruction.SYSCALL)


def _check(address: int, length: int) -> None:
    if address % PAGE or length % PAGE or length <= 0 or address < USER_MIN or address + length > USER_MAX:
        raise UsageError(f"bad range {address:#x} {length:#x}")
