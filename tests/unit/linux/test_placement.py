"""Where mappings go, and memory that processes share: room that is found again, and bounds that hold."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import MMAP_WINDOWS, page_down, page_up
from asynckvm.linux.placement import find_room
from asynckvm.linux.shared_memory import SharedMemory
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, Access
from support.fake_platform import FakeBudget, FakeFile, FakeMachine, FakeSpace

LOW, HIGH = MMAP_WINDOWS[0]
RW = Access.READ | Access.WRITE


class Room:
    def __init__(self) -> None:
        self.space: Any = FakeSpace()

    def find(self, hint: int, length: int, *, low: bool = False) -> int:
        return find_room(self.space, hint, length, low=low)

    def map(self, length: int, hint: int = 0, *, low: bool = False) -> int:
        found = self.find(hint, length, low=low)
        self.space.map(found, length, RW)
        return found


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


def test_pages() -> None:
    assert (page_down(PAGE + 1), page_up(PAGE + 1), page_up(PAGE)) == (PAGE, 2 * PAGE, PAGE)


def test_one_after_the_other_and_holes_again() -> None:
    room = Room()
    first, second, third = (room.map(2 * PAGE) for _ in range(3))
    assert (first, second, third) == (LOW, LOW + 2 * PAGE, LOW + 4 * PAGE)
    room.space.unmap(second, 2 * PAGE)
    assert room.map(PAGE) == second
    assert room.map(2 * PAGE) == third + 2 * PAGE
    assert room.map(PAGE) == second + PAGE


def test_a_hint_is_followed_where_there_is_room() -> None:
    room = Room()
    assert room.map(PAGE, 0x7000_0123) == 0x7000_0000
    assert room.map(PAGE, 0x7000_0000) == LOW
    assert room.find(0x6FFF_F000, 2 * PAGE) == LOW + PAGE
    assert room.find(USER_MAX, PAGE) == LOW + PAGE


def test_large_ones_begin_where_large_pages_do() -> None:
    room = Room()
    room.map(PAGE)
    assert room.find(0, HUGE_PAGE) % HUGE_PAGE == 0
    assert room.find(0, HUGE_PAGE - PAGE) == LOW + PAGE


def test_below_two_gibibytes() -> None:
    room = Room()
    first = room.map(PAGE, low=True)
    assert first < 1 << 31
    assert room.map(PAGE, low=True) == first + PAGE
    with fails(errno.ENOMEM):
        room.find(0, 1 << 31, low=True)


def test_the_second_window_and_no_room_at_all() -> None:
    room = Room()
    assert room.find(0, HIGH - LOW + PAGE) >= MMAP_WINDOWS[1][0]
    with fails(errno.ENOMEM):
        room.find(0, USER_MAX)


# ---------------------------------------------------------------- shared memory


class File(FakeFile):
    """A file that a test says is still mapped, or is not."""

    references = 1


class Machine(FakeMachine):
    def __init__(self) -> None:
        super().__init__()
        self.files: list[File] = []

    def open_file(self, file: Any, *, writable: bool = False, length: int = 0) -> File:
        self.files.append(File(file, writable=writable))
        return self.files[-1]


def test_shared_memory_counts_until_nobody_maps_it() -> None:
    machine: Any = Machine()
    budget: Any = FakeBudget(4)
    memory = SharedMemory(machine, 100 * PAGE, budget)
    given: Any = memory.create(3 * PAGE)
    kept = machine.files[0]
    kept.references = 2  # a mapping has it
    given.close()
    assert (memory.used, budget.used) == (3 * PAGE, 3)
    with fails(errno.ENOMEM):
        memory.create(2 * PAGE)
    kept.references = 1
    memory.create(2 * PAGE)
    assert kept.closed
    assert budget.used == 2
    machine.files[-2].references = 2
    memory.close()
    assert budget.used == memory.used == 0


def test_shared_memory_has_a_bound_of_its_own() -> None:
    machine: Any = Machine()
    memory = SharedMemory(machine, 2 * PAGE)
    memory.create(2 * PAGE)
    machine.files[0].references = 2
    with fails(errno.ENOMEM):
        memory.create(PAGE)
    assert not memory.sweep()
    machine.files[0].references = 1
    assert memory.sweep()
    memory.create(PAGE)


def test_a_machine_that_cannot_costs_nothing() -> None:
    class Broken(Machine):
        def open_file(self, file: Any, *, writable: bool = False, length: int = 0) -> File:
            raise OSError(errno.EMFILE, "no more")

    machine: Any = Broken()
    budget: Any = FakeBudget(4)
    memory = SharedMemory(machine, 100 * PAGE, budget)
    with pytest.raises(OSError, match="no more"):
        memory.create(PAGE)
    assert budget.used == memory.used == 0
