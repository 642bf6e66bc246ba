"""Futexes: who waits, who is woken and in which order, and what becomes of those whose owner has died."""

from __future__ import annotations

import asyncio
import errno
import struct
import time
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux import ending
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.futex import OWNER_DIED, WAITERS
from asynckvm.linux.syscalls.futex import futex, get_robust_list, set_robust_list
from support.fake_tasks import DATA, END, FakeKernel, FakeProcess, lone_task, result

WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, LOCK_PI, UNLOCK_PI, TRYLOCK_PI = 0, 1, 3, 4, 5, 6, 7, 8
WAIT_BITSET, WAKE_BITSET, LOCK_PI2 = 9, 10, 13
PRIVATE, REALTIME = 128, 256
OTHER = DATA + 64
TIME = DATA + 128
HEAD = DATA + 256


@pytest.fixture
def tasks() -> list[Any]:
    """The threads 100 to 103 of a process."""
    return list(FakeProcess(FakeKernel(), 100, threads=4).tasks.values())


def put(task: Any, value: int, address: int = DATA) -> None:
    task.space.write(address, struct.pack("<I", value))


def word(task: Any, address: int = DATA) -> int:
    return int.from_bytes(task.space.read(address, 4), "little")


def call(task: Any, operation: int, value: int = 0, fourth: int = 0, second: int = 0, third: int = 0) -> Any:
    return futex(task, DATA, operation, value, fourth, second, third)


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


async def test_waiters_are_woken_in_their_order(tasks: list[Any]) -> None:
    first, second, third, other = tasks
    waiting = [await task.begin(call(task, WAIT | PRIVATE)) for task in (first, second, third)]
    assert await call(other, WAKE | PRIVATE, 2) == 2
    assert [await result(one) for one in waiting[:2]] == [0, 0]
    assert not waiting[2].done()
    assert await call(other, WAKE, 10) == 1
    assert await result(waiting[2]) == 0
    assert await call(other, WAKE, 10) == 0


async def test_a_word_that_has_changed_is_not_waited_for(tasks: list[Any]) -> None:
    put(tasks[0], 7)
    with fails(errno.EAGAIN):
        await call(tasks[0], WAIT, 6)
    for address, error in ((DATA + 2, SyscallError), (END, SyscallError)):
        with pytest.raises(error):
            await futex(tasks[0], address, WAIT, 0, 0, 0, 0)
    with pytest.raises(GuestMemoryError):
        await futex(tasks[0], END, WAIT | PRIVATE, 0, 0, 0, 0)
    for operation in (2, 99, WAKE | REALTIME):
        with fails(errno.ENOSYS):
            await call(tasks[0], operation)


async def test_sets_of_bits(tasks: list[Any]) -> None:
    first, second, other, _ = tasks
    one = await first.begin(call(first, WAIT_BITSET, third=0b01))
    two = await second.begin(call(second, WAIT_BITSET, third=0b10))
    assert await call(other, WAKE_BITSET, 10, third=0b10) == 1
    assert await result(two) == 0
    assert not one.done()
    assert await call(other, WAKE_BITSET, 10, third=0xFFFF_FFFF) == 1
    assert await result(one) == 0
    for operation in (WAIT_BITSET, WAKE_BITSET):
        with fails(errno.EINVAL):
            await call(other, operation)


@pytest.mark.parametrize(("operation", "absolute"), [(WAIT, False), (WAIT_BITSET, True), (WAIT_BITSET | REALTIME, True)])
async def test_a_wait_ends_at_its_time_and_leaves_nobody(operation: int, absolute: bool, tasks: list[Any]) -> None:
    task = tasks[0]
    now = (time.time_ns() if operation & REALTIME else time.monotonic_ns()) if absolute else 0
    task.space.write(TIME, struct.pack("<qq", *divmod(now + 2_000_000, 10**9)))
    with fails(errno.ETIMEDOUT):
        await result(call(task, operation, 0, TIME, 0, 1))
    assert await call(tasks[1], WAKE, 10) == 0
    task.space.write(TIME, struct.pack("<qq", 0, 10**9))
    with fails(errno.EINVAL):
        await result(call(task, operation, 0, TIME, 0, 1))


async def test_a_signal_ends_a_wait_unless_it_was_woken_first(tasks: list[Any]) -> None:
    first, second, other, _ = tasks
    waiting = await first.begin(call(first, WAIT))
    first.interrupt()
    with fails(ERESTARTSYS):
        await result(waiting)
    waiting = await second.begin(call(second, WAIT))
    assert await call(other, WAKE, 1) == 1
    second.interrupt()
    assert await result(waiting) == 0


