"""Bytes from file to file: nothing is lost where one side has less room than the other has bytes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import struct
from typing import Any

import pytest

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK, OpenFile
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.files.pipe import PipeEnd, PipePages, pipe_ends
from asynckvm.linux.limits import Limit
from asynckvm.linux.signals.numbers import bit
from asynckvm.linux.syscalls import splice
from asynckvm.model.memory import Access
from support.fake_tasks import DATA, END, lone_task, result

NONBLOCK = 2
BIG, BIG_BYTES = 0x7000_0000, 1 << 20
_inodes = iter(range(1, 1 << 30))


class Regular(OpenFile):
    """A regular file in a bytearray."""

    def __init__(self, content: bytes = b"", flags: int = os.O_RDWR) -> None:
        super().__init__(flags)
        self.content = bytearray(content)
        self.position = 0
        self.inode = next(_inodes)

    @property
    def positioned(self) -> bool:
        return True

    def read(self, length: int) -> bytes:
        data = self.pread(length, self.position)
        self.position += len(data)
        return data

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + min(length, CHUNK)])

    def write(self, data: bytes) -> int:
        done = self.pwrite(data, self.position)
        self.position += done
        return done

    def pwrite(self, data: bytes, offset: int) -> int:
        self.content[offset : offset + len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        self.position = {os.SEEK_SET: 0, os.SEEK_CUR: self.position}[whence] + offset
        return self.position

    def attributes(self) -> Attributes:
        return Attributes(1, self.inode, stat.S_IFREG | 0o600, size=len(self.content))


class World:
    """A task with files. Files are named by their descriptors."""

    def __init__(self) -> None:
        task = lone_task(credentials=Credentials())
        task.space.map(BIG, BIG_BYTES, Access.READ | Access.WRITE)
        self.task = task
        self.pages = PipePages()

    def add(self, file: OpenFile) -> int:
        fd: int = self.task.process.files.add(file)
        return fd

    def file(self, fd: int) -> Any:
        return self.task.process.files.get(fd)

    def pipe(self, content: bytes = b"") -> tuple[int, int]:
        reading, writing = pipe_ends(self.pages)
        if content:
            assert writing.write(content) == len(content)
        return self.add(reading), self.add(writing)

    def held(self, fd: int) -> bytes:
        end = self.file(fd)
        assert isinstance(end, PipeEnd)
        return end.pipe.peek(1 << 20)

    def offset(self, value: int) -> int:
        self.task.space.write(DATA, struct.pack("<q", value))
        return DATA

    @property
    def offset_after(self) -> int:
        return int.from_bytes(self.task.space.read(DATA, 8), "little")


@pytest.fixture
def world() -> World:
    return World()


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


async def test_sendfile(world: World) -> None:
    content = os.urandom(BIG_BYTES * 2 + 5)
    source, target = world.add(Regular(content)), world.add(Regular())
    assert await splice.sendfile(world.task, target, source, 0, 100) == 100
    assert world.file(source).position == 100
    assert await splice.sendfile(world.task, target, source, world.offset(100), 1 << 40) == len(content) - 100
    assert (world.file(source).position, world.offset_after) == (100, len(content))
    assert world.file(target).content == content
    reading, writing = world.pipe()
    with fails(errno.EINVAL):
        await splice.sendfile(world.task, target, reading, 0, 1)
    world.file(target).flags |= os.O_APPEND
    with fails(errno.EINVAL):
        await splice.sendfile(world.task, target, source, 0, 1)
    running = await world.task.begin(splice.sendfile(world.task, writing, source, world.offset(0), 1 << 20))
    world.task.interrupt()
    assert await result(running) == 65536
    assert world.offset_after == 65536


async def test_copy_file_range(world: World) -> None:
    task = world.task
    source, target = world.add(Regular(b"0123456789")), world.add(Regular(b"abc"))
    assert await splice.copy_file_range(task, source, world.offset(2), target, 0, 100, 0) == 8
    assert (world.file(target).content, world.file(target).position, world.file(source).position) == (b"23456789", 8, 0)
    assert world.offset_after == 10
    assert await splice.copy_file_range(task, source, world.offset(10), target, 0, 100, 0) == 0
    assert await splice.copy_file_range(task, source, world.offset(0), source, 0, 0, 0) == 0
    with fails(errno.EINVAL):
        await splice.copy_file_range(task, source, world.offset(2), source, 0, 5, 0)
    with fails(errno.EINVAL):
        await splice.copy_file_range(task, source, 0, target, 0, 5, 1)
    with fails(errno.EINVAL):
        await splice.copy_file_range(task, source, 0, world.pipe()[1], 0, 5, 0)
    task.process.limits[Limit.FSIZE] = (10, 10)
    assert await splice.copy_file_range(task, source, world.offset(0), target, 0, 100, 0) == 2
    world.file(target).flags |= os.O_APPEND
    with fails(errno.EBADF):
        await splice.copy_file_range(task, source, 0, target, 0, 5, 0)


async def test_splice_between_a_file_and_a_pipe(world: World) -> None:
    content = os.urandom(100_000)
    source, target, (reading, writing) = world.add(Regular(content)), world.add(Regular()), world.pipe()
    assert await splice.splice(world.task, source, 0, writing, 0, 1 << 30, 0) == 65536
    assert world.file(source).position == 65536
    with fails(errno.EAGAIN):
        await splice.splice(world.task, source, 0, writing, 0, 1 << 30, NONBLOCK)
    assert await splice.splice(world.task, reading, 0, target, world.offset(0), 1 << 30, 0) == 65536
    assert (world.offset_after, world.file(target).position) == (65536, 0)
    assert await splice.splice(world.task, source, world.offset(65536), writing, 0, 1 << 30, 0) == 100_000 - 65536
    assert (world.offset_after, world.file(source).position) == (100_000, 65536)
    assert await splice.splice(world.task, reading, 0, target, world.offset(65536), 1 << 30, 0) == 100_000 - 65536
    assert world.file(target).content == content
    world.task.process.files.close(writing)
    assert await splice.splice(world.task, reading, 0, target, 0, 10, 0) == 0


async def test_splice_waits_for_bytes(world: World) -> None:
    target, (reading, writing) = world.add(Regular()), world.pipe()
    running = await world.task.begin(splice.splice(world.task, reading, 0, target, 0, 100, 0))
    world.file(writing).write(b"hello")
    assert await result(running) == 5
    assert world.file(target).content == b"hello"


async def test_what_the_target_does_not_take_stays_in_the_pipe(world: World) -> None:
    world.task.process.limits[Limit.FSIZE] = (3, 3)
    target, (reading, _) = world.add(Regular()), world.pipe(b"hello")
    assert await splice.splice(world.task, reading, 0, target, 0, 100, 0) == 3
    with fails(errno.EFBIG):
        await splice.splice(world.task, reading, 0, target, 0, 100, 0)
    assert world.held(reading) == b"lo"
    assert world.task.pending.mask == bit(signal.SIGXFSZ)


async def test_between_pipes(world: World) -> None:
    (one, full), (two, other) = world.pipe(b"hello"), world.pipe()
    assert await splice.tee(world.task, one, other, 3, 0) == 3
    assert (world.held(one), world.held(two)) == (b"hello", b"hel")
    assert await splice.splice(world.task, one, 0, other, 0, 4, 0) == 4
    assert (world.held(one), world.held(two)) == (b"o", b"helhell")
    with fails(errno.EINVAL):
        await splice.tee(world.task, one, full, 3, 0)
    with fails(errno.ESPIPE):
        await splice.splice(world.task, one, 0, other, world.offset(0), 4, 0)
    world.task.process.files.close(two)
    with fails(errno.EPIPE):
        await splice.tee(world.task, one, other, 3, 0)
    assert world.task.pending.mask == bit(signal.SIGPIPE)


async def test_vmsplice(world: World) -> None:
    reading, writing = world.pipe()
    space = world.task.space
    space.write(END - 5, b"hello")
    space.write(DATA, struct.pack("<QQQQ", END - 5, 2, END - 3, 3))
    assert await splice.vmsplice(world.task, writing, DATA, 2, 0) == 5
    assert world.held(reading) == b"hello"
    space.write(DATA, struct.pack("<QQ", DATA + 100, 9))
    assert await splice.vmsplice(world.task, reading, DATA, 1, 0) == 5
    assert space.read(DATA + 100, 5) == b"hello"
    with pytest.raises(BlockingIOError):
        await splice.vmsplice(world.task, reading, DATA, 1, NONBLOCK)
    with fails(errno.EBADF):
        await splice.vmsplice(world.task, world.add(Regular()), DATA, 1, 0)


async def test_vmsplice_gives_what_there_is_room_for(world: World) -> None:
    _, writing = world.pipe()
    length = 3 << 12
    buffers = struct.pack("<QQ", END - length, length) * 10
    world.task.space.write(DATA, buffers)
    async with asyncio.timeout(10):
        assert await splice.vmsplice(world.task, writing, DATA, 10, 0) == 1 << 16
    with pytest.raises(SyscallError, match="EAGAIN"):
        await splice.vmsplice(world.task, writing, DATA, 10, NONBLOCK)


async def test_what_cannot_be_spliced(world: World) -> None:
    one, other, (reading, writing) = world.add(Regular()), world.add(Regular(flags=os.O_RDWR | os.O_APPEND)), world.pipe(b"x")
    events = world.add(EventFile(1, 0, semaphore=False))
    for arguments, number in (
        ((one, 0, other, 0, 1, 0), errno.EINVAL),
        ((events, 0, writing, 0, 8, 0), errno.EINVAL),
        ((reading, 0, events, 0, 8, 0), errno.EINVAL),
        ((one, 0, writing, 0, 1, 1 << 9), errno.EINVAL),
        ((reading, DATA, one, 0, 1, 0), errno.ESPIPE),
        ((one, 0, writing, DATA, 1, 0), errno.ESPIPE),
        ((reading, 0, other, 0, 1, 0), errno.EINVAL),
        ((writing, 0, one, 0, 1, 0), errno.EBADF),
        ((one, 0, reading, 0, 1, 0), errno.EBADF),
    ):
        with fails(number):
            await splice.splice(world.task, *arguments)
    assert world.held(reading) == b"x"
