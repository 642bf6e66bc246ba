"""Finding a program file as execvp(3) does, and mapping it."""

import os
from pathlib import Path

import pytest

from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.layout import STACK_BYTES
from asynckvm.linux.loader import Loaded, Program, find, load
from asynckvm.model.memory import USER_MAX, Access
from support.elf_file import ET_DYN, PT_GNU_STACK, Header, R, W, X, elf
from support.fake_platform import FakeFile, FakeSpace


def write(path: Path, data: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def load_bytes(tmp_path: Path, data: bytes, random: bytes = b"") -> tuple[FakeSpace, Loaded]:
    path = write(tmp_path / "program", data)
    space = FakeSpace()
    with Program(path) as program, path.open("rb") as file:
        loaded = load(
            space,  # type: ignore[arg-type]
            program,
            FakeFile(file.fileno()),  # type: ignore[arg-type]
            [b"program"],
            [],
            {},
            lambda count: random.ljust(count, b"\0")[:count],
        )
    return space, loaded


def test_code_data_and_zeroes_lie_where_the_file_says(tmp_path: Path) -> None:
    content = bytearray(
        elf(Header(), Header(flags=R | W, offset=0x1100, address=0x402100, file_bytes=0x80, memory_bytes=0x3000), size=0x2000)
    )
    content[0x1100:0x1180] = b"d" * 0x80
    content[0x1180:0x2000] = b"!" * (0x2000 - 0x1180)
    space, loaded = load_bytes(tmp_path, bytes(content))
    assert space.read(0x400000, 4) == b"\x7fELF"
    assert space.region(0x400000).access == Access.READ | Access.EXECUTE  # type: ignore[union-attr]
    assert space.read(0x402100, 0x80) == b"d" * 0x80
    assert space.read(0x402180, 0x2F80) == bytes(0x2F80)
    assert space.pages[0x403000].file == 0
    assert loaded.entry == 0x400100
    assert loaded.heap == 0x406000


def test_a_read_only_tail_keeps_what_the_file_has_there(tmp_path: Path) -> None:
    content = bytearray(elf(size=0x400))
    content[0x200:] = b"!" * 0x200
    space, _ = load_bytes(tmp_path, bytes(content))
    assert space.read(0x400200, 4) == b"!!!!"


def test_a_segment_of_zeroes_alone(tmp_path: Path) -> None:
    space, _ = load_bytes(tmp_path, elf(Header(), Header(flags=R | W, address=0x500000, file_bytes=0, memory_bytes=0x1800)))
    assert space.read(0x500000, 0x2000) == bytes(0x2000)


def test_a_relocatable_program_moves_as_a_whole(tmp_path: Path) -> None:
    data = elf(Header(address=0, align=0x10000), kind=ET_DYN, entry=0x100)
    for random in (b"", b"\x01\x02\x03\x04\x05\x06\x07\x08"):
        space, loaded = load_bytes(tmp_path, data, random)
        base = loaded.entry - 0x100
        assert base % 0x10000 == 0
        assert base >= 0x5555_5554_0000
        assert space.read(base, 4) == b"\x7fELF"


def test_a_relocatable_program_that_fits_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ElfError) as caught:
        load_bytes(tmp_path, elf(Header(address=0, memory_bytes=USER_MAX - 0x1000), kind=ET_DYN))
    assert caught.value.problem is ElfProblem.MALFORMED


@pytest.mark.parametrize(("flags", "executable"), [(R | W, False), (R | W | X, True)])
def test_the_stack_has_its_whole_size_and_the_rights_it_asks_for(tmp_path: Path, flags: int, executable: bool) -> None:
    space, loaded = load_bytes(tmp_path, elf(Header(), Header(kind=PT_GNU_STACK, flags=flags)))
    region = space.region(loaded.stack_pointer)
    assert region is not None
    assert region.end == USER_MAX
    assert region.end - region.start == STACK_BYTES
    assert (Access.EXECUTE in region.access) is executable


def test_opening_says_what_execve_says(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Program(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        Program(tmp_path)
    with pytest.raises(PermissionError):
        Program(write(tmp_path / "data", elf(), 0o644))
    os.mkfifo(tmp_path / "fifo", 0o755)
    with pytest.raises(PermissionError):
        Program(tmp_path / "fifo")
    with pytest.raises(ElfError):
        Program(write(tmp_path / "text", b"#!/bin/sh\n"))


def test_names_without_a_slash_are_searched_for(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    search = f"{tmp_path}/0:{first}:{second}"
    with pytest.raises(FileNotFoundError):
        find("tool", search)
    write(first / "tool", b"", 0o644)
    with pytest.raises(PermissionError):
        find("tool", search)
    write(second / "tool", b"")
    assert find("tool", search) == str(second / "tool")
    (first / "other").mkdir()
    with pytest.raises(PermissionError):
        find("other", search)
    assert find("./tool", search) == "./tool"