async def test_requeued_waiters_wait_for_the_other_word(tasks: list[Any]) -> None:
    first, second, third, other = tasks
    waiting = [await task.begin(call(task, WAIT)) for task in (first, second, third)]
    with fails(errno.EAGAIN):
        await call(other, CMP_REQUEUE, 1, 1, OTHER, 5)
    for wake, move in ((0xFFFF_FFFF, 1), (1, 0xFFFF_FFFF)):
        with fails(errno.EINVAL):
            await call(other, CMP_REQUEUE, wake, move, OTHER, 0)
    assert await call(other, CMP_REQUEUE, 1, 1, OTHER, 0) == 2
    assert await result(waiting[0]) == 0
    assert await call(other, REQUEUE, 0, 10, OTHER) == 0
    assert await call(other, WAKE, 10) == 0
    assert await futex(other, OTHER, WAKE, 10, 0, 0, 0) == 2
    assert [await result(one) for one in waiting[1:]] == [0, 0]


@pytest.mark.parametrize(
    ("operation", "old", "operand", "new"),
    [
        (0, 5, 3, 3),
        (1, 5, 3, 8),
        (2, 5, 3, 7),
        (3, 7, 3, 4),
        (4, 5, 3, 6),
        (8, 5, 4, 16),
        (1, 5, 0xFFF, 4),
        (1, 0xFFFF_FFFF, 1, 0),
    ],
)
async def test_waking_changes_the_other_word(operation: int, old: int, operand: int, new: int, tasks: list[Any]) -> None:
    put(tasks[0], old, OTHER)
    assert await call(tasks[0], WAKE_OP, 1, 1, OTHER, operation << 28 | operand << 12) == 0
    assert word(tasks[0], OTHER) == new


@pytest.mark.parametrize(
    ("comparison", "value", "holds"),
    [
        (0, 5, True),
        (0, 4, False),
        (1, 4, True),
        (2, 6, True),
        (2, 5, False),
        (3, 5, True),
        (4, 4, True),
        (5, 6, False),
        (4, 0xFFF, True),
    ],
)
async def test_waking_compares_the_other_word(comparison: int, value: int, holds: bool, tasks: list[Any]) -> None:
    first, second, other, _ = tasks
    put(other, 5, OTHER)
    one = await first.begin(call(first, WAIT))
    two = await second.begin(futex(second, OTHER, WAIT, 5, 0, 0, 0))
    assert await call(other, WAKE_OP, 1, 1, OTHER, 2 << 28 | comparison << 24 | value) == 1 + holds
    assert await result(one) == 0
    assert await futex(other, OTHER, WAKE, 1, 0, 0, 0) == 1 - holds
    assert await result(two) == 0


async def test_operations_that_are_none(tasks: list[Any]) -> None:
    for encoded in (5 << 28, 6 << 24):
        with fails(errno.ENOSYS):
            await call(tasks[0], WAKE_OP, 1, 1, OTHER, encoded)


# ---------------------------------------------------------------- locks that know their owner


async def test_a_lock_is_handed_to_the_first_who_waits(tasks: list[Any]) -> None:
    first, second, third, _ = tasks
    assert await call(first, LOCK_PI) == 0
    assert word(first) == 100
    with fails(errno.EDEADLK):
        await call(first, LOCK_PI2)
    with fails(errno.EAGAIN):
        await call(second, TRYLOCK_PI)
    two = await second.begin(call(second, LOCK_PI))
    three = await third.begin(call(third, LOCK_PI2))
    assert word(first) == 100 | WAITERS
    with fails(errno.EPERM):
        await call(second, UNLOCK_PI)
    assert await call(first, UNLOCK_PI) == 0
    assert word(first) == 101 | WAITERS
    assert await result(two) == 0
    assert await call(second, UNLOCK_PI) == 0
    assert await result(three) == 0
    assert word(first) == 102
    assert await call(third, UNLOCK_PI) == 0
    assert word(first) == 0
    assert await call(third, TRYLOCK_PI) == 0


