"""Futexes: waiting on a word of guest memory, and waking those who wait.

A futex is named by the memory itself, so that processes that share it meet: an address of an address space, or an offset of a
mapped file. Guests change the word without telling anybody; what they agree on is to ask here before they wait and after they
changed it. Both happen on the loop's thread, so a wake-up that follows a change finds everyone who saw the word before it.
Source: futex(2), get_robust_list(2), Documentation/locking/robust-futex-ABI.rst, kernel/futex.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final, TypeAlias

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.usercopy import read_int64, read_uint32, read_uint64
from asynckvm.linux.wait import WaitQueue

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

# What names a futex: ("space", memory, address) or ("file", number, offset).
Key: TypeAlias = tuple[object, int, int]

BITSET_ANY: Final = 0xFFFF_FFFF
WAITERS: Final = 0x8000_0000
OWNER_DIED: Final = 0x4000_0000
TID_MASK: Final = 0x3FFF_FFFF
# Entries of a robust list looked at, as in Linux; a hostile list may be a ring.
_ROBUST_ENTRIES: Final = 2048
_ROBUST_AT_ONCE: Final = 32
_PI_ENTRY: Final = 1


class Waiter:
    """Somebody who waits: woken by `queue`, with `woken` true; `key` changes when it is requeued. `lock` is the address of the
    lock it is to own then, 0 for a plain futex."""

    __slots__ = ("bitset", "key", "lock", "queue", "task", "woken")

    def __init__(self, task: Task, key: Key, bitset: int, *, lock: int = 0) -> None:
        self.task = task
        self.key = key
        self.bitset = bitset
        self.lock = lock
        self.queue = WaitQueue()
        self.woken = False

    def wake(self) -> None:
        self.woken = True
        self.queue.wake()


def key_of(task: Task, address: int, *, private: bool) -> Key:
    """The futex at `address`. EINVAL for a misaligned one, EFAULT (GuestMemoryError) where nothing can be read."""
    if address % 4:
        raise SyscallError(errno.EINVAL)
    if private:
        return ("space", id(task.memory), address)
    region = task.space.region(address)
    if region is None or region.start > address:
        raise SyscallError(errno.EFAULT)
    if region.shared:
        return ("file", region.file, region.offset + address - region.start)
    return ("space", id(task.memory), address)


class FutexTable:
    """All waiters of one kernel, by futex, in the order in which they came."""

    def __init__(self) -> None:
        self._waiters: dict[Key, dict[Waiter, None]] = {}
        self._lockers: dict[Waiter, None] = {}

    def waiters(self, key: Key) -> list[Waiter]:
        return list(self._waiters.get(key, ()))

    def lockers(self) -> list[Waiter]:
        """Who waits for a lock that knows its owner."""
        return list(self._lockers)

    def wake(self, key: Key, count: int, bitset: int = BITSET_ANY) -> int:
        """Wake up to `count` waiters; how many there were."""
        woken = 0
        for waiter in self.waiters(key):
            if woken >= count:
                break
            if waiter.bitset & bitset:
                self.remove(waiter)
                waiter.wake()
                woken += 1
        return woken

    def requeue(self, source: Key, target: Key, count: int) -> int:
        """Let up to `count` of the waiters for one futex wait for another."""
        moved = self.waiters(source)[: max(count, 0)]
        for waiter in moved:
            self.remove(waiter)
            waiter.key = target
            self.add(waiter)
        return len(moved)

    def add(self, waiter: Waiter) -> None:
        self._waiters.setdefault(waiter.key, {})[waiter] = None
        if waiter.lock:
            self._lockers[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        self._lockers.pop(waiter, None)
        waiters = self._waiters.get(waiter.key)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                del self._waiters[waiter.key]

    async def wait(self, waiter: Waiter, until: int | None) -> bool:
        """Until woken; False when CLOCK_MONOTONIC passed `until` first. SyscallError(ERESTARTSYS) for a signal."""
        self.add(waiter)
        try:
            await waiter.task.wait(waiter.queue, until=until)
        except SyscallError:
            # Who has been woken was counted by its waker: nobody else is woken in its place.
            if not waiter.woken:
                raise
        finally:
            self.remove(waiter)
        return waiter.woken


# ---------------------------------------------------------------- futexes that know their owner


async def release_robust(task: Task) -> None:
    """The thread is about to end: mark the futexes on its list that it still owned, and wake a waiter of each.

    Others run in between: many threads may end at once, each with a list as long as it likes.
    """
    head = task.robust_list
    if not head:
        return
    space = task.space
    offset, pending = read_int64(space, head + 8), read_uint64(space, head + 16)
    entry = read_uint64(space, head)
    for count in range(1, _ROBUST_ENTRIES + 1):
        if entry & ~_PI_ENTRY == head:
            break
        if not count % _ROBUST_AT_ONCE:
            await asyncio.sleep(0)
        following = read_uint64(space, entry & ~_PI_ENTRY)
        if entry != pending:
            _die_with(task, (entry & ~_PI_ENTRY) + offset)
        entry = following
    if pending & ~_PI_ENTRY:
        _die_with(task, (pending & ~_PI_ENTRY) + offset, pending=True)


def _die_with(task: Task, address: int, *, pending: bool = False) -> None:
    """The owner of the futex at `address`, if it was this thread, has died. Source: handle_futex_death()."""
    address &= (1 << 64) - 1
    if address % 4:
        return
    table = task.process.kernel.futexes
    word = read_uint32(task.space, address)
    if pending and not word & TID_MASK:
        # It died between unlocking and waking: a waiter may have missed its wake-up.
        table.wake(key_of(task, address, private=False), 1)
        return
    while word & TID_MASK == task.tid:
        seen = task.space.compare_exchange(address, word, word & WAITERS | OWNER_DIED)
        if seen == word:
            if word & WAITERS:
                table.wake(key_of(task, address, private=False), 1)
            return
        word = seen
