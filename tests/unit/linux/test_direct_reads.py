"""Which descriptors vCPUs read by themselves: always exactly those of plain files that the process still has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.linux.direct_reads import DirectReads
from asynckvm.linux.dnotify import DN_ACCESS, DN_MODIFY, Notice
from asynckvm.linux.files.host import HostDescriptor
from asynckvm.linux.files.inotify import IN_ACCESS, IN_ALL_EVENTS, IN_MODIFY, Inotify, Watches
from asynckvm.linux.files.pipe import PipePages, pipe_ends
from asynckvm.linux.files.table import DescriptorTable
from support.fake_platform import FakeMachine

if TYPE_CHECKING:
    from pathlib import Path


class World:
    """A process's table, and what vCPUs are told of it."""

    def __init__(self, folder: Path) -> None:
        machine: Any = FakeMachine()
        self.reads = DirectReads(machine)
        self.watches = Watches()
        self.table = DescriptorTable()
        self._path = folder / "file"
        self._path.write_bytes(b"content")

    def open(self, flags: int = os.O_RDONLY) -> HostDescriptor:
        return HostDescriptor(os.open(self._path, flags | os.O_CLOEXEC), flags)

    def begin(self) -> Any:
        files: Any = self.reads.of(self.table, self.watches)
        return files


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_plain_files_that_can_be_read(world: World) -> None:
    early = world.table.add(world.open())
    files = world.begin()
    late = world.table.add(world.open(os.O_RDWR))
    written = world.table.add(world.open(os.O_WRONLY))
    null = world.table.add(HostDescriptor(os.open("/dev/null", os.O_RDWR), os.O_RDWR))
    for end in pipe_ends(PipePages()):
        world.table.add(end)
    assert set(files.files) == {early, late}
    assert world.begin() is files
    for fd in (early, late, written, null):
        world.table.close(fd)
    assert files.files == {}
    world.table.drop()
    assert files.closed


def test_a_number_is_never_two_files(world: World) -> None:
    files = world.begin()
    first, second = world.open(), world.open()
    fd = world.table.add(first)
    other = world.table.replace(9, first)
    assert files.files[fd] is files.files[other]
    world.table.replace(fd, second)
    assert files.files[fd] is not files.files[other]
    assert (first.references, second.references) == (1, 1)
    (reading, writing) = pipe_ends(PipePages())
    world.table.replace(other, reading)
    world.table.replace(fd, writing)
    assert files.files == {}
    assert (first.fd, second.fd) == (-1, -1)
    world.table.drop()


def test_fork_exec_and_sharing(world: World) -> None:
    files = world.begin()
    kept, gone = world.table.add(world.open()), world.table.add(world.open(), close_on_exec=True)
    twin = world.table.copy()
    assert twin.direct is None
    theirs: Any = world.reads.of(twin, world.watches)
    assert theirs.files == files.files
    twin.close_for_exec()
    assert set(theirs.files) == {kept}
    assert set(files.files) == {kept, gone}
    world.table.share()
    # Each of the two may leave the other one behind.
    assert files.closed
    assert files.files == {}
    assert world.begin() is None
    world.table.drop()
    assert set(world.begin().files) == {kept, gone}
    twin.drop()
    world.table.drop()


def test_the_position_is_held_while_it_moves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = world.begin()
    file = world.open(os.O_RDWR)
    fd = world.table.add(file)
    direct = files.files[fd]
    held: list[int] = []

    def spy(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            held.append(direct.held)
            return real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("read", "write", "lseek"):
        spy(name)
    assert file.read(3) == b"con"
    file.seek(0, os.SEEK_SET)
    file.write(b"C")
    assert held == [1, 1, 1]
    assert direct.held == 0
    world.table.drop()
    assert direct.fd == -1


@pytest.mark.parametrize(("mask", "seen"), [(IN_MODIFY, False), (IN_ACCESS, True), (IN_ALL_EVENTS, True)])
def test_who_watches_accesses_sees_them(world: World, mask: int, *, seen: bool) -> None:
    files = world.begin()
    world.table.add(world.open())
    watcher = Inotify(world.watches)
    watcher.add((1, 2), IN_MODIFY)
    assert len(files.files) == 1
    watcher.add((1, 2), mask)
    assert (len(files.files) == 0) is seen
    world.table.add(world.open())
    assert (len(files.files) == 0) is seen
    assert (world.begin() is None) is seen
    later = DescriptorTable()
    assert (world.reads.of(later, world.watches) is None) is seen
    watcher.close()
    later.drop()
    world.table.drop()


@pytest.mark.parametrize(("mask", "seen"), [(DN_MODIFY, False), (DN_ACCESS, True)])
def test_so_does_who_asked_by_a_directory(world: World, mask: int, *, seen: bool) -> None:
    files = world.begin()
    world.table.add(world.open())

    class Directory:
        class location:  # noqa: N801  an attribute
            class node:  # noqa: N801
                identity = (1, 2)

        def watch_close(self, closing: Any) -> None:
            pass

    directory: Any = Directory()
    Notice(world.watches, directory).set(mask)
    assert (len(files.files) == 0) is seen
    world.table.drop()
