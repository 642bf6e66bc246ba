"""Counters: what a read takes, what a write may add, what the file is ready for."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.syscalls import events, transfer
from asynckvm.linux.wait import READABLE, WRITABLE
from support.fake_tasks import DATA, lone_task, result

MOST = (1 << 64) - 2


def word(value: int) -> bytes:
    return struct.pack("<Q", value)


def test_a_read_takes_everything() -> None:
    file = EventFile(3, 0, semaphore=False)
    assert file.poll() == READABLE | WRITABLE
    assert file.write(word(4)) == 8
    assert file.read(100) == word(7)
    assert file.poll() == WRITABLE
    with pytest.raises(BlockingIOError):
        file.read(8)


def test_of_a_semaphore_it_takes_one() -> None:
    file = EventFile(2, 0, semaphore=True)
    assert [file.read(8), file.read(8)] == [word(1), word(1)]
    with pytest.raises(BlockingIOError):
        file.read(8)


def test_it_never_overflows() -> None:
    file = EventFile(1, 0, semaphore=False)
    with pytest.raises(BlockingIOError):
        file.write(word(MOST))
    assert file.write(word(MOST - 1)) == 8
    assert file.poll() == READABLE
    with pytest.raises(SyscallError, match="EINVAL"):
        file.write(word(MOST + 1))


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_only_whole_values(size: int) -> None:
    file = EventFile(1, 0, semaphore=False)
    with pytest.raises(SyscallError, match="EINVAL"):
        file.write(bytes(size))
    if size < 8:
        with pytest.raises(SyscallError, match="EINVAL"):
            file.read(size)


async def test_a_reader_and_a_writer_wait_for_each_other() -> None:
    task: Any = lone_task()
    fd = events.eventfd2(task, 0, os.O_CLOEXEC)
    file = task.process.files.get(fd)
    assert task.process.files.closes_on_exec(fd)
    reading = await task.begin(transfer.read(task, fd, DATA, 8))
    file.write(word(MOST))
    assert await result(reading) == 8
    assert task.space.read(DATA, 8) == word(MOST)
    file.write(word(MOST))
    task.space.write(DATA, word(5))
    writing = await task.begin(transfer.write(task, fd, DATA, 8))
    assert file.read(8) == word(MOST)
    assert await result(writing) == 8
    assert file.count == 5
    assert file.describe() == b"anon_inode:[eventfd]"


async def test_flags() -> None:
    task: Any = lone_task()
    with pytest.raises(SyscallError, match="EINVAL"):
        events.eventfd2(task, 0, 2)
    fd = events.eventfd2(task, 0, os.O_NONBLOCK | 1)
    with pytest.raises(BlockingIOError):
        await result(transfer.read(task, fd, DATA, 8))
    assert events.eventfd(task, 9) == fd + 1
    assert task.process.files.get(fd + 1).count == 9
