"""Bytes between files and guest memory: whole, in order, and counted right when something fails midway."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeAlias

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.streams import Capture
from asynckvm.model.exits import Exit
from asynckvm.model.memory import Access
from support.fake_platform import FakeSpace, syscall
from support.scripted import DATA, Scripted

Start: TypeAlias = Callable[..., Scripted]
Calls: TypeAlias = Generator[Exit, int, None]
READ, WRITE, LSEEK, PREAD, READV, WRITEV, SENDFILE, OPENAT = 0, 1, 8, 17, 19, 20, 40, 257
# The scripted guest's memory ends here.
END = DATA + 0x10000
BIG = 0x7000_0000
BIG_BYTES = 3 << 20
RW = Access.READ | Access.WRITE


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    data = os.urandom(BIG_BYTES - 5)
    (tmp_path / "data").write_bytes(data)
    return data


def opened(space: FakeSpace, tmp_path: Path) -> Exit:
    space.write(DATA, os.fsencode(tmp_path / "data") + b"\0")
    return syscall(OPENAT, -100, DATA, os.O_RDONLY, 0)


def vector(space: FakeSpace, *buffers: tuple[int, int]) -> int:
    space.write(DATA, b"".join(struct.pack("<QQ", *buffer) for buffer in buffers))
    return DATA


async def test_a_regular_file_is_read_whole(start: Start, content: bytes, tmp_path: Path) -> None:
    def script(space: FakeSpace) -> Calls:
        space.map(BIG, BIG_BYTES, RW)
        fd = yield opened(space, tmp_path)
        assert (yield syscall(READ, fd, BIG, BIG_BYTES)) == len(content)
        assert space.read(BIG, len(content)) == content
        assert (yield syscall(READ, fd, BIG, 100)) == 0
        assert (yield syscall(PREAD, fd, BIG, 10, len(content) - 4)) == 4
        assert (yield syscall(PREAD, fd, BIG, 10, -1)) == -errno.EINVAL

    await start(script).finish()


async def test_a_bad_address_midway_counts_what_was_read_and_loses_nothing(start: Start, content: bytes, tmp_path: Path) -> None:
    def script(space: FakeSpace) -> Calls:
        fd = yield opened(space, tmp_path)
        assert (yield syscall(READ, fd, END - 10, 100)) == 10
        assert (yield syscall(LSEEK, fd, 0, os.SEEK_CUR)) == 10
        assert (yield syscall(READ, fd, END, 100)) == -errno.EFAULT
        assert (yield syscall(LSEEK, fd, 0, os.SEEK_CUR)) == 10
        assert (yield syscall(READ, fd, DATA, 3)) == 3
        assert space.read(DATA, 3) == content[10:13]

    await start(script).finish()


async def test_scattered_buffers(start: Start, content: bytes, tmp_path: Path) -> None:
    def script(space: FakeSpace) -> Calls:
        fd = yield opened(space, tmp_path)
        buffers = vector(space, (DATA + 0x1000, 3), (0, 0), (DATA + 0x2000, 5), (END - 2, 100))
        assert (yield syscall(READV, fd, buffers, 4)) == 10
        assert space.read(DATA + 0x1000, 3) + space.read(DATA + 0x2000, 5) + space.read(END - 2, 2) == content[:10]
        assert (yield syscall(READV, fd, buffers, 1025)) == -errno.EINVAL
        assert (yield syscall(READV, fd, buffers, -1)) == -errno.EINVAL
        assert (yield syscall(READV, fd, vector(space, (DATA, 1 << 63)), 1)) == -errno.EINVAL
        assert (yield syscall(READV, fd, buffers, 0)) == 0

    await start(script).finish()


async def test_gathered_buffers_are_one_write(start: Start) -> None:
    class Writes(Capture):
        def write(self, data: bytes) -> int:
            pieces.append(len(data))
            return super().write(data)

    def script(space: FakeSpace) -> Calls:
        space.map(BIG, BIG_BYTES, RW)
        space.write(DATA + 0x1000, b"hello world")
        assert (yield syscall(WRITEV, 1, vector(space, (DATA + 0x1000, 6), (0, 0), (DATA + 0x1006, 5)), 3)) == 11
        assert (yield syscall(WRITEV, 1, vector(space, (DATA + 0x1000, 5), (END - 1, 9)), 2)) == 6
        assert (yield syscall(WRITE, 1, BIG, BIG_BYTES)) == BIG_BYTES
        assert (yield syscall(WRITE, 1, BIG, 0)) == 0
        assert (yield syscall(WRITE, 0, BIG, 1)) == -errno.EBADF
        assert (yield syscall(READ, 1, BIG, 1)) == -errno.EBADF

    pieces: list[int] = []
    output = Writes()
    await start(script, stdout=output).finish()
    assert output.data.startswith(b"hello worldhello\0")
    assert pieces == [11, 6, 1 << 20, 1 << 20, 1 << 20, 0]


async def test_a_full_target_says_how_much_it_took(start: Start) -> None:
    run = start([syscall(WRITE, 1, DATA, 100), syscall(WRITE, 1, DATA, 100)], stdout=Capture(limit=70))
    await run.finish()
    assert run.results == [70, -errno.ENOSPC]


@pytest.mark.every_loop
async def test_a_slow_reader_gets_every_byte(start: Start) -> None:
    def script(space: FakeSpace) -> Calls:
        space.map(BIG, BIG_BYTES, RW)
        for page in range(0, BIG_BYTES, 4096):
            space.write(BIG + page, struct.pack("<I", page))
        assert (yield syscall(WRITE, 1, BIG, BIG_BYTES)) == BIG_BYTES
        written.append(space.read(BIG, BIG_BYTES))

    written: list[bytes] = []
    reading, writing = os.pipe()
    run = start(script, stdout=writing)
    os.close(writing)
    task = asyncio.create_task(run.finish())
    with open(reading, "rb") as file:
        assert await asyncio.to_thread(file.read) == (await task and written[0])


async def test_a_non_blocking_descriptor_does_not_wait(start: Start) -> None:
    reading, writing = os.pipe()
    nonblocking = syscall(72, 0, 4, os.O_NONBLOCK)
    run = start([nonblocking, syscall(READ, 0, DATA, 1), syscall(72, 0, 3)], stdin=reading)
    await run.finish()
    assert run.results[:2] == [0, -errno.EAGAIN]
    assert run.results[2] & os.O_NONBLOCK
    assert os.get_blocking(reading)
    os.close(reading)
    os.close(writing)


async def test_sendfile(start: Start, content: bytes, tmp_path: Path) -> None:
    def script(space: FakeSpace) -> Calls:
        fd = yield opened(space, tmp_path)
        assert (yield syscall(SENDFILE, 1, fd, 0, 100)) == 100
        space.write(DATA, struct.pack("<q", 50))
        assert (yield syscall(SENDFILE, 1, fd, DATA, 1 << 40)) == len(content) - 50
        assert space.read(DATA, 8) == struct.pack("<q", len(content))
        assert (yield syscall(LSEEK, fd, 0, os.SEEK_CUR)) == 100
        assert (yield syscall(SENDFILE, 1, 0, 0, 100)) == -errno.EINVAL
        assert (yield syscall(SENDFILE, 1, 99, 0, 100)) == -errno.EBADF

    run = start(script)
    await run.finish()
    assert bytes(run.output.data) == content[:100] + content[50:]


async def test_a_failing_read_after_the_first_bytes_is_a_short_read(
    start: Start, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asynckvm.linux.files.host import HostDescriptor

    real = HostDescriptor.read

    def read(self: HostDescriptor, length: int) -> bytes:
        if os.lseek(self.fd, 0, os.SEEK_CUR):
            raise OSError(errno.EIO, "broken")
        return real(self, length)

    monkeypatch.setattr(HostDescriptor, "read", read)

    def script(space: FakeSpace) -> Calls:
        space.map(BIG, BIG_BYTES, RW)
        fd = yield opened(space, tmp_path)
        assert (yield syscall(READ, fd, BIG, BIG_BYTES)) == 1 << 20
        assert (yield syscall(READ, fd, BIG, BIG_BYTES)) == -errno.EIO

    await start(script).finish()


def test_an_error_names_itself() -> None:
    assert str(SyscallError(errno.EBADF)) == "EBADF"
    assert str(SyscallError(12345)) == "12345"
