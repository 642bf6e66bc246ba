"""The rules of brk, mmap and their kin, on an address space of Python."""

import errno
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asynckvm.errors import OutOfMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import MMAP_WINDOWS
from asynckvm.linux.memory import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_MAYMOVE,
    Memory,
    Shared,
)
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, Access
from support.fake_platform import FakeFile, FakeSpace

ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS
MADV_WIPEONFORK = 18
RW = 3
HEAP = 0x600000
HINT = 0x7000_0000_0000


@pytest.fixture
def memory() -> Memory:
    return Memory(FakeSpace(), HEAP)  # type: ignore[arg-type]


def number(call: Callable[[], object]) -> int:
    with pytest.raises(SyscallError) as caught:
        call()
    return caught.value.number


def test_the_heap_grows_shrinks_and_tells_where_it_ends(memory: Memory) -> None:
    assert memory.brk(0) == HEAP
    assert memory.brk(HEAP + 5000) == HEAP + 5000
    memory.space.write(HEAP + 8000, b"x")
    assert memory.brk(HEAP + 100) == HEAP + 100
    assert memory.space.region(HEAP + PAGE) is None
    assert memory.brk(HEAP - 1) == HEAP + 100
    assert memory.brk(USER_MAX) == HEAP + 100


def test_the_heap_stops_at_what_is_mapped_above_it(memory: Memory) -> None:
    memory.map(HEAP + 3 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED)
    assert memory.brk(HEAP + 4 * PAGE) == HEAP
    assert memory.brk(HEAP + 3 * PAGE) == HEAP + 3 * PAGE


