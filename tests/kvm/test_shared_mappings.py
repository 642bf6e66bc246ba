"""Shared mappings on the processor itself: stores reach the file and every other guest, and what grows or shrinks is followed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import PAGE, READ, WRITE, Guest, Witness, keep

from asynckvm.errors import GuestMemoryError, UsageError
from asynckvm.model.exits import Fault
from asynckvm.model.memory import HUGE_PAGE, Region

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asynckvm.platform import Machine, Restore

AREA = 0x50000000
LOAD = "1: movq (%rdi), %rbx; syscall; jmp 1b"
STORE = "1: movq %rsi, (%rdi); movq (%rdi), %rbx; syscall; jmp 1b"
ADD = "1: lock incq (%rdi); dec %rcx; jnz 1b; syscall"


@pytest.fixture
def memory() -> Iterator[int]:
    """An anonymous file of four pages."""
    fd = os.memfd_create("shared")
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


async def go(guest: Guest, code: str, address: int, value: int = 0) -> int | Fault:
    guest.load(code).go(rdi=address, rsi=value, rcx=value)
    exit_ = await guest.run()
    return exit_ if isinstance(exit_, Fault) else guest["rbx"]


def word(fd: int, offset: int) -> int:
    return int.from_bytes(os.pread(fd, 8, offset), "little")


async def test_stores_reach_the_file_and_everybody(machine: Machine, restore: Restore, memory: int) -> None:
    file = machine.open_file(memory, writable=True)
    assert file.writable
    one, two = Guest(machine, restore=restore), Guest(machine, restore=restore)
    one.space.map(AREA, 4 * PAGE, READ | WRITE, file=file, shared=True)
    two.space.map(AREA, PAGE, READ | WRITE, file=file, offset=PAGE, shared=True)
    file.close()
    assert await go(two, LOAD, AREA) == 0
    resident = one.space.resident
    assert await go(one, STORE, AREA + PAGE, 5) == 5
    assert one.space.resident <= resident + 16, "only the code's page"
    assert word(memory, PAGE) == 5
    assert await go(two, LOAD, AREA) == 5
    two.space.write(AREA, (6).to_bytes(8, "little"))
    assert await go(one, LOAD, AREA + PAGE) == 6
    os.pwrite(memory, (7).to_bytes(8, "little"), PAGE)
    assert await go(one, LOAD, AREA + PAGE) == await go(two, LOAD, AREA) == 7
    assert one.space.read(AREA + PAGE, 1) == b"\x07"
    region = one.space.region(AREA)
    assert region is not None
    assert region == Region(AREA, AREA + 4 * PAGE, READ | WRITE, region.file, 0, shared=True)


async def test_two_processors_count_in_one_word(machine: Machine, memory: int) -> None:
    file = machine.open_file(memory, writable=True)
    guests = [Guest(machine) for _ in range(2)]
    for guest in guests:
        guest.space.map(AREA, PAGE, READ | WRITE, file=file, shared=True)
    turns = 20_000
    await asyncio.gather(*(go(guest, ADD, AREA, turns) for guest in guests))
    assert word(memory, 0) == 2 * turns


async def test_a_child_shares_with_its_parent(machine: Machine, memory: int) -> None:
    parent = Guest(machine)
    parent.space.map(AREA, PAGE, READ | WRITE, file=machine.open_file(memory, writable=True), shared=True)
    assert await go(parent, STORE, AREA, 1) == 1
    child = Guest(machine, space=keep(parent.space.fork()))
    await parent.space.shootdown()
    assert await go(child, STORE, AREA, 2) == 2
    assert await go(parent, LOAD, AREA) == 2
    assert await go(parent, STORE, AREA + 8, 3) == 3
    assert await go(child, LOAD, AREA + 8) == 3


async def test_rights_come_and_go(machine: Machine, restore: Restore, memory: int) -> None:
    guest = Guest(machine, restore=restore)
    guest.space.map(AREA, PAGE, READ | WRITE, file=machine.open_file(memory, writable=True), shared=True)
    for turn in range(1, 4):
        assert await go(guest, STORE, AREA, turn) == turn
        guest.space.protect(AREA, PAGE, READ)
        fault = await go(guest, STORE, AREA, 99)
        assert isinstance(fault, Fault)
        assert (fault.signal, fault.code, fault.address) == (signal.SIGSEGV, 2, AREA)
        with pytest.raises(GuestMemoryError):
            guest.space.write(AREA, b"x", force=True)
        assert word(memory, 0) == turn
        guest.space.protect(AREA, PAGE, READ | WRITE)


async def test_what_was_opened_for_reading_is_not_written(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    guest = Guest(machine)
    reader = machine.open_file(path)
    with pytest.raises(UsageError):
        guest.space.map(AREA, PAGE, READ | WRITE, file=reader, shared=True)
    guest.space.map(AREA, PAGE, READ, file=reader, shared=True)
    with pytest.raises(UsageError):
        guest.space.protect(AREA, PAGE, READ | WRITE)
    assert isinstance(await go(guest, STORE, AREA, 1), Fault)
    with pytest.raises(UsageError):
        guest.space.map(AREA, PAGE, READ | WRITE, shared=True)
    with path.open("rb") as stream, pytest.raises(UsageError):
        machine.open_file(stream.fileno(), writable=True)


async def test_a_descriptor_for_appending_writes_in_its_place(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(2 * PAGE))
    guest = Guest(machine)
    with path.open("a+b") as stream:
        file = machine.open_file(stream.fileno(), writable=True)
    guest.space.map(AREA, PAGE, READ | WRITE, file=file, offset=PAGE, shared=True)
    assert await go(guest, STORE, AREA, 5) == 5
    guest.space.write(AREA + 8, b"host")
    assert path.stat().st_size == 2 * PAGE
    assert path.read_bytes()[PAGE : PAGE + 12] == (5).to_bytes(8, "little") + b"host"


@pytest.mark.parametrize("length", [0, 8 * HUGE_PAGE])
async def test_growth_shows_in_mappings_that_are_there(machine: Machine, memory: int, length: int) -> None:
    far = 3 * HUGE_PAGE + PAGE
    file = machine.open_file(memory, writable=True, length=length)
    one, two = Guest(machine), Guest(machine)
    for guest in (one, two):
        guest.space.map(AREA, 8 * HUGE_PAGE, READ | WRITE, file=file, shared=True)
    assert await go(one, STORE, AREA, 1) == 1
    fault = await go(one, STORE, AREA + far, 2)
    assert isinstance(fault, Fault)
    assert (fault.signal, fault.address) == (signal.SIGBUS, AREA + far)
    os.ftruncate(memory, far + 8)
    assert await go(one, STORE, AREA + far, 2) == 2
    assert await go(two, LOAD, AREA + far) == 2
    assert await go(two, STORE, AREA, 3) == 3
    assert await go(one, LOAD, AREA) == 3
    assert (word(memory, far), word(memory, 0)) == (2, 3)


async def test_a_file_cut_short_under_its_writers(small_machine: Machine, restore: Restore, memory: int) -> None:
    witness = await Witness(small_machine).prepare()
    guest = Guest(small_machine, restore=restore)
    guest.space.map(AREA, 4 * PAGE, READ | WRITE, file=small_machine.open_file(memory, writable=True), shared=True)
    for page in range(4):
        assert await go(guest, STORE, AREA + page * PAGE, page + 1) == page + 1
    os.ftruncate(memory, PAGE)
    for code in (STORE, LOAD, STORE):
        fault = await go(guest, code, AREA + 2 * PAGE, 9)
        assert isinstance(fault, Fault), fault
        assert (fault.signal, fault.code, fault.address) == (signal.SIGBUS, 2, AREA + 2 * PAGE)
        await witness.check()
    with pytest.raises(GuestMemoryError):
        guest.space.write(AREA + 2 * PAGE, b"x")
    assert os.fstat(memory).st_size == PAGE
    assert await go(guest, LOAD, AREA) == 1
    os.ftruncate(memory, 4 * PAGE)
    assert await go(guest, LOAD, AREA + 2 * PAGE) == 0


CONTEND = """
1:  movl (%rdi), %eax
    leal 1(%rax), %edx
    lock cmpxchgl %edx, (%rdi)
    jnz 1b
    dec %rcx
    jnz 1b
    syscall
