"""Pipes and FIFOs: bytes in order, whole small writes, packets, ends that come and go, and a bound for everything."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
import struct
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.files.pipe import CAPACITY, CAPACITY_MAX, PIPE_BUF, Pipe, PipeEnd, PipePages, open_fifo, pipe_ends
from asynckvm.linux.syscalls import descriptors, pipes
from asynckvm.linux.wait import POLLERR, POLLHUP, READABLE, WRITABLE
from support.fake_tasks import DATA, END, SECONDS, lone_task

EACH_PIECE = [1, 100, PIPE_BUF - 1, PIPE_BUF, PIPE_BUF + 1, 3 * PIPE_BUF + 7, CAPACITY]


def opened(flags: int = 0, pages: PipePages | None = None) -> tuple[PipeEnd, PipeEnd]:
    reading, writing = pipe_ends(pages or PipePages(), flags)
    reading.hold()
    writing.hold()
    return reading, writing


def fifo() -> Pipe:
    return Pipe(PipePages(), attributes=lambda: Attributes(1, 2, stat.S_IFIFO | 0o644))


def woken(end: PipeEnd) -> list[int]:
    events: list[int] = []
    end.queue.watch(events.append)
    return events


@pytest.mark.parametrize("seed", range(5))
def test_bytes_come_out_as_they_went_in(seed: int) -> None:
    chance = random.Random(seed)
    reading, writing = opened()
    sent, received = bytearray(), bytearray()
    for _ in range(2000):
        if chance.random() < 0.5:
            data = chance.randbytes(chance.choice(EACH_PIECE))
            try:
                sent += data[: writing.write(data)]
            except BlockingIOError:
                assert reading.pipe.room < min(len(data), PIPE_BUF)
        else:
            length = chance.choice(EACH_PIECE)
            assert reading.pipe.peek(length) == bytes(sent[len(received) : len(received) + length])
            try:
                received += reading.read(length)
            except BlockingIOError:
                assert len(sent) == len(received)
        assert reading.pipe.size == len(sent) - len(received)
    writing.release()
    while data := reading.read(1 << 20):
        received += data
    assert received == sent


def test_many_small_writes_are_few_pieces() -> None:
    reading, writing = opened()
    for _ in range(CAPACITY):
        assert writing.write(b"x") == 1
    with pytest.raises(BlockingIOError):
        writing.write(b"x")
    assert len(reading.pipe._pieces) <= 2 * CAPACITY // PIPE_BUF
    assert reading.read(1 << 20) == b"x" * CAPACITY


def test_small_writes_are_whole() -> None:
    reading, writing = opened()
    assert writing.write(bytes(CAPACITY - 10)) == CAPACITY - 10
    with pytest.raises(BlockingIOError):
        writing.write(bytes(11))
    assert writing.write(bytes(10)) == 10
    reading.read(PIPE_BUF + 1)
    assert writing.write(bytes(2 * PIPE_BUF)) == PIPE_BUF + 1


def test_packets_are_read_one_at_a_time() -> None:
    reading, writing = opened(os.O_DIRECT)
    assert reading.flags & os.O_DIRECT == 0
    assert writing.write(b"one") == 3
    assert writing.write(b"t" * (PIPE_BUF + 5)) == PIPE_BUF + 5
    assert reading.pipe.peek(100) == b"one"
    assert reading.read(2) == b"on"
    assert reading.read(1 << 20) == b"t" * PIPE_BUF
    assert reading.read(1 << 20) == b"t" * 5
    for _ in range(CAPACITY // PIPE_BUF):
        assert writing.write(b"p") == 1
    assert writing.poll() == 0
    with pytest.raises(BlockingIOError):
        writing.write(b"p")
    assert reading.read(10) == b"p"
    assert writing.poll() == WRITABLE


def test_what_each_end_is_ready_for() -> None:
    reading, writing = opened()
    reader, writer = woken(reading), woken(writing)
    assert (reading.poll(), writing.poll()) == (0, WRITABLE)
    writing.write(bytes(CAPACITY - PIPE_BUF + 1))
    assert (reading.poll(), writing.poll()) == (READABLE, 0)
    reading.read(1)
    assert writing.poll() == WRITABLE
    assert (reader, writer) == ([READABLE], [WRITABLE])
    writing.release()
    assert reading.poll() == READABLE | POLLHUP
    assert reader[1] & POLLHUP
    reading.read(CAPACITY)
    assert reading.poll() == POLLHUP
    assert reading.read(1) == b""


def test_nobody_reads_any_more() -> None:
    reading, writing = opened()
    writer = woken(writing)
    reading.release()
    assert writer == [WRITABLE | POLLERR]
    assert writing.poll() == WRITABLE | POLLERR
    with pytest.raises(BrokenPipeError):
        writing.write(b"x")
    assert writing.write(b"") == 0


def test_its_size_can_be_changed_within_bounds() -> None:
    pages = PipePages(limit=CAPACITY_MAX // PIPE_BUF)
    reading, writing = opened(pages=pages)
    pipe = reading.pipe
    assert pipe.resize(CAPACITY_MAX) == CAPACITY_MAX
    assert writing.write(bytes(CAPACITY_MAX + 1)) == CAPACITY_MAX
    assert pipe.resize(CAPACITY_MAX - 1) == CAPACITY_MAX
    with pytest.raises(SyscallError, match="EBUSY"):
        pipe.resize(CAPACITY_MAX // 2)
    with pytest.raises(SyscallError, match="EPERM"):
        pipe.resize(CAPACITY_MAX + 1)
    with pytest.raises(SyscallError, match="EINVAL"):
        pipe.resize((1 << 31) + 1)
    reading.read(CAPACITY_MAX)
    assert pipe.resize(0) == PIPE_BUF
    assert pages.used == 1
    reading.release()
    writing.release()
    assert pages.used == 0


def test_all_pipes_together_have_a_bound() -> None:
    pages = PipePages(limit=CAPACITY // PIPE_BUF)
    first, _ = opened(pages=pages)
    second, _ = opened(pages=pages)
    assert (first.pipe.capacity, second.pipe.capacity) == (CAPACITY, 2 * PIPE_BUF)
    with pytest.raises(SyscallError, match="EPERM"):
        second.pipe.resize(CAPACITY)


class TestFifo:
    async def test_opening_waits_for_the_other_side(self) -> None:
        task: Any = lone_task()
        pipe = fifo()
        async with asyncio.timeout(SECONDS):
            waiting = asyncio.ensure_future(open_fifo(task, pipe, os.O_RDONLY))
            await asyncio.sleep(0)
            assert not waiting.done()
            writing = await open_fifo(task, pipe, os.O_WRONLY)
            reading = await waiting
        writing.write(b"hello")
        assert reading.read(10) == b"hello"

    async def test_who_came_and_went_has_been_there(self) -> None:
        task: Any = lone_task()
        pipe = fifo()
        waiting = asyncio.ensure_future(open_fifo(task, pipe, os.O_WRONLY))
        await asyncio.sleep(0)
        reading = await open_fifo(task, pipe, os.O_RDONLY | os.O_NONBLOCK)
        reading.close()
        async with asyncio.timeout(SECONDS):
            writing = await waiting
        with pytest.raises(BrokenPipeError):
            writing.write(b"x")

    async def test_without_waiting(self) -> None:
        task: Any = lone_task()
        pipe = fifo()
        with pytest.raises(SyscallError, match="ENXIO"):
            await open_fifo(task, pipe, os.O_WRONLY | os.O_NONBLOCK)
        reading = await open_fifo(task, pipe, os.O_RDONLY | os.O_NONBLOCK)
        assert reading.poll() == 0
        assert reading.read(1) == b""
        writing = await open_fifo(task, pipe, os.O_WRONLY | os.O_NONBLOCK)
        writing.close()
        assert reading.poll() == POLLHUP
        both = await open_fifo(task, pipe, os.O_RDWR)
        assert both.write(b"x") == 1
        assert both.read(1) == b"x"

    async def test_a_signal_ends_the_wait(self) -> None:
        task: Any = lone_task()
        pipe = fifo()
        waiting = await task.begin(open_fifo(task, pipe, os.O_RDONLY))
        task.interrupt()
        with pytest.raises(SyscallError) as caught:
            await waiting
        assert caught.value.number == ERESTARTSYS
        assert (pipe.readers, pipe.capacity) == (0, 0)

    async def test_what_nobody_read_is_gone_with_the_last_end(self) -> None:
        task: Any = lone_task()
        pipe = fifo()
        both = await open_fifo(task, pipe, os.O_RDWR)
        both.write(b"x")
        both.close()
        again = await open_fifo(task, pipe, os.O_RDWR)
        assert again.poll() == WRITABLE
        assert again.attributes().mode == stat.S_IFIFO | 0o644


class TestCalls:
    def pair(self, task: Any, flags: int = 0) -> tuple[int, int]:
        assert pipes.pipe2(task, DATA, flags) == 0
        first, second = struct.unpack("<ii", task.space.read(DATA, 8))
        return first, second

    def test_a_new_pipe(self) -> None:
        task: Any = lone_task()
        files = task.process.files
        assert self.pair(task, os.O_CLOEXEC | os.O_NONBLOCK) == (0, 1)
        reading, writing = files.get(0), files.get(1)
        assert (reading.readable, reading.writable, reading.nonblocking, files.closes_on_exec(0)) == (True, False, True, True)
        assert (writing.readable, writing.writable, writing.nonblocking, files.closes_on_exec(1)) == (False, True, True, True)
        assert reading.describe() == writing.describe() == b"pipe:[%d]" % reading.attributes().inode
        assert reading.attributes().user == 1000
        writing.write(b"12345")
        assert reading.ioctl(task, 0x541B, DATA) == 0
        assert task.space.read(DATA, 4) == b"\5\0\0\0"
        assert descriptors.fcntl(task, 0, pipes.F_GETPIPE_SZ, 0) == CAPACITY
        assert descriptors.fcntl(task, 1, pipes.F_SETPIPE_SZ, 5000) == 8192
        with pytest.raises(SyscallError, match="ENOTTY"):
            reading.ioctl(task, 0x5401, DATA)

    def test_nothing_is_left_of_a_failure(self) -> None:
        task: Any = lone_task()
        files = task.process.files
        with pytest.raises(GuestMemoryError):
            pipes.pipe(task, END)
        with pytest.raises(SyscallError, match="EINVAL"):
            pipes.pipe2(task, DATA, os.O_APPEND)
        files.limit = 1
        with pytest.raises(SyscallError) as caught:
            pipes.pipe(task, DATA)
        assert caught.value.number == errno.EMFILE
        assert len(files) == 0
        assert task.process.kernel.pipe_pages.used == 0