def test_a_full_machine_leaves_the_heap_where_it_was(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutOfMemoryError("map", errno.ENOMEM)

    monkeypatch.setattr(memory.space, "map", full)
    assert memory.brk(HEAP + PAGE) == HEAP


def test_mappings_never_overlap_and_big_ones_are_aligned(memory: Memory) -> None:
    taken: list[tuple[int, int]] = []
    for length in (1, PAGE, 3 * PAGE, HUGE_PAGE, PAGE, HUGE_PAGE + 1):
        address = memory.map(0, length, RW, ANONYMOUS)
        assert address % (HUGE_PAGE if length >= HUGE_PAGE else PAGE) == 0
        assert all(address >= end or address + length <= start for start, end in taken)
        taken.append((address, address + length))


def test_room_that_was_given_back_is_used_again(memory: Memory) -> None:
    first = memory.map(0, PAGE, RW, ANONYMOUS)
    memory.map(0, PAGE, RW, ANONYMOUS)
    memory.unmap(first, PAGE)
    assert memory.map(0, PAGE, RW, ANONYMOUS) == first


def test_many_small_holes_do_not_keep_a_mapping_from_its_place(memory: Memory) -> None:
    pages = [memory.map(0, PAGE, RW, ANONYMOUS) for _ in range(200)]
    for page in pages[::2]:
        memory.unmap(page, PAGE)
    assert memory.map(0, 2 * PAGE, RW, ANONYMOUS) > pages[-1]


def test_a_hint_is_followed_when_there_is_room(memory: Memory) -> None:
    assert memory.map(HINT + 123, PAGE, RW, ANONYMOUS) == HINT
    assert memory.map(HINT, PAGE, RW, ANONYMOUS) != HINT
    assert memory.map(HINT, PAGE, RW, ANONYMOUS | MAP_FIXED) == HINT
    assert number(lambda: memory.map(HINT, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE)) == errno.EEXIST


def test_the_32_bit_window(memory: Memory) -> None:
    first = memory.map(0, PAGE, RW, ANONYMOUS | 0x40)
    second = memory.map(0, PAGE, RW, ANONYMOUS | 0x40)
    assert 0 < first < second < 1 << 31


@pytest.mark.parametrize(
    ("address", "length", "flags", "expected"),
    [
        (0, 0, ANONYMOUS, errno.EINVAL),
        (0, PAGE, MAP_ANONYMOUS, errno.EINVAL),
        (HINT + 1, PAGE, ANONYMOUS | MAP_FIXED, errno.EINVAL),
        (0, PAGE, ANONYMOUS | MAP_FIXED, errno.EPERM),
        (USER_MAX, PAGE, ANONYMOUS | MAP_FIXED, errno.ENOMEM),
        ((1 << 64) - PAGE, PAGE, ANONYMOUS | MAP_FIXED, errno.ENOMEM),
        (0, (1 << 64) - 1, ANONYMOUS, errno.ENOMEM),
        (0, USER_MAX - PAGE, ANONYMOUS, errno.ENOMEM),
        (0, PAGE, ANONYMOUS | 0x40000, errno.ENOMEM),
        (0, PAGE, 0x0F | MAP_ANONYMOUS, errno.EINVAL),
    ],
)
def test_what_mmap_refuses(memory: Memory, address: int, length: int, flags: int, expected: int) -> None:
    assert number(lambda: memory.map(address, length, RW, flags)) == expected


@pytest.mark.parametrize(
    ("protection", "access"),
    [(0, Access.NONE), (1, Access.READ), (2, Access.READ | Access.WRITE), (4, Access.READ | Access.EXECUTE)],
)
def test_protection_means_what_it_means_on_x86(memory: Memory, protection: int, access: Access) -> None:
    address = memory.map(0, PAGE, protection, ANONYMOUS)
    assert memory.space.region(address).access == access  # type: ignore[union-attr]


def test_unmapping(memory: Memory) -> None:
    address = memory.map(0, 3 * PAGE, RW, ANONYMOUS)
    assert memory.unmap(address + PAGE, 1) == 0
    assert memory.space.region(address + PAGE).start == address + 2 * PAGE  # type: ignore[union-attr]
    assert memory.unmap(0, PAGE) == 0
    assert number(lambda: memory.unmap(address + 1, PAGE)) == errno.EINVAL
    assert number(lambda: memory.unmap(address, 0)) == errno.EINVAL
    assert number(lambda: memory.unmap(0, (1 << 64) - PAGE)) == errno.EINVAL


def test_protecting_stops_at_a_hole_and_says_so(memory: Memory) -> None:
    address = memory.map(0, 4 * PAGE, RW, ANONYMOUS)
    memory.unmap(address + 2 * PAGE, PAGE)
    assert number(lambda: memory.protect(address, 4 * PAGE, 1)) == errno.ENOMEM
    assert memory.space.region(address) == (address, address + 2 * PAGE, Access.READ, 0, 0, False)
    assert memory.space.region(address + 3 * PAGE).access == Access.READ | Access.WRITE  # type: ignore[union-attr]
    assert memory.protect(address, 0, 1) == 0
    assert number(lambda: memory.protect(address, PAGE, 1 << 24)) == errno.EINVAL
    assert number(lambda: memory.protect(address + 1, PAGE, 1)) == errno.EINVAL
    assert number(lambda: memory.protect(address, (1 << 64) - PAGE, 1)) == errno.ENOMEM


def test_advice(memory: Memory) -> None:
    address = memory.map(0, 2 * PAGE, RW, ANONYMOUS)
    memory.space.write(address, b"kept")
    assert memory.advise(address, PAGE, 3) == 0
    assert memory.space.read(address, 4) == b"kept"
    assert memory.advise(address, PAGE, 4) == 0
    assert memory.space.read(address, 4) == bytes(4)
    assert number(lambda: memory.advise(address, 3 * PAGE, 4)) == errno.ENOMEM
    assert number(lambda: memory.advise(address, PAGE, 99)) == errno.EINVAL
    assert number(lambda: memory.advise(address + 1, PAGE, 4)) == errno.EINVAL


class TestRemap:
    def test_in_place(self, memory: Memory) -> None:
        address = memory.map(0, 2 * PAGE, RW, ANONYMOUS)
        memory.space.write(address, b"first")
        assert memory.remap(address, 2 * PAGE, 5 * PAGE, 0, 0) == address
        assert memory.space.region(address).end == address + 5 * PAGE  # type: ignore[union-attr]
        assert memory.remap(address, 5 * PAGE, PAGE, 0, 0) == address
        assert memory.space.region(address).end == address + PAGE  # type: ignore[union-attr]
        assert memory.space.read(address, 5) == b"first"

    def test_by_moving(self, memory: Memory) -> None:
        address = memory.map(0, 2 * PAGE, RW, ANONYMOUS)
        memory.map(address + 2 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED)
        memory.space.write(address + PAGE, b"second page")
        assert number(lambda: memory.remap(address, 2 * PAGE, 3 * PAGE, 0, 0)) == errno.ENOMEM
        moved = memory.remap(address, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0)
        assert moved != address
        assert memory.space.read(moved + PAGE, 11) == b"second page"
        assert memory.space.region(address).start == address + 2 * PAGE  # type: ignore[union-attr]

    @pytest.mark.parametrize("beside", [False, True])
    def test_a_file_shows_more_of_itself(self, memory: Memory, beside: bool) -> None:
        with tempfile.TemporaryFile() as host:
            host.write(b"".join(bytes([number]) * PAGE for number in range(6)))
            host.flush()
            file = FakeFile(host.fileno(), writable=True)
        source = Shared(file, PAGE, shared=True)  # type: ignore[arg-type]
        address = memory.map(0, 2 * PAGE, RW, MAP_SHARED, source)
        if beside:
            memory.map(address + 2 * PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED)
        moved = memory.remap(address, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0)
        assert (moved != address) is beside
        assert memory.space.read(moved, 4 * PAGE) == b"".join(bytes([number]) * PAGE for number in range(1, 5))
        assert memory.space.region(moved) == (moved, moved + 4 * PAGE, Access.READ | Access.WRITE, file.number, PAGE, True)

    def test_refusals(self, memory: Memory) -> None:
        address = memory.map(0, PAGE, RW, ANONYMOUS)
        for arguments, expected in [
            ((address + 1, PAGE, PAGE, 0), errno.EINVAL),
            ((address, PAGE, 0, 0), errno.EINVAL),
            ((address, PAGE, PAGE, 2), errno.EINVAL),
            ((address, 2 * PAGE, PAGE, 0), errno.EFAULT),
            ((HINT, PAGE, PAGE, 0), errno.EFAULT),
            ((address, PAGE, 1 << 60, MREMAP_MAYMOVE), errno.ENOMEM),
        ]:
            assert number(lambda arguments=arguments: memory.remap(*arguments, 0)) == expected  # type: ignore[misc]


class Placement(RuleBasedStateMachine):
    """Mappings that the kernel places stay within its windows, whole, and apart, whatever is mapped and unmapped."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(FakeSpace(), HEAP)  # type: ignore[arg-type]
        self.mapped: set[int] = set()

    @rule(pages=st.integers(1, 6), flags=st.sampled_from([MAP_PRIVATE, MAP_SHARED]))
    def map(self, pages: int, flags: int) -> None:
        address = self.memory.map(0, pages * PAGE, RW, flags | MAP_ANONYMOUS)
        new = set(range(address, address + pages * PAGE, PAGE))
        assert not new & self.mapped
        assert any(start <= address and address + pages * PAGE <= end for start, end in MMAP_WINDOWS)
        self.mapped |= new

    @rule(data=st.data(), pages=st.integers(1, 4))
    def unmap(self, data: st.DataObject, pages: int) -> None:
        if self.mapped:
            address = data.draw(st.sampled_from(sorted(self.mapped)))
            self.memory.unmap(address, pages * PAGE)
            self.mapped -= set(range(address, address + pages * PAGE, PAGE))

    @invariant()
    def agrees(self) -> None:
        assert set(self.memory.space.pages) == self.mapped  # type: ignore[attr-defined]


TestPlacement = Placement.TestCase
TestPlacement.settings = settings(max_examples=40, stateful_step_count=30)


def test_a_child_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    child = FakeSpace()

    class Forking(FakeSpace):
        def fork(self) -> FakeSpace:
            return child

    def full(*_: object) -> None:
        raise OutOfMemoryError("discard", errno.ENOMEM)

    memory = Memory(Forking(), HEAP)  # type: ignore[arg-type]
    address = memory.map(0, PAGE, RW, ANONYMOUS)
    assert memory.advise(address, PAGE, MADV_WIPEONFORK) == 0
    monkeypatch.setattr(child, "discard", full)
    with pytest.raises(OutOfMemoryError):
        memory.fork()
    assert child.closed
    assert not memory.space.closed  # type: ignore[attr-defined]
