"""Host files in guest memory: one copy shared by all readers, private once written, and no harm when the file shrinks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import EXECUTE, HUGE_PAGE, PAGE, READ, WRITE, Guest, Witness, assemble, keep

from asynckvm.errors import AsyncKvmError, UsageError
from asynckvm.model.exits import Fault, Syscall

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.platform import Machine, Restore

AREA = 0x50000000
LOAD = "1: movq (%rdi), %rbx; syscall; jmp 1b"
STORE = "1: movq %rsi, (%rdi); movq (%rdi), %rbx; syscall; jmp 1b"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Five pages, each word of which tells its own offset, and a bit of a sixth."""
    path = tmp_path / "text"
    path.write_bytes(b"".join(offset.to_bytes(8, "little") for offset in range(0, 5 * PAGE + 128, 8)))
    return path


async def load(guest: Guest, address: int) -> int | Fault:
    guest.load(LOAD).go(rdi=address)
    exit_ = await guest.run()
    return exit_ if isinstance(exit_, Fault) else guest["rbx"]


async def store(guest: Guest, address: int, value: int) -> int | Fault:
    guest.load(STORE).go(rdi=address, rsi=value)
    exit_ = await guest.run()
    return exit_ if isinstance(exit_, Fault) else guest["rbx"]


@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE])
async def test_a_file_shows_at_any_offset(machine: Machine, restore: Restore, text: Path, offset: int) -> None:
    file = machine.open_file(text)
    guest = Guest(machine, restore=restore)
    guest.space.map(AREA, 6 * PAGE - offset, READ, file=file, offset=offset)
    for place in range(0, 6 * PAGE - offset - 8, 1000 // 8 * 8):
        expected = offset + place if offset + place < 5 * PAGE + 128 else 0
        assert await load(guest, AREA + place) == expected
        assert guest.space.read(AREA + place, 8) == expected.to_bytes(8, "little")


async def test_writes_stay_private(machine: Machine, text: Path) -> None:
    before = text.read_bytes()
    file = machine.open_file(text)
    writer, reader = Guest(machine), Guest(machine)
    for guest in (writer, reader):
        guest.space.map(AREA, 5 * PAGE, READ | WRITE, file=file)
    assert await load(writer, AREA + 2 * PAGE) == 2 * PAGE
    assert await store(writer, AREA + 2 * PAGE, 99) == 99
    assert await load(writer, AREA + 2 * PAGE + 8) == 2 * PAGE + 8
    assert await load(reader, AREA + 2 * PAGE) == 2 * PAGE
    child = keep(writer.space.fork())
    forked = Guest(machine, space=child)
    assert await store(forked, AREA + 2 * PAGE, 100) == 100
    assert await load(writer, AREA + 2 * PAGE) == 99
    reader.space.write(AREA, b"by the host")
    assert await load(writer, AREA) == 0
    writer.space.discard(AREA, 5 * PAGE)
    assert await load(writer, AREA + 2 * PAGE) == 2 * PAGE
    assert text.read_bytes() == before


async def test_a_read_only_mapping_cannot_be_written(machine: Machine, restore: Restore, text: Path) -> None:
    before = text.read_bytes()
    guest = Guest(machine, restore=restore)
    guest.space.map(AREA, 5 * PAGE, READ, file=machine.open_file(text))
    for touched in (False, True):  # before and after the page was there
        if touched:
            assert await load(guest, AREA) == 0
        fault = await store(guest, AREA, 1)
        assert isinstance(fault, Fault)
        assert (fault.signal, fault.code, fault.address, fault.access) == (signal.SIGSEGV, 2, AREA, WRITE)
    guest.space.protect(AREA, PAGE, READ | WRITE)
    assert await store(guest, AREA, 1) == 1
    assert text.read_bytes() == before


async def test_readers_share_the_host_s_page_cache(machine: Machine, text: Path) -> None:
    """A thousand mappings of one file cost no guest memory."""
    file = machine.open_file(text)
    guests = [Guest(machine) for _ in range(20)]
    frames = []
    for guest in guests:
        guest.space.map(AREA, 5 * PAGE, READ, file=file)
        resident = guest.space.resident
        assert await load(guest, AREA + PAGE) == PAGE
        frames.append(guest.space.resident - resident)
    # The code page is written by load() and counts once.
    assert max(frames) <= 16
    with text.open("r+b") as host:
        host.seek(PAGE)
        host.write(b"\x07" + bytes(7))
    assert [await load(guest, AREA + PAGE) for guest in guests] == [7] * 20


async def test_beyond_the_end_is_a_bus_error(machine: Machine, restore: Restore, text: Path) -> None:
    guest = Guest(machine, restore=restore)
    guest.space.map(AREA, 16 * PAGE, READ | WRITE, file=machine.open_file(text))
    assert await load(guest, AREA + 5 * PAGE + 1024) == 0
    for page in (6, 7, 15):
        for fault in (await load(guest, AREA + page * PAGE), await store(guest, AREA + page * PAGE, 1)):
            assert isinstance(fault, Fault)
            assert (fault.signal, fault.code, fault.address) == (signal.SIGBUS, 2, AREA + page * PAGE)
    with pytest.raises(AsyncKvmError):
        guest.space.read(AREA + 6 * PAGE, 8)


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("writable", [False, True])
async def test_a_file_cut_short_under_its_mapping(
    small_machine: Machine, restore: Restore, text: Path, touched: bool, writable: bool
) -> None:
    """SIGBUS for who touches what is gone, at the right address; the machine, the vCPU and the host's copies go on."""
    witness = await Witness(small_machine).prepare()
    guest = Guest(small_machine, restore=restore)
    guest.space.map(AREA, 5 * PAGE, READ | WRITE if writable else READ, file=small_machine.open_file(text))
    if touched:
        assert await load(guest, AREA + 3 * PAGE) == 3 * PAGE
    if writable:
        assert await store(guest, AREA + 2 * PAGE, 5) == 5
    os.truncate(text, PAGE)
    for _ in range(3):
        fault = await load(guest, AREA + 3 * PAGE)
        assert isinstance(fault, Fault), fault
        assert (fault.signal, fault.code) == (signal.SIGBUS, 2)
        assert fault.address & ~0xFFF == AREA + 3 * PAGE
        await witness.check()
    assert await load(guest, AREA) == 0
    with pytest.raises(AsyncKvmError):
        guest.space.read(AREA + 4 * PAGE, 8)
    if writable:
        fault = await store(guest, AREA + 3 * PAGE, 1)
        assert isinstance(fault, Fault)
        assert fault.signal == signal.SIGBUS
        assert await load(guest, AREA + 2 * PAGE) == 5, "the private copy does not need the file any more"
    guest.close()
    await witness.check()


async def test_code_in_a_file_cut_short(small_machine: Machine, tmp_path: Path) -> None:
    """The instruction fetch itself finds no page."""
    witness = await Witness(small_machine).prepare()
    path = tmp_path / "code"
    path.write_bytes(assemble("1: syscall; jmp 1b").ljust(2 * PAGE, b"\x90"))
    guest = Guest(small_machine)
    guest.space.map(AREA, 2 * PAGE, READ | EXECUTE, file=small_machine.open_file(path))
    guest.go(AREA)
    assert isinstance(await guest.run(), Syscall)
    os.truncate(path, 0)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault), exit_
    assert (exit_.signal, exit_.code) == (signal.SIGBUS, 2)
    await witness.check()