async def test_a_lock_that_is_not_given_in_time(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    assert await call(first, LOCK_PI) == 0
    second.space.write(TIME, struct.pack("<qq", *divmod(time.monotonic_ns() + 2_000_000, 10**9)))
    with fails(errno.ETIMEDOUT):
        await result(call(second, LOCK_PI2, 0, TIME))
    assert await call(first, UNLOCK_PI) == 0
    assert word(first) == 0


async def test_an_owner_who_is_no_thread(tasks: list[Any]) -> None:
    put(tasks[0], 999)
    for operation in (LOCK_PI, TRYLOCK_PI):
        with fails(errno.ESRCH):
            await call(tasks[0], operation)


@pytest.mark.parametrize("robust", [True, False])
async def test_a_lock_whose_owner_dies_is_inherited(robust: bool, tasks: list[Any]) -> None:
    first, second, third, _ = tasks
    assert await call(first, LOCK_PI) == 0
    if robust:
        robust_list(first, DATA | 1, offset=-512)
    two = await second.begin(call(second, LOCK_PI))
    three = await third.begin(call(third, LOCK_PI))
    await ending.end(first)
    assert await result(two) == 0
    assert word(second) == 101 | WAITERS | OWNER_DIED
    assert not three.done()
    assert await call(second, UNLOCK_PI) == 0
    assert await result(three) == 0


# ---------------------------------------------------------------- robust lists


def robust_list(task: Any, *locks: int, pending: int = 0, offset: int = 8) -> None:
    """The list head, and entries `offset` bytes before each lock; the lowest bit says that the lock knows its owner."""
    entries = [lock - offset for lock in locks]
    for entry, following in zip(entries, [*entries, HEAD][1:], strict=True):
        task.space.write(entry & ~1, struct.pack("<Q", following))
    task.space.write(HEAD, struct.pack("<QqQ", entries[0] if entries else HEAD, offset, pending - offset if pending else 0))
    assert set_robust_list(task, HEAD, 24) == 0


async def test_a_thread_that_ends_gives_its_locks_up(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    put(first, 100 | WAITERS, OTHER)
    put(first, 101, OTHER + 32)
    robust_list(first, OTHER, OTHER + 32)
    waiting = await second.begin(futex(second, OTHER, WAIT, 100 | WAITERS, 0, 0, 0))
    await ending.end(first)
    assert await result(waiting) == 0
    assert (word(second, OTHER), word(second, OTHER + 32)) == (WAITERS | OWNER_DIED, 101)


async def test_a_thread_that_ends_between_unlocking_and_waking(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    robust_list(first, pending=OTHER)
    waiting = await second.begin(futex(second, OTHER, WAIT, 0, 0, 0, 0))
    await ending.end(first)
    assert await result(waiting) == 0


async def test_a_hostile_list_has_an_end(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    entry = OTHER
    first.space.write(entry, struct.pack("<Q", entry))
    first.space.write(HEAD, struct.pack("<QqQ", entry, 8, 0))
    set_robust_list(first, HEAD, 24)
    await ending.end(first)
    assert first.tid not in second.process.kernel.tasks
    set_robust_list(second, 1 << 63, 24)
    await ending.end(second)
    assert second.tid not in second.process.kernel.tasks


async def test_a_thread_that_ends_tells_who_joins_it(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    put(first, 100)
    first.clear_child_tid = DATA
    waiting = await second.begin(call(second, WAIT, 100))
    await ending.end(first)
    assert await result(waiting) == 0
    assert word(second) == 0


def test_nobody_is_told_who_is_not_there() -> None:
    alone, shared = lone_task(), lone_task()
    shared.memory.share()
    for task in (alone, shared):
        put(task, 100)
        task.clear_child_tid = DATA
        ending.leave_memory(task)
        assert task.clear_child_tid == 0
    assert (word(alone), word(shared)) == (100, 0)


def test_whose_list_it_is(tasks: list[Any]) -> None:
    first, second, _, _ = tasks
    assert set_robust_list(second, HEAD, 24) == 0
    assert get_robust_list(first, second.tid, DATA, DATA + 8) == 0
    assert struct.unpack("<QQ", first.space.read(DATA, 16)) == (HEAD, 24)
    with fails(errno.EINVAL):
        set_robust_list(first, HEAD, 23)
    with fails(errno.ESRCH):
        get_robust_list(first, 999, DATA, DATA + 8)


async def test_a_long_list_lets_others_run(tasks: list[Any]) -> None:
    first = tasks[0]
    first.space.write(OTHER, struct.pack("<Q", OTHER))
    first.space.write(HEAD, struct.pack("<QqQ", OTHER, 8, 0))
    set_robust_list(first, HEAD, 24)
    end = asyncio.ensure_future(ending.end(first))
    turns = 0
    while not end.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 50
    assert first.tid not in first.process.kernel.tasks
