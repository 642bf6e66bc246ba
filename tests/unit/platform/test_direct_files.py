"""Direct files as Python owns them: who closes a host descriptor, and when. What vCPUs do with them is native/tests' matter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.platform import DirectCall, DirectFiles, binding

if TYPE_CHECKING:
    from pathlib import Path


class Core:
    """Of a machine that is never asked for anything."""

    binding = binding.load()

    def check(self) -> None:
        pass


@pytest.fixture
def files() -> DirectFiles:
    core: Any = Core()
    return DirectFiles(core, {call: call.value for call in DirectCall})


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_file_closes_its_descriptor(files: DirectFiles, fd: int) -> None:
    file = files.open(fd)
    assert is_open(fd)
    file.close()
    assert not is_open(fd)
    assert file.native is None
    file.close()
    files.close()
    files.close()


def test_a_table_holds_what_is_in_it(files: DirectFiles, fd: int) -> None:
    file = files.open(fd)
    files.add(3, file)
    files.add(4095, file)
    files.add(4096, file)  # there is no place for it
    file.close()
    files.remove(3)
    files.remove(3)
    files.remove(4096)
    assert is_open(fd)
    files.remove(4095)
    assert not is_open(fd)


def test_it_goes_with_its_table(files: DirectFiles, fd: int) -> None:
    file = files.open(fd)
    files.add(70, file)
    files.add(70, file)
    del file
    assert is_open(fd)
    files.close()
    assert not is_open(fd)


def test_a_position_is_held_more_than_once(files: DirectFiles, fd: int) -> None:
    file = files.open(fd)
    for _ in range(2):
        with file, file:
            pass
        with pytest.raises(KeyError), file:
            raise KeyError
    file.close()
