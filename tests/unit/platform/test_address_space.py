"""The typed face of an address space: arguments are checked, short copies are errors that say where."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from unit.platform.helpers import SECONDS, passes

from asynckvm.errors import ClosedError, GuestMemoryError, GuestStringError, InternalError, OutOfMemoryError, UsageError
from asynckvm.model.memory import Access, Region
from asynckvm.platform import address_space

if TYPE_CHECKING:
    from pathlib import Path

    from unit.platform.fake_core import FakeCore

    from asynckvm.platform import Machine

START, END = 0x10000, 0x20000
READ_WRITE = Access.READ | Access.WRITE


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256, 257, 300, 1000])
async def test_strings_of_any_length(machine: Machine, length: int) -> None:
    with contextlib.closing(machine.create_address_space()) as space:
        space.map(START, END - START, READ_WRITE)
        space.write(START, b"x" * length + b"\0" + b"behind")
        for limit in {length, length + 1, 255, 256, 4095}:
            if limit >= length:
                assert space.read_string(START, limit) == b"x" * length
            else:
                with pytest.raises(GuestStringError):
                    space.read_string(START, limit)
        assert space.read(START, length) == b"x" * length
        with pytest.raises(GuestMemoryError):
            space.read_string(END, 4095)


async def test_copies(machine: Machine, core: FakeCore) -> None:
    space = machine.create_address_space()
    space.map(START, END - START, READ_WRITE)
    space.write(START + 5, b"hello\0")
    assert space.read(START + 4, 7) == b"\0hello\0"
    assert space.read_string(START + 5, 5) == b"hello"
    assert space.read(START, 0) == b""
    child = space.fork()
    space.write(START + 5, bytearray(b"j"), force=True)
    assert (space.read(START + 5, 5), child.read(START + 5, 5)) == (b"jello", b"hello")
    assert space.region(0) == Region(START, END, READ_WRITE, 0, 0)
    assert space.region(END) is None
    assert space.room(START - 4096, END + 16384, 8192) == END
    assert space.room(START, END + 4096, 8192) is None
    assert space.resident == 7
    space.limit(9)
    assert core.limit == 9
    space.unmap(START, 4096)
    space.discard(START, 4096)
    child.close()
    space.close()


async def test_bad_addresses_tell_where(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    space = machine.create_address_space()
    for act, address, done in (
        (lambda: space.read(END - 3, 8), END, 3),
        (lambda: space.read(END, 8), END, 0),
        (lambda: space.write(END - 1, b"ab"), END, 1),
        (lambda: space.write(0, b"ab"), 0, 0),
        (lambda: space.read_string(END, 10), END, 0),
    ):
        with pytest.raises(GuestMemoryError) as caught:
            act()
        assert (caught.value.address, caught.value.done) == (address, done)
    monkeypatch.setattr(address_space, "_PIECE", 4096)
    with pytest.raises(GuestMemoryError) as caught:
        space.read(END - 8192, 1 << 62)
    assert (caught.value.address, caught.value.done) == (END, 8192)
    assert len(space.read(START, 10_000)) == 10_000
    space.write(START, b"x" * 100)
    with pytest.raises(GuestStringError):
        space.read_string(START, 99)
    with pytest.raises(GuestMemoryError) as caught:
        space.protect(END - 4096, 8192, Access.READ)
    assert caught.value.address == END
    space.close()


async def test_moves(machine: Machine, core: FakeCore) -> None:
    space = machine.create_address_space()
    space.move(START, 1 << 30, 8192)
    assert core.moved == (START, 1 << 30, 8192)
    with pytest.raises(GuestMemoryError) as caught:
        space.move(END - 4096, 1 << 30, 8192)
    assert caught.value.address == END
    for source, to, length in (
        (START + 1, END, 4096),
        (START, END + 1, 4096),
        (START, END, 1),
        (START, END, 0),
        (START, -4096, 4096),
    ):
        with pytest.raises(UsageError):
            space.move(source, to, length)
    space.close()


async def test_compare_and_exchange(machine: Machine, core: FakeCore) -> None:
    space = machine.create_address_space()
    assert space.compare_exchange(START, 0, (1 << 32) - 1) == 0
    assert space.compare_exchange(START, 0, 5) == (1 << 32) - 1
    assert space.read(START, 5) == b"\xff" * 4 + b"\0"
    with pytest.raises(GuestMemoryError) as caught:
        space.compare_exchange(END, 0, 1)
    assert caught.value.address == END
    core.exhausted = START + 4096
    with pytest.raises(OutOfMemoryError):
        space.compare_exchange(START + 4096, 0, 1)
    for address, expected, desired in ((START + 2, 0, 1), (START, -1, 1), (START, 0, 1 << 32), (-4, 0, 1)):
        with pytest.raises(UsageError):
            space.compare_exchange(address, expected, desired)
    space.close()


async def test_which_pages_are_present(machine: Machine) -> None:
    space = machine.create_address_space()
    assert space.present(START, 3 * 4096) == b"\0\1\0"
    with pytest.raises(GuestMemoryError) as caught:
        space.present(END - 4096, 8192)
    assert caught.value.address == END
    for address, length in ((START + 1, 4096), (START, 100), (START, 0), (START, 1 << 40)):
        with pytest.raises(UsageError):
            space.present(address, length)
    space.close()


async def test_running_out_of_memory_is_no_bad_address(machine: Machine, core: FakeCore) -> None:
    space = machine.create_address_space()
    core.exhausted = START + 8192
    for act in (lambda: space.write(START, bytes(8193)), lambda: space.read(START, 8193), lambda: space.read(START + 8192, 1)):
        with pytest.raises(OutOfMemoryError):
            act()
    space.close()


RANGES = [
    (1, 4096, 0),
    (0, 4095, 0),
    (0, 0, 0),
    (0, -4096, 0),
    (-4096, 4096, 0),
    (0, 4096, 1),
    (0, 4096, -4096),
    (1 << 64, 4096, 0),
]


@pytest.mark.parametrize(("address", "length", "offset"), RANGES)
async def test_ranges_are_whole_pages(machine: Machine, address: int, length: int, offset: int) -> None:
    space = machine.create_address_space()
    with pytest.raises(UsageError):
        space.map(address, length, READ_WRITE, offset=offset)
    space.close()


async def test_limits_of_arguments(machine: Machine) -> None:
    space = machine.create_address_space()
    calls: list[tuple[Any, ...]] = [(space.read, 0, -1), (space.read, -1, 1), (space.write, 1 << 64, b"a"), (space.limit, -1)]
    for call, *arguments in calls:
        with pytest.raises(UsageError):
            call(*arguments)
    space.close()


async def test_shootdown_waits_for_every_vcpu(machine: Machine, core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    space = machine.create_address_space()
    core.settled = False
    task = asyncio.create_task(space.shootdown())
    await passes()
    assert not task.done()
    core.settled = True
    await asyncio.wait_for(task, SECONDS)
    core.settled = False
    monkeypatch.setattr(address_space, "_SETTLE_NS", 1_000_000)
    with pytest.raises(InternalError) as caught:
        await asyncio.wait_for(space.shootdown(), SECONDS)
    assert "vCPU 1" in caught.value.dump
    space.close()


async def test_host_files(machine: Machine, core: FakeCore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    space = machine.create_address_space()
    with machine.open_file(path) as file:
        assert core.files == 1
        space.map(START, 4096, Access.READ, file=file)
    file.close()
    assert core.files == 0
    with pytest.raises(ClosedError):
        space.map(START, 4096, Access.READ, file=file)
    with path.open() as stream:
        dropped = machine.open_file(stream.fileno())
        assert core.opened == (stream.fileno(), False, 0)
        assert not dropped.writable
    del dropped
    assert core.files == 0
    with path.open("r+") as stream, machine.open_file(stream.fileno(), writable=True, length=5000) as file:
        assert core.opened == (stream.fileno(), True, 5000)
        assert file.writable
        space.map(START, 4096, Access.READ, file=file, shared=True)
    with path.open("a+") as stream, machine.open_file(stream.fileno(), writable=True):
        assert core.opened is not None
        assert core.opened[0] != stream.fileno(), "an open file that does not append"
    for length in (-1, 1 << 63):
        with pytest.raises(UsageError, match="not a length"):
            machine.open_file(path, length=length)
    with pytest.raises(FileNotFoundError):
        machine.open_file(tmp_path / "none")
    space.close()
