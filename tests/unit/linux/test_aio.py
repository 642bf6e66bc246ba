"""Requests of io_submit(2) that take their time: what other threads close and submit meanwhile, and their bounds."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from asynckvm.linux import ending
from asynckvm.linux.aio import EVENTS_MAX
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.files.pipe import pipe_ends
from asynckvm.linux.syscalls.aio import io_destroy, io_getevents, io_setup, io_submit
from asynckvm.linux.syscalls.opening import close
from support.fake_tasks import DATA, FakeKernel, FakeProcess, result

NUMBER, LIST, REQUEST, BUFFER, EVENTS = DATA, DATA + 8, DATA + 64, DATA + 256, DATA + 512
PREAD = 0


@pytest.fixture
def tasks() -> list[Any]:
    return list(FakeProcess(FakeKernel(), 100, threads=3).tasks.values())


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


def set_up(task: Any, events: int = 1) -> int:
    task.space.write(NUMBER, bytes(8))
    assert io_setup(task, events, NUMBER) == 0
    return int.from_bytes(task.space.read(NUMBER, 8), "little")


def put_read(task: Any, fd: int, told: int) -> None:
    image = struct.pack("<QIIHhiQQqQII", 7, 0, 0, PREAD, 0, fd, BUFFER, 4, 0, 0, 1, told)
    task.space.write(REQUEST, image)
    task.space.write(LIST, REQUEST.to_bytes(8, "little"))


def pipe(task: Any) -> tuple[int, Any]:
    """The reading end's descriptor, and the writing end."""
    reading, writing = pipe_ends(task.process.kernel.pipe_pages, 0, user=0, group=0)
    writing.hold()
    return task.process.files.add(reading), writing


async def test_files_closed_meanwhile_stay_until_it_is_done(tasks: list[Any]) -> None:
    first, second, _ = tasks
    context = set_up(first)
    fd, writing = pipe(first)
    told = EventFile(0, 0, semaphore=False)
    told_closed: list[bool] = []
    told.watch_close(lambda file: told_closed.append(file.poll() & 1 == 1))
    told_fd = first.process.files.add(told)
    put_read(first, fd, told_fd)
    submitting = await first.begin(io_submit(first, context, 1, LIST))
    close(second, fd)
    close(second, told_fd)
    assert not told_closed
    writing.write(b"text")
    assert await result(submitting) == 1
    assert told_closed == [True], "it was told, and then closed"
    assert first.space.read(BUFFER, 4) == b"text"
    assert await result(io_getevents(first, context, 1, 1, EVENTS, 0)) == 1
    assert struct.unpack("<QQqq", first.space.read(EVENTS, 32)) == (7, REQUEST, 4, 0)
    writing.release()


async def test_requests_under_way_have_their_room(tasks: list[Any]) -> None:
    first, second, _ = tasks
    context = set_up(first)
    fd, writing = pipe(first)
    put_read(first, fd, first.process.files.add(EventFile(0, 0, semaphore=False)))
    submitting = await first.begin(io_submit(first, context, 1, LIST))
    with fails(errno.EAGAIN):
        await result(io_submit(second, context, 1, LIST))
    writing.write(b"text")
    assert await result(submitting) == 1
    with fails(errno.EAGAIN):
        await result(io_submit(second, context, 1, LIST))
    assert await result(io_getevents(second, context, 1, 1, EVENTS, 0)) == 1
    writing.write(b"more")
    assert await result(io_submit(second, context, 1, LIST)) == 1
    writing.release()


async def test_who_waits_hears_that_it_is_gone(tasks: list[Any]) -> None:
    first, second, _ = tasks
    context = set_up(first)
    waiting = await first.begin(io_getevents(first, context, 1, 1, EVENTS, 0))
    assert io_destroy(second, context) == 0
    with fails(errno.EINVAL):
        await result(waiting)


def test_one_bound_for_all_processes(tasks: list[Any]) -> None:
    task = tasks[0]
    kernel = task.process.kernel
    other: Any = FakeProcess(kernel, 7, parent=task.process).tasks[7]
    kept = set_up(task, EVENTS_MAX - 1)
    set_up(other)
    for one in (task, other):
        one.space.write(NUMBER, bytes(8))
        with fails(errno.EAGAIN):
            io_setup(one, 1, NUMBER)
    ending.end_task(other)
    assert kernel.aio_events.used == EVENTS_MAX - 1
    io_destroy(task, kept)
    assert kernel.aio_events.used == 0
