"""Advisory locks: who is refused, who waits, and what gives a lock back."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from typing import Any

import pytest

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.files import DescriptorTable, OpenFile
from asynckvm.linux.locks import RANGES_MAX, LockTable
from asynckvm.linux.syscalls import locks
from asynckvm.linux.syscalls.descriptors import fcntl
from support.fake_tasks import DATA, lone_task, result

SH, EX, NB, UN = 1, 2, 4, 8
GETLK, SETLK, SETLKW, OFD_GETLK, OFD_SETLK, OFD_SETLKW = 5, 6, 7, 36, 37, 38
READ, WRITE, UNLOCK = 0, 1, 2
FLOCK = struct.Struct("<hh4xqqi4x")


class File(OpenFile):
    """An open file description of inode `inode`."""

    def __init__(self, inode: int = 1, flags: int = os.O_RDWR) -> None:
        super().__init__(flags)
        self.inode = inode

    def attributes(self) -> Attributes:
        return Attributes(1, self.inode, stat.S_IFREG | 0o600, size=100)

    def seek(self, offset: int, whence: int) -> int:
        return 50


@pytest.fixture
def table() -> LockTable:
    return LockTable()


def process(table: LockTable, pid: int = 1) -> Any:
    made: Any = lone_task(pid=pid)
    made.process.kernel.locks = table
    return made


def record(task: Any, kind: int, start: int = 0, length: int = 0, whence: int = os.SEEK_SET, pid: int = 0) -> int:
    task.space.write(DATA, FLOCK.pack(kind, whence, start, length, pid))
    return DATA


async def lock(task: Any, fd: int, kind: int, start: int = 0, length: int = 0, command: int = SETLK, whence: int = 0) -> int:
    return await result(fcntl(task, fd, command, record(task, kind, start, length, whence)))


async def held(task: Any, fd: int, kind: int = WRITE, start: int = 0, length: int = 0, command: int = GETLK) -> tuple[int, ...]:
    """What F_GETLK tells: type, start, length, pid."""
    assert await result(fcntl(task, fd, command, record(task, kind, start, length))) == 0
    found = FLOCK.unpack(task.space.read(DATA, FLOCK.size))
    return found[0], found[2], found[3], found[4]


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


# ---------------------------------------------------------------- flock


async def test_flock_belongs_to_the_open_file(table: LockTable) -> None:
    task = process(table)
    files = task.process.files
    one, other = files.add(File()), files.add(File())
    assert await result(locks.flock(task, one, EX)) == 0
    assert await result(locks.flock(task, files.add(files.get(one)), EX | NB)) == 0
    with fails(errno.EAGAIN):
        await result(locks.flock(task, other, SH | NB))
    assert await result(locks.flock(task, files.add(File(inode=2)), EX | NB)) == 0
    # Shared from now on.
    assert await result(locks.flock(task, one, SH | NB)) == 0
    assert await result(locks.flock(task, other, SH | NB)) == 0
    with fails(errno.EAGAIN):
        await result(locks.flock(task, one, EX | NB))
    # The attempt cost the old lock.
    assert await result(locks.flock(task, other, EX | NB)) == 0
    assert await result(locks.flock(task, other, UN)) == 0
    assert await result(locks.flock(task, one, EX | NB)) == 0
    for fd in list(files):
        files.close(fd)
    assert not len(table)
    with fails(errno.EBADF):
        locks.flock(task, 1, EX)
    fd = files.add(File())
    with fails(errno.EINVAL):
        locks.flock(task, fd, SH | EX)


async def test_flock_waits_until_the_last_descriptor_is_closed(table: LockTable) -> None:
    holder, waiter = process(table), process(table)
    fd = holder.process.files.add(File())
    twin = holder.process.files.copy()
    await result(locks.flock(holder, fd, EX))
    running = await waiter.begin(locks.flock(waiter, waiter.process.files.add(File()), EX))
    holder.process.files.close(fd)
    await asyncio.sleep(0)
    assert not running.done()
    twin.drop()
    assert await result(running) == 0


async def test_a_signal_ends_the_wait(table: LockTable) -> None:
    holder, waiter = process(table), process(table)
    await result(locks.flock(holder, holder.process.files.add(File()), EX))
    running = await waiter.begin(locks.flock(waiter, waiter.process.files.add(File()), EX))
    waiter.interrupt()
    with fails(ERESTARTSYS):
        await result(running)
    holder.process.files.drop()
    assert not len(table)


async def test_who_closes_while_it_waits_keeps_no_lock(table: LockTable) -> None:
    holder, waiter = process(table), process(table)
    fd = holder.process.files.add(File())
    await result(locks.flock(holder, fd, EX))
    mine = waiter.process.files.add(File())
    running = await waiter.begin(locks.flock(waiter, mine, EX))
    waiter.process.files.close(mine)
    holder.process.files.close(fd)
    assert await result(running) == 0
    assert not len(table)


# ---------------------------------------------------------------- records


async def test_record_locks_belong_to_the_process(table: LockTable) -> None:
    one, other = process(table, 1), process(table, 2)
    mine, theirs = one.process.files.add(File()), other.process.files.add(File())
    await lock(one, mine, WRITE, 10, 10)
    await lock(one, one.process.files.add(File()), WRITE, 10, 10)  # its own do not hinder it
    with fails(errno.EAGAIN):
        await lock(other, theirs, READ, 19, 1)
    await lock(other, theirs, WRITE, 20, 10)
    await lock(other, theirs, READ, 0, 10)
    assert await held(other, theirs) == (WRITE, 10, 10, 1)
    assert await held(other, theirs, WRITE, 20) == (UNLOCK, 20, 0, 0)
    assert await held(one, mine, WRITE, 0, 10) == (READ, 0, 10, 2)
    assert await held(one, mine, READ, 0, 10) == (UNLOCK, 0, 10, 0)
    # To the end of the file, from its end, from the position, backwards.
    await lock(one, mine, WRITE, 0, 0, whence=os.SEEK_END)
    assert await held(other, theirs, WRITE, 1000, 1) == (WRITE, 100, 0, 1)
    await lock(one, mine, WRITE, 0, -5, whence=os.SEEK_CUR)
    assert await held(other, theirs, WRITE, 40, 20) == (WRITE, 45, 5, 1)


async def test_ranges_are_split_and_joined(table: LockTable) -> None:
    one, other = process(table, 1), process(table, 2)
    mine, theirs = one.process.files.add(File()), other.process.files.add(File())
    await lock(one, mine, WRITE, 0, 100)
    await lock(one, mine, READ, 40, 20)
    await lock(one, mine, UNLOCK, 50, 5)
    assert await held(other, theirs, WRITE, 0, 1) == (WRITE, 0, 40, 1)
    assert await held(other, theirs, WRITE, 40, 10) == (READ, 40, 10, 1)
    assert await held(other, theirs, WRITE, 50, 5) == (UNLOCK, 50, 5, 0)
    assert await held(other, theirs, WRITE, 55, 5) == (READ, 55, 5, 1)
    assert await held(other, theirs, WRITE, 60, 1) == (WRITE, 60, 40, 1)
    await lock(one, mine, WRITE, 40, 20)
    assert await held(other, theirs, WRITE, 50, 1) == (WRITE, 0, 100, 1)
    await lock(one, mine, UNLOCK)
    assert not len(table)


async def test_any_close_drops_the_locks_of_a_process(table: LockTable) -> None:
    one, other = process(table, 1), process(table, 2)
    mine, theirs = one.process.files.add(File()), other.process.files.add(File())
    await lock(one, mine, WRITE)
    second = one.process.files.add(File())
    running = await other.begin(fcntl(other, theirs, SETLKW, record(other, WRITE)))
    child = one.process.files.copy()  # inherits the descriptors and no lock
    child.drop()
    await asyncio.sleep(0)
    assert not running.done()
    one.process.files.close(second)
    assert await result(running) == 0
    other.process.files.drop()
    assert not len(table)


async def test_a_ring_of_waiters_is_refused(table: LockTable) -> None:
    tasks = [process(table, pid) for pid in (1, 2, 3)]
    fds = [task.process.files.add(File()) for task in tasks]
    for number, (task, fd) in enumerate(zip(tasks, fds, strict=True)):
        await lock(task, fd, WRITE, number, 1)
    first = await tasks[0].begin(fcntl(tasks[0], fds[0], SETLKW, record(tasks[0], WRITE, 1, 1)))
    second = await tasks[1].begin(fcntl(tasks[1], fds[1], SETLKW, record(tasks[1], WRITE, 2, 1)))
    with fails(errno.EDEADLK):
        await lock(tasks[2], fds[2], WRITE, 0, 1, command=SETLKW)
    await lock(tasks[2], fds[2], UNLOCK)
    assert await result(second) == 0
    await lock(tasks[1], fds[1], UNLOCK)
    assert await result(first) == 0


async def test_locks_of_open_files(table: LockTable) -> None:
    task = process(table)
    files = task.process.files
    one, other = files.add(File()), files.add(File())
    await lock(task, one, WRITE, 0, 10, OFD_SETLK)
    with fails(errno.EAGAIN):
        await lock(task, other, WRITE, 0, 10, OFD_SETLK)
    with fails(errno.EAGAIN):
        await lock(task, one, READ, 5, 1)  # of the process: another owner
    assert await held(task, other, command=OFD_GETLK) == (WRITE, 0, 10, -1)
    with fails(errno.EINVAL):
        fcntl(task, one, OFD_SETLK, record(task, WRITE, pid=1))
    running = await task.begin(fcntl(task, other, OFD_SETLKW, record(task, WRITE)))
    files.close(one)
    assert await result(running) == 0


async def test_what_is_no_lock(table: LockTable) -> None:
    task = process(table)
    fd = task.process.files.add(File(flags=os.O_RDONLY))
    with fails(errno.EBADF):
        await lock(task, fd, WRITE)
    for kind, start, length, whence, number in (
        (3, 0, 0, 0, errno.EINVAL),
        (READ, -1, 0, 0, errno.EINVAL),
        (READ, 0, -1, 0, errno.EINVAL),
        (READ, 0, 0, 9, errno.EINVAL),
        (READ, (1 << 63) - 1, 2, 0, errno.EOVERFLOW),
    ):
        with fails(number):
            await lock(task, fd, kind, start, length, whence=whence)
    with fails(errno.EINVAL):
        await held(task, fd, UNLOCK)
    assert not len(table)


async def test_a_file_has_a_bounded_number_of_locks(table: LockTable) -> None:
    task = process(table)
    fd = task.process.files.add(File())
    with fails(errno.ENOLCK):
        for number in range(RANGES_MAX + 1):
            await lock(task, fd, READ, 2 * number, 1)
    assert isinstance(task.process.files, DescriptorTable)
    task.process.files.drop()
    assert not len(table)