async def test_files_that_grow_are_seen_up_to_their_first_size(machine: Machine, text: Path) -> None:
    guest = Guest(machine)
    guest.space.map(AREA, 16 * PAGE, READ, file=machine.open_file(text))
    with text.open("ab") as host:
        host.write(b"\xee" * (8 * PAGE))
    assert await load(guest, AREA + PAGE) == PAGE
    beyond = await load(guest, AREA + 8 * PAGE)
    assert isinstance(beyond, Fault) or beyond == 0xEEEEEEEEEEEEEEEE


async def test_a_big_file_maps_whole(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as host:
        for megabyte in range(8):
            host.write(megabyte.to_bytes(8, "little") * (1 << 17))
    guest = Guest(machine)
    guest.space.map(AREA, 8 << 20, READ | WRITE, file=machine.open_file(path))
    for megabyte in range(8):
        for offset in (0, PAGE, (1 << 20) - 8):
            assert await load(guest, AREA + (megabyte << 20) + offset) == megabyte
    assert await store(guest, AREA + HUGE_PAGE, 77) == 77
    assert await load(guest, AREA + HUGE_PAGE + 8) == 2
    assert guest.space.read(AREA + (3 << 20), 1 << 20) == (3).to_bytes(8, "little") * (1 << 17)


async def test_many_files_and_their_slots(machine: Machine, tmp_path: Path) -> None:
    """The same inode is one object; files that nobody uses give their slots back."""
    before = machine.counters().memory.file_slots
    guest = Guest(machine)
    files = []
    for number in range(100):
        path = tmp_path / f"file{number}"
        path.write_bytes((number + 1).to_bytes(8, "little") * 512)
        file = machine.open_file(path)
        guest.space.map(AREA + number * PAGE, PAGE, READ, file=file)
        files.append(file)
    twice = [machine.open_file(tmp_path / "file7") for _ in range(10)]
    assert machine.counters().memory.file_slots <= before + 100
    for number in (0, 7, 50, 99):
        assert await load(guest, AREA + number * PAGE) == number + 1
    for file in files + twice:
        file.close()
    # Mappings keep what they show.
    assert await load(guest, AREA + 50 * PAGE) == 51
    guest.close()
    other = Guest(machine)
    assert isinstance(await load(other, AREA), Fault)


async def test_only_regular_files(machine: Machine, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        for bad in (tmp_path, reader, "/dev/zero", 1 << 20):
            with pytest.raises((AsyncKvmError, OSError)):
                machine.open_file(bad)
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises((UsageError, OSError, AsyncKvmError)):
        machine.open_file(tmp_path / "missing")