"""


@pytest.mark.parametrize("shared", [False, True])
async def test_the_host_s_compare_and_exchange_is_atomic(machine: Machine, memory: int, shared: bool) -> None:
    """A guest counts with its own while the host does with the core's: no count is lost."""
    guest = Guest(machine)
    file = machine.open_file(memory, writable=True) if shared else None
    guest.space.map(AREA, PAGE, READ | WRITE, file=file, shared=shared)
    turns = 200_000
    guest.load(CONTEND).go(rdi=AREA, rcx=turns)
    running = asyncio.create_task(guest.run())
    mine = 0
    while not running.done():
        for _ in range(100):
            old = int.from_bytes(guest.space.read(AREA, 4), "little")
            mine += guest.space.compare_exchange(AREA, old, old + 1) == old
        await asyncio.sleep(0)
    assert not isinstance(await running, Fault)
    assert mine
    assert guest.space.read(AREA, 4) == (turns + mine).to_bytes(4, "little")


async def test_what_moved_is_at_its_new_address_alone(machine: Machine, restore: Restore, memory: int) -> None:
    guest = Guest(machine, restore=restore)
    there = AREA + (64 << 20)
    guest.space.map(AREA, 2 * HUGE_PAGE, READ | WRITE)
    guest.space.map(AREA + 2 * HUGE_PAGE, PAGE, READ | WRITE, file=machine.open_file(memory, writable=True), shared=True)
    for distance in (0, PAGE):
        for address, value in ((AREA, 1), (AREA + HUGE_PAGE + PAGE, 2), (AREA + 2 * HUGE_PAGE, 3)):
            assert await go(guest, STORE, address, value) == value
        resident = guest.space.resident
        guest.space.move(AREA, there + distance, 2 * HUGE_PAGE + PAGE)
        assert guest.space.resident == resident
        for offset, value in ((0, 1), (HUGE_PAGE + PAGE, 2), (2 * HUGE_PAGE, 3)):
            assert await go(guest, LOAD, there + distance + offset) == value
            fault = await go(guest, LOAD, AREA + offset)
            assert isinstance(fault, Fault)
            assert (fault.signal, fault.code, fault.address) == (signal.SIGSEGV, 1, AREA + offset)
        assert await go(guest, STORE, there + distance + 2 * HUGE_PAGE, 4) == 4
        assert word(memory, 0) == 4
        guest.space.move(there + distance, AREA, 2 * HUGE_PAGE + PAGE)
        assert await go(guest, LOAD, AREA + HUGE_PAGE + PAGE) == 2


