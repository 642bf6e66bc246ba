"""Open files, the descriptor table, and standard streams of every kind that neither block the loop nor change their host."""

import asyncio
import errno
import fcntl
import os
import pty
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asynckvm.errors import InternalError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import DescriptorTable, OpenFile
from asynckvm.linux.files.host import HostDescriptor
from asynckvm.linux.streams import (
    Capture,
    NonBlockingStream,
    ReadyStream,
    SocketStream,
    Source,
    host_stream,
)
from asynckvm.linux.wait import POLLHUP, POLLIN, POLLOUT, READABLE, wait
from support.fake_tasks import DATA, lone_task

SECONDS = 5


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end >= 0:
            os.close(end)


def close(ends: list[int], index: int) -> None:
    os.close(ends[index])
    ends[index] = -1


async def until(stream: OpenFile, events: int) -> None:
    while not stream.poll() & events:
        await wait((stream.queue,))


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


class TestHostStreams:
    @pytest.mark.every_loop
    async def test_a_pipe_is_waited_for_and_stays_as_it_was(self, pipe: list[int]) -> None:
        stream = host_stream(pipe[0])
        with pytest.raises(BlockingIOError):
            stream.read(10)
        async with asyncio.timeout(SECONDS):
            waiting = asyncio.create_task(until(stream, POLLIN))
            await asyncio.sleep(0)
            os.write(pipe[1], b"hello")
            await waiting
        assert stream.read(10) == b"hello"
        assert is_blocking(pipe[0])
        close(pipe, 1)
        assert stream.read(10) == b""
        stream.close()

    @pytest.mark.every_loop
    async def test_a_full_pipe_is_waited_for(self, pipe: list[int]) -> None:
        stream = host_stream(pipe[1])
        with pytest.raises(BlockingIOError):
            while True:
                stream.write(b"x" * 65536)
        async with asyncio.timeout(SECONDS):
            waiting = asyncio.create_task(until(stream, POLLOUT))
            await asyncio.sleep(0)
            assert not waiting.done()
            os.read(pipe[0], 1 << 20)
            await waiting
        assert stream.write(b"y") == 1
        assert is_blocking(pipe[1])
        stream.close()

    async def test_a_wait_can_be_cancelled_and_begun_again(self, pipe: list[int]) -> None:
        stream = host_stream(pipe[0])
        for _ in range(2):
            waiting = asyncio.create_task(until(stream, POLLIN))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        os.write(pipe[1], b"x")
        async with asyncio.timeout(SECONDS):
            await until(stream, POLLIN)
        stream.close()

    def test_a_pipe_nobody_reads(self, pipe: list[int]) -> None:
        close(pipe, 0)
        stream = host_stream(pipe[1])
        with pytest.raises(BrokenPipeError):
            stream.write(b"x")
        stream.close()

    async def test_a_descriptor_that_cannot_be_opened_again(self, pipe: list[int]) -> None:
        reading, writing = ReadyStream(os.dup(pipe[0]), os.O_RDONLY), ReadyStream(os.dup(pipe[1]), os.O_WRONLY)
        with pytest.raises(BlockingIOError):
            reading.read(1)
        written = 0
        with pytest.raises(BlockingIOError):
            while True:
                written += writing.write(b"z" * 10_000)
        assert written > 0
        assert reading.read(1 << 20) == b"z" * written
        reading.close()
        writing.close()

    async def test_a_socket(self) -> None:
        left, right = socket.socketpair()
        stream = host_stream(left.fileno())
        assert isinstance(stream, SocketStream)
        with pytest.raises(BlockingIOError):
            stream.read(10)
        right.send(b"hello")
        async with asyncio.timeout(SECONDS):
            await until(stream, POLLIN)
        assert stream.read(10) == b"hello"
        assert stream.write(b"answer") == 6
        assert right.recv(10) == b"answer"
        stream.close()
        assert is_blocking(left.fileno())
        left.close()
        right.close()

    async def test_a_terminal(self) -> None:
        task: Any = lone_task()
        controller, terminal = pty.openpty()
        stream = host_stream(terminal)
        assert isinstance(stream, NonBlockingStream)
        assert stream.ioctl(task, 0x5401, DATA) == 0
        assert stream.ioctl(task, 0x5413, DATA) == 0
        with pytest.raises(SyscallError, match="ENOTTY"):
            stream.ioctl(task, 0x5402, DATA)
        with pytest.raises(SyscallError, match="ESPIPE"):
            stream.pread(1, 0)
        os.write(controller, b"line\n")
        async with asyncio.timeout(SECONDS):
            await until(stream, POLLIN)
        assert stream.read(10) == b"line\n"
        stream.close()
        os.close(controller)
        os.close(terminal)

    def test_a_regular_file_shares_its_position(self, tmp_path: Path) -> None:
        task: Any = lone_task()
        path = tmp_path / "file"
        path.write_bytes(b"one two three")
        with path.open("rb", buffering=0) as file:
            stream = host_stream(file.fileno())
            assert type(stream) is HostDescriptor
            assert stream.positioned
            assert stream.read(4) == b"one "
            assert stream.pread(5, 8) == b"three"
            assert file.read(3) == b"two"
            assert stream.seek(0, os.SEEK_SET) == 0
            with pytest.raises(SyscallError, match="ENOTTY"):
                stream.ioctl(task, 0x5401, DATA)
            stream.close()
            assert file.read(3) == b"one"

    def test_a_device_never_blocks(self) -> None:
        with Path("/dev/zero").open("r+b", buffering=0) as file:
            stream = host_stream(file.fileno())
            assert type(stream) is HostDescriptor
            assert stream.read(3) == bytes(3)
            stream.close()

    def test_a_closed_descriptor(self) -> None:
        fd = os.dup(0)
        os.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            host_stream(fd)


