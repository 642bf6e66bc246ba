"""Program files of the host: found as execvp(3) does, opened as execve(2) does."""

import os
from pathlib import Path

import pytest

from asynckvm.linux.elf import ElfError
from asynckvm.linux.program import Program, find
from support.elf_file import elf


def write(path: Path, data: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


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
        Program(write(tmp_path / "text", b"just text\n"))


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