async def test_a_move_under_a_running_guest(machine: Machine) -> None:
    """Who computes with the old address has a fault, at once and on every processor."""
    guest = Guest(machine)
    guest.space.map(AREA, PAGE, READ | WRITE)
    guest.load("1: lock incq (%rdi); jmp 1b").go(rdi=AREA)
    running = asyncio.create_task(guest.run())
    while not int.from_bytes(guest.space.read(AREA, 8), "little"):
        await asyncio.sleep(0.001)
    guest.space.move(AREA, AREA + HUGE_PAGE, PAGE)
    fault = await running
    assert isinstance(fault, Fault)
    assert (fault.signal, fault.code, fault.address) == (signal.SIGSEGV, 1, AREA)
    count = guest.space.read(AREA + HUGE_PAGE, 8)
    await guest.space.shootdown()
    assert guest.space.read(AREA + HUGE_PAGE, 8) == count


async def test_which_pages_are_present(machine: Machine) -> None:
    guest = Guest(machine)
    guest.space.map(AREA, 64 * PAGE, READ | WRITE)
    assert guest.space.present(AREA, 64 * PAGE) == bytes(64)
    assert await go(guest, STORE, AREA + 40 * PAGE, 1) == 1
    seen = guest.space.present(AREA, 64 * PAGE)
    assert seen[40] == 1
    assert sum(seen) <= 8


async def test_a_mapping_is_extended_and_its_file_knows_who_holds_it(machine: Machine, memory: int) -> None:
    os.pwrite(memory, b"third page", 2 * PAGE)
    space = machine.create_address_space()
    with machine.open_file(memory, writable=True) as file:
        assert file.references == 1
        space.map(AREA, 2 * PAGE, READ | WRITE, file, shared=True)
        space.extend(AREA + 2 * PAGE, 2 * PAGE)
        assert file.references == 2
        assert space.read(AREA + 2 * PAGE, 10) == b"third page"
        space.write(AREA + 3 * PAGE, b"fourth")
        assert os.pread(memory, 6, 3 * PAGE) == b"fourth"
        space.map(AREA + 5 * PAGE, PAGE, READ)
        with pytest.raises(UsageError):
            space.extend(AREA + 4 * PAGE, 2 * PAGE)
        with pytest.raises(GuestMemoryError):
            space.extend(AREA + PAGE, PAGE)
        space.close()
        async with asyncio.timeout(10):
            while file.references != 1:  # a vCPU may have to clear the tables first
                await asyncio.sleep(0.001)
