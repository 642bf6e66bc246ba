"""inotify: what is done to files through the sandbox's calls comes out as events, in order, and in bounded number."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import inotify as events
from asynckvm.linux.files.inotify import Inotify
from asynckvm.linux.syscalls import inotify, transfer
from asynckvm.linux.vfs import Budget, Caller, FileSystemContext, HostTree, Mounts, Tmpfs, resolve
from asynckvm.linux.vfs.changes import set_mode, set_size
from asynckvm.linux.vfs.names import link, make, remove_directory, rename, unlink
from asynckvm.linux.vfs.opening import open_file
from support.fake_tasks import DATA, lone_task, result

ALL, ISDIR = events.IN_ALL_EVENTS, events.IN_ISDIR
HEAD = struct.Struct("<iIII")


class World:
    """A task whose files are in a tmpfs, or below a directory of the host."""

    def __init__(self, root: Any) -> None:
        mounts = Mounts(root)
        self.fs = FileSystemContext(mounts)
        task: Any = lone_task(fs=self.fs, credentials=Credentials())
        self.task = task
        self.caller = Caller(self.fs, task.process.credentials, task)
        self.root = mounts.root
        self.watches = mounts.watches

    def make(self, path: bytes, mode: int = stat.S_IFREG | 0o644) -> None:
        make(self.caller, self.root, path, mode)

    def open(self, path: bytes, flags: int = os.O_RDWR) -> int:
        fd: int = self.task.process.files.add(open_file(self.caller, self.root, path, flags, 0o644))
        return fd

    def instance(self) -> int:
        return inotify.inotify_init1(self.task, os.O_NONBLOCK)

    def watch(self, fd: int, path: bytes, mask: int = ALL) -> int:
        return inotify.inotify_add_watch(self.task, fd, path, mask)

    def read(self, fd: int, length: int = 1 << 20) -> list[tuple[int, int, bytes]]:
        """Events that are there: watch, mask, name."""
        found = []
        try:
            data = self.task.process.files.get(fd).read(length)
        except BlockingIOError:
            data = b""
        while data:
            number, mask, _, size = HEAD.unpack_from(data)
            found.append((number, mask, data[HEAD.size : HEAD.size + size].rstrip(b"\0")))
            data = data[HEAD.size + size :]
        return found


@pytest.fixture(params=["memory", "host"])
def world(request: pytest.FixtureRequest, tmp_path: Any) -> World:
    return World(Tmpfs(Budget(1 << 24, 100)) if request.param == "memory" else HostTree(tmp_path, writable=True))


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


def test_names_in_a_directory(world: World) -> None:
    world.make(b"/d", stat.S_IFDIR | 0o755)
    fd = world.instance()
    number = world.watch(fd, b"/d")
    world.make(b"/d/a")
    link(world.caller, resolve(world.caller, world.root, b"/d/a"), world.root, b"/d/b")
    rename(world.caller, world.root, b"/d/a", world.root, b"/d/c")
    unlink(world.caller, world.root, b"/d/b")
    world.make(b"/d/e", stat.S_IFDIR | 0o755)
    remove_directory(world.caller, world.root, b"/d/e")
    rename(world.caller, world.root, b"/d/c", world.root, b"/c")
    remove_directory(world.caller, world.root, b"/d")
    assert world.read(fd) == [
        (number, events.IN_CREATE, b"a"),
        (number, events.IN_CREATE, b"b"),
        (number, events.IN_MOVED_FROM, b"a"),
        (number, events.IN_MOVED_TO, b"c"),
        (number, events.IN_DELETE, b"b"),
        (number, events.IN_CREATE | ISDIR, b"e"),
        (number, events.IN_DELETE | ISDIR, b"e"),
        (number, events.IN_MOVED_FROM, b"c"),
        (number, events.IN_DELETE_SELF, b""),
        (number, events.IN_IGNORED, b""),
    ]
    assert not world.watches.files


def test_what_is_done_to_a_file(world: World) -> None:
    world.make(b"/f")
    fd = world.instance()
    own, above = world.watch(fd, b"/f"), world.watch(fd, b"/")
    file = world.open(b"/f")
    assert transfer.write(world.task, file, DATA, 3) == 3
    assert transfer.write(world.task, file, DATA, 3) == 3
    assert transfer.read(world.task, file, DATA, 3) == 0
    set_mode(world.caller, resolve(world.caller, world.root, b"/f"), 0o600)
    set_size(world.caller, resolve(world.caller, world.root, b"/f"), 0)
    world.task.process.files.close(file)
    both = [events.IN_OPEN, events.IN_MODIFY, events.IN_MODIFY, events.IN_ACCESS, events.IN_ATTRIB, events.IN_MODIFY]
    wanted = [(number, mask, name) for mask in [*both, events.IN_CLOSE_WRITE] for number, name in ((above, b"f"), (own, b""))]
    assert world.read(fd) == wanted
    world.task.process.files.close(world.open(b"/f", os.O_RDONLY | os.O_CREAT))
    assert [mask for number, mask, _ in world.read(fd) if number == own] == [events.IN_OPEN, events.IN_CLOSE_NOWRITE]


def test_a_replaced_file_is_gone(world: World) -> None:
    world.make(b"/old")
    world.make(b"/new")
    fd = world.instance()
    old, new = world.watch(fd, b"/old"), world.watch(fd, b"/new")
    rename(world.caller, world.root, b"/new", world.root, b"/old")
    assert world.read(fd) == [(new, events.IN_MOVE_SELF, b""), (old, events.IN_DELETE_SELF, b""), (old, events.IN_IGNORED, b"")]


def test_masks(world: World) -> None:
    world.make(b"/f")
    fd = world.instance()
    number = world.watch(fd, b"/f", events.IN_OPEN)
    assert world.watch(fd, b"/f", events.IN_ATTRIB | events.IN_MASK_ADD) == number
    with fails(errno.EEXIST):
        world.watch(fd, b"/f", events.IN_ATTRIB | events.IN_MASK_CREATE)
    world.open(b"/f")
    set_mode(world.caller, resolve(world.caller, world.root, b"/f"), 0o600)
    assert [mask for _, mask, _ in world.read(fd)] == [events.IN_OPEN, events.IN_ATTRIB]
    assert world.watch(fd, b"/f", events.IN_ATTRIB | events.IN_ONESHOT) == number
    world.open(b"/f")
    set_mode(world.caller, resolve(world.caller, world.root, b"/f"), 0o600)
    assert [mask for _, mask, _ in world.read(fd)] == [events.IN_ATTRIB, events.IN_IGNORED]
    with fails(errno.EINVAL):
        inotify.inotify_rm_watch(world.task, fd, number)
    for arguments, error in (
        ((fd, b"/f", 0), errno.EINVAL),
        ((fd, b"/f", ALL | events.IN_ONLYDIR), errno.ENOTDIR),
        ((fd, b"/none", ALL), errno.ENOENT),
        ((fd, b"/f", ALL | events.IN_MASK_ADD | events.IN_MASK_CREATE), errno.EINVAL),
        ((world.open(b"/f"), b"/f", ALL), errno.EINVAL),
    ):
        with fails(error):
            world.watch(*arguments)
    with fails(errno.EINVAL):
        inotify.inotify_init1(world.task, 1)
    number = world.watch(fd, b"/f")
    inotify.inotify_rm_watch(world.task, fd, number)
    assert world.read(fd) == [(number, events.IN_IGNORED, b"")]


async def test_a_reader_waits(world: World) -> None:
    fd = inotify.inotify_init(world.task)
    world.watch(fd, b"/", events.IN_CREATE)
    file = world.task.process.files.get(fd)
    assert not file.poll()
    running = await world.task.begin(transfer.read(world.task, fd, DATA, 100))
    world.make(b"/a")
    assert await result(running) == 32
    assert world.task.space.read(DATA + 16, 16) == b"a".ljust(16, b"\0")


def test_reads_take_whole_events(world: World) -> None:
    fd = world.instance()
    world.watch(fd, b"/", events.IN_CREATE)
    for name in (b"/a", b"/" + b"b" * 16):
        world.make(name)
    file = world.task.process.files.get(fd)
    assert file.ioctl(world.task, 0x541B, DATA) == 0
    assert world.task.space.read(DATA, 4) == struct.pack("<I", 32 + 48)
    with fails(errno.EINVAL):
        file.read(31)
    assert [len(name) for _, _, name in world.read(fd, 79)] == [1]
    assert [len(name) for _, _, name in world.read(fd, 79)] == [16]


def test_everything_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_MAX", 5)
    monkeypatch.setattr(events, "WATCHES_MAX", 1)
    monkeypatch.setattr(events, "INSTANCES_MAX", 1)
    fd = world.instance()
    with fails(errno.EMFILE):
        world.instance()
    world.watch(fd, b"/", events.IN_CREATE)
    for number in range(10):
        world.make(b"/%d" % number)
    assert [mask for _, mask, _ in world.read(fd)] == [events.IN_CREATE] * 5 + [events.IN_Q_OVERFLOW]
    with fails(errno.ENOSPC):
        world.watch(fd, b"/1")
    world.task.process.files.close(fd)
    assert not world.watches.files
    fd = world.instance()
    world.watch(fd, b"/1")
    assert isinstance(world.task.process.files.get(fd), Inotify)
    world.task.process.files.drop()
    assert (world.watches.count, world.watches.instances) == (0, 0)
