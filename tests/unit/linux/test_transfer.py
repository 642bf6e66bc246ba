"""The calls that move bytes, with files and memory of a fake task: what waits, what is cut short, what signals."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import signal
import stat
import struct
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK, OpenFile
from asynckvm.linux.files.pipe import PipePages, pipe_ends
from asynckvm.linux.limits import Limit
from asynckvm.linux.signals.numbers import bit
from asynckvm.linux.streams import Capture, host_stream
from asynckvm.linux.syscalls import transfer
from asynckvm.model.memory import Access
from support.fake_tasks import DATA, END, lone_task, result

BIG = 0x7000_0000
BIG_BYTES = 3 << 20
RWF_NOWAIT, RWF_APPEND = 8, 16


class Regular(OpenFile):
    """A regular file in a bytearray."""

    def __init__(self, content: bytes = b"", flags: int = os.O_RDWR) -> None:
        super().__init__(flags)
        self.content = bytearray(content)
        self.position = 0

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
        if self.flags & os.O_APPEND:
            self.position = len(self.content)
        done = self.pwrite(data, self.position)
        self.position += done
        return done

    def pwrite(self, data: bytes, offset: int) -> int:
        self.content[offset : offset + len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        self.position = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: len(self.content)}[whence] + offset
        return self.position

    def attributes(self) -> Attributes:
        return Attributes(1, 1, stat.S_IFREG | 0o600, size=len(self.content))


@pytest.fixture
def task() -> Any:
    made = lone_task(credentials=Credentials())
    made.space.map(BIG, BIG_BYTES, Access.READ | Access.WRITE)
    return made


def vector(task: Any, *buffers: tuple[int, int]) -> int:
    task.space.write(DATA, b"".join(struct.pack("<QQ", *buffer) for buffer in buffers))
    return DATA


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


async def test_what_is_there_is_read_without_a_coroutine(task: Any) -> None:
    fd = task.process.files.add(Regular(b"hello"))
    assert transfer.read(task, fd, DATA, 100) == 5
    assert task.space.read(DATA, 5) == b"hello"
    assert transfer.read(task, fd, DATA, 100) == 0
    assert transfer.write(task, fd, DATA, 3) == 3
    assert task.process.files.get(fd).content == b"hellohel"


async def test_a_large_read_fills_its_buffer_or_comes_to_the_end(task: Any) -> None:
    content = os.urandom(BIG_BYTES - 7)
    fd = task.process.files.add(Regular(content))
    assert await result(transfer.read(task, fd, BIG, BIG_BYTES)) == len(content)
    assert task.space.read(BIG, len(content)) == content
    target = task.process.files.add(Regular())
    assert await result(transfer.write(task, target, BIG, len(content))) == len(content)
    assert task.process.files.get(target).content == content


async def test_a_bad_address_leaves_the_rest_in_a_regular_file(task: Any) -> None:
    file = Regular(b"0123456789")
    fd = task.process.files.add(file)
    assert transfer.read(task, fd, END - 4, 10) == 4
    assert file.position == 4
    with pytest.raises(GuestMemoryError):
        transfer.read(task, fd, END, 10)
    assert file.position == 4
    assert await transfer.readv(task, fd, vector(task, (DATA + 100, 2), (END - 1, 9)), 2) == 3
    assert file.position == 7
    with fails(errno.EFAULT):
        await transfer.readv(task, fd, vector(task, (END, 9)), 1)
    assert file.position == 7
    task.space.write(END - 2, b"xy")
    assert await result(transfer.write(task, fd, END - 2, 10)) == 2
    assert file.content == b"0123456xy9"


async def test_an_empty_pipe_is_waited_for(task: Any) -> None:
    reading, writing = pipe_ends(PipePages())
    source, target = task.process.files.add(reading), task.process.files.add(writing)
    running = await task.begin(transfer.read(task, source, DATA, 10))
    task.space.write(DATA + 50, b"abc")
    assert transfer.write(task, target, DATA + 50, 3) == 3
    assert await result(running) == 3
    assert task.space.read(DATA, 3) == b"abc"
    reading.flags |= os.O_NONBLOCK
    with pytest.raises(BlockingIOError):
        await result(transfer.read(task, source, DATA, 10))
    with pytest.raises(BlockingIOError):
        await transfer.preadv2(task, source, vector(task, (DATA + 100, 9)), 1, -1, 0, RWF_NOWAIT)


async def test_a_write_waits_until_all_is_taken_and_a_signal_cuts_it_short(task: Any) -> None:
    reading, writing = pipe_ends(PipePages())
    source, target = task.process.files.add(reading), task.process.files.add(writing)
    running = await task.begin(transfer.write(task, target, BIG, 100_000))
    assert await result(transfer.read(task, source, BIG, 1 << 20)) == 65536
    assert await result(running) == 100_000
    assert await result(transfer.read(task, source, BIG, 1 << 20)) == 100_000 - 65536
    running = await task.begin(transfer.write(task, target, BIG, 100_000))
    task.interrupt()
    assert await result(running) == 65536


async def test_a_pipe_without_readers_signals(task: Any) -> None:
    reading, writing = pipe_ends(PipePages())
    source, target = task.process.files.add(reading), task.process.files.add(writing)
    task.process.files.close(source)
    with pytest.raises(BrokenPipeError):
        transfer.write(task, target, DATA, 3)
    assert task.pending.mask == bit(signal.SIGPIPE)
    task.pending.take()
    with pytest.raises(BrokenPipeError):
        transfer.writev(task, target, vector(task, (DATA, 3)), 1)
    assert task.pending.mask == bit(signal.SIGPIPE)


async def test_a_reader_that_goes_while_a_write_waits(task: Any) -> None:
    reading, writing = pipe_ends(PipePages())
    source, target = task.process.files.add(reading), task.process.files.add(writing)
    running = await task.begin(transfer.write(task, target, BIG, 100_000))
    task.process.files.close(source)
    assert await result(running) == 65536
    assert task.pending.mask == bit(signal.SIGPIPE)


async def test_the_file_size_limit(task: Any) -> None:
    task.process.limits[Limit.FSIZE] = (10, 10)
    file = Regular()
    fd = task.process.files.add(file)
    assert await result(transfer.write(task, fd, DATA, 7)) == 7
    assert await result(transfer.write(task, fd, DATA, 7)) == 3
    assert not task.pending.mask
    with fails(errno.EFBIG):
        await result(transfer.write(task, fd, DATA, 7))
    assert task.pending.mask == bit(signal.SIGXFSZ)
    assert len(file.content) == 10
    assert await transfer.pwrite64(task, fd, DATA, 7, 5) == 5
    reading, writing = pipe_ends(PipePages())
    assert await result(transfer.write(task, task.process.files.add(writing), DATA, 70)) == 70
    reading.close()


async def test_pwritev2(task: Any) -> None:
    file = Regular(b"0123456789")
    fd = task.process.files.add(file)
    task.space.write(DATA + 100, b"abc")
    buffers = vector(task, (DATA + 100, 1), (DATA + 101, 2))
    assert await transfer.pwritev2(task, fd, buffers, 2, -1, 0, 0) == 3
    assert (file.position, file.content) == (3, b"abc3456789")
    assert await transfer.pwritev2(task, fd, buffers, 2, 0, 0, RWF_APPEND) == 3
    assert (file.position, file.content) == (3, b"abc3456789abc")
    assert await transfer.pwritev2(task, fd, buffers, 2, -1, 0, RWF_APPEND) == 3
    assert (file.position, len(file.content)) == (16, 16)
    with fails(errno.EOPNOTSUPP):
        await transfer.pwritev2(task, fd, buffers, 2, 0, 0, 1 << 10)
    with fails(errno.EINVAL):
        await transfer.pwritev2(task, fd, buffers, 2, -2, 0, 0)
    assert await transfer.preadv2(task, fd, buffers, 2, 13, 0, 0) == 3
    assert task.space.read(DATA + 100, 3) == b"abc"


async def test_one_read_of_a_pipe_is_scattered(task: Any) -> None:
    reading, writing = pipe_ends(PipePages())
    source, target = task.process.files.add(reading), task.process.files.add(writing)
    task.space.write(DATA + 100, b"abcdef")
    assert transfer.writev(task, target, vector(task, (DATA + 100, 3), (0, 0), (DATA + 103, 3)), 3) == 6
    assert await transfer.readv(task, source, vector(task, (DATA + 200, 2), (0, 0), (DATA + 300, 9)), 3) == 6
    assert task.space.read(DATA + 200, 2) + task.space.read(DATA + 300, 4) == b"abcdef"


async def test_a_file_stays_open_while_a_call_is_under_way(task: Any) -> None:
    ended = []

    class Closing(Regular):
        def close(self) -> None:
            ended.append(self)

    files = task.process.files
    fd = files.add(Closing(bytes(BIG_BYTES)))
    reading = asyncio.ensure_future(result(transfer.read(task, fd, BIG, BIG_BYTES)))
    await asyncio.sleep(0)
    files.close(fd)  # by another thread, between two pieces
    assert not ended
    assert await reading == BIG_BYTES
    assert len(ended) == 1


def test_a_closed_file_of_the_host_has_no_number() -> None:
    read_end, write_end = os.pipe()
    stream = host_stream(read_end)
    stream.close()
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream.read(1)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_who_may_not(task: Any) -> None:
    files = task.process.files
    reading, writing = files.add(Regular(flags=os.O_RDONLY)), files.add(Regular(flags=os.O_WRONLY))
    for call, fd in ((transfer.read, writing), (transfer.write, reading), (transfer.read, 99)):
        with fails(errno.EBADF):
            call(task, fd, DATA, 1)


async def test_a_file_that_asks_who_reads_is_asked(task: Any) -> None:
    class Asking(OpenFile):
        async def read_for(self, task: Any, length: int) -> bytes:
            asked.append(task)
            return b"x"[:length]

    asked: list[Any] = []
    answer = transfer.read(task, task.process.files.add(Asking(os.O_RDONLY)), DATA, 10)
    assert inspect.isawaitable(answer)
    assert await answer == 1
    assert asked == [task]


async def test_writev_and_pread_to_a_bad_address(task: Any) -> None:
    file = Regular(b"0123456789")
    fd = task.process.files.add(file)
    task.space.write(END - 2, b"xy")
    assert await result(transfer.writev(task, fd, vector(task, (END - 2, 2), (END, 5)), 2)) == 2
    assert file.content == b"xy23456789"
    with pytest.raises(GuestMemoryError):
        await result(transfer.writev(task, fd, vector(task, (END, 5)), 1))
    assert transfer.pread64(task, fd, DATA, 3, 8) == 2
    assert task.space.read(DATA, 2) == b"89"
    assert transfer.pread64(task, fd, END - 3, 9, 0) == 3
    with pytest.raises(GuestMemoryError):
        transfer.pread64(task, fd, END, 9, 0)
    assert await result(transfer.pread64(task, fd, DATA, 9, (1 << 63) - 1)) == 0
    with fails(errno.EINVAL):
        transfer.pread64(task, fd, DATA, 3, -1)
    assert file.position == 2


async def test_one_write_is_one_piece_up_to_a_bound(task: Any) -> None:
    class Writes(Capture):
        def write(self, data: bytes) -> int:
            pieces.append(len(data))
            return super().write(data)

    pieces: list[int] = []
    output = Writes()
    fd = task.process.files.add(output)
    task.space.write(DATA + 0x1000, b"hello world")
    assert await result(transfer.writev(task, fd, vector(task, (DATA + 0x1000, 6), (0, 0), (DATA + 0x1006, 5)), 3)) == 11
    assert await result(transfer.write(task, fd, BIG, BIG_BYTES)) == BIG_BYTES
    assert transfer.write(task, fd, BIG, 0) == 0
    assert output.data[:12] == b"hello world\0"
    assert pieces == [11, CHUNK, CHUNK, CHUNK, 0]


async def test_a_full_target_says_how_much_it_took(task: Any) -> None:
    fd = task.process.files.add(Capture(limit=70))
    assert await result(transfer.write(task, fd, DATA, 100)) == 70
    with fails(errno.ENOSPC):
        await result(transfer.write(task, fd, DATA, 100))


async def test_a_failing_read_after_the_first_bytes_is_a_short_read(task: Any) -> None:
    class Broken(Regular):
        def read(self, length: int) -> bytes:
            if self.position:
                raise OSError(errno.EIO, "broken")
            return super().read(length)

    fd = task.process.files.add(Broken(bytes(BIG_BYTES)))
    assert await result(transfer.read(task, fd, BIG, BIG_BYTES)) == CHUNK
    with pytest.raises(OSError, match="broken"):
        await result(transfer.read(task, fd, BIG, BIG_BYTES))


@pytest.mark.parametrize("call", [transfer.readv, transfer.writev])
async def test_vectors_that_are_none(call: Any, task: Any) -> None:
    fd = task.process.files.add(Regular(b"0123456789"))
    assert await result(call(task, fd, DATA, 0)) == 0
    for count in (1025, -1):
        with fails(errno.EINVAL):
            await result(call(task, fd, DATA, count))
    with fails(errno.EINVAL):
        await result(call(task, fd, vector(task, (DATA, 1 << 63)), 1))
    with pytest.raises(GuestMemoryError):
        await result(call(task, fd, END, 1))


@pytest.mark.every_loop
async def test_a_slow_reader_of_a_host_pipe_gets_every_byte(task: Any) -> None:
    reading, writing = os.pipe()
    fd = task.process.files.add(host_stream(writing))
    os.close(writing)
    content = os.urandom(1 << 20)
    task.space.write(BIG, content)
    with open(reading, "rb") as file:
        running = await task.begin(transfer.write(task, fd, BIG, len(content)))
        read = asyncio.create_task(asyncio.to_thread(file.read, len(content)))
        assert await result(running) == len(content)
        assert await read == content
    task.process.files.close(fd)


def test_an_error_names_itself() -> None:
    assert str(SyscallError(errno.EBADF)) == "EBADF"
    assert str(SyscallError(12345)) == "12345"