def test_bytes_to_read() -> None:
    source = Source(b"abcdef")
    assert source.poll() == READABLE | POLLHUP
    assert [source.read(4), source.read(4), source.read(4)] == [b"abcd", b"ef", b""]
    assert source.poll() == POLLHUP
    assert stat.S_ISFIFO(source.attributes().mode)
    assert (source.readable, source.writable) == (True, False)
    with pytest.raises(SyscallError, match="ESPIPE"):
        source.seek(0, 0)


def test_a_capture_has_a_bound() -> None:
    capture = Capture(limit=5)
    assert capture.write(b"abc") == 3
    assert capture.write(b"def") == 2
    assert capture.write(b"") == 0
    with pytest.raises(SyscallError, match="ENOSPC"):
        capture.write(b"g")
    assert bytes(capture.data) == b"abcde"
    assert capture.overflowed


class TestHostQueue:
    @pytest.mark.every_loop
    async def test_the_loop_watches_only_while_somebody_waits(self, pipe: list[int]) -> None:
        stream = host_stream(pipe[0])
        wakes: list[int] = []
        woken = asyncio.Event()

        def watcher(events: int) -> None:
            wakes.append(events)
            woken.set()

        async with asyncio.timeout(SECONDS):
            stream.queue.watch(watcher)
            os.write(pipe[1], b"x")
            await woken.wait()
            assert wakes == [READABLE]
            for _ in range(10):  # level-triggered watching would wake again and again
                await asyncio.sleep(0)
            assert len(wakes) == 1
            stream.queue.unwatch(watcher)
            os.write(pipe[1], b"x")
            await until(stream, POLLIN)
            assert len(wakes) == 1
            woken.clear()
            stream.queue.watch(watcher)
            await woken.wait()
        assert stream.read(10) == b"xx"
        stream.close()

    @pytest.mark.every_loop
    async def test_an_end_is_seen(self, pipe: list[int]) -> None:
        stream = host_stream(pipe[0])
        async with asyncio.timeout(SECONDS):
            waiting = asyncio.create_task(until(stream, POLLHUP))
            await asyncio.sleep(0)
            close(pipe, 1)
            await waiting
        assert stream.read(1) == b""
        stream.close()

    async def test_no_descriptor_is_left(self, pipe: list[int]) -> None:
        before = set(os.listdir("/proc/self/fd"))
        stream = host_stream(pipe[0])
        waiting = asyncio.create_task(until(stream, POLLIN))
        await asyncio.sleep(0)
        stream.close()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert set(os.listdir("/proc/self/fd")) == before


class Counted(OpenFile):
    def __init__(self) -> None:
        super().__init__(os.O_RDWR)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_file_is_released_as_often_as_it_was_held() -> None:
    file = Counted()
    with pytest.raises(InternalError, match="Counted"):
        file.release()
    file.hold()
    file.release()
    assert (file.closed, file.references) == (1, 0)
    with pytest.raises(InternalError):
        file.release()
    assert (file.closed, file.references) == (1, 0)


class TestDescriptorTable:
    def test_the_lowest_number_is_given(self) -> None:
        table = DescriptorTable()
        file = Counted()
        assert [table.add(file) for _ in range(3)] == [0, 1, 2]
        table.close(1)
        assert table.add(file) == 1
        assert table.add(file, lowest=10) == 10
        assert file.closed == 0
        table.drop()
        assert file.closed == 1

    def test_its_bound(self) -> None:
        table = DescriptorTable(limit=2)
        kept, refused = Counted(), Counted()
        table.add(kept)
        table.add(kept)
        for file in (kept, refused):
            with pytest.raises(SyscallError) as caught:
                table.add(file)
            assert caught.value.number == errno.EMFILE
        assert (kept.closed, refused.closed) == (0, 1)

    def test_replacing(self) -> None:
        table = DescriptorTable()
        one, two = Counted(), Counted()
        table.add(one)
        table.add(two)
        assert table.replace(1, one, close_on_exec=True) == 1
        assert two.closed == 1
        assert table.replace(1, one) == 1
        assert not table.closes_on_exec(1)
        with pytest.raises(SyscallError, match="EBADF"):
            table.replace(-1, one)
        table.close(0)
        assert one.closed == 0
        table.close(1)
        assert one.closed == 1

    def test_a_closed_number(self) -> None:
        with pytest.raises(SyscallError, match="EBADF"):
            DescriptorTable().get(0)
