"""Futexes that know their owner: locks which the kernel hands over (FUTEX_LOCK_PI and its kin).

The word is the owner's thread number, so that a waiter could lend it its priority. There are no priorities here to lend; what is
left, and what programs rely on, is that an unlock gives the lock to the first waiter and to nobody who comes in between.
Source: futex(2), Documentation/locking/pi-futex.rst, kernel/futex/pi.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.futex import BITSET_ANY, OWNER_DIED, TID_MASK, WAITERS, Waiter, key_of
from asynckvm.linux.usercopy import read_uint32

if TYPE_CHECKING:
    from asynckvm.linux.task import Task


def try_lock(task: Task, address: int, *, private: bool) -> int:
    """EAGAIN when somebody has it."""
    key_of(task, address, private=private)
    if not _take(task, address):
        raise SyscallError(errno.EAGAIN)
    return 0


async def lock(task: Task, address: int, until: int | None, *, private: bool) -> int:
    """Wait until it is the caller's. ETIMEDOUT, EDEADLK when it is already, ESRCH when the owner is no thread."""
    key = key_of(task, address, private=private)
    table = task.process.kernel.futexes
    if _take(task, address, waiting=True):
        return 0
    if not await table.wait(Waiter(task, key, BITSET_ANY, pi=True), until):
        raise SyscallError(errno.ETIMEDOUT)
    # Whoever unlocked it has written our number.
    return 0


def unlock(task: Task, address: int, *, private: bool) -> int:
    """Give it to the first waiter. EPERM when it is not the caller's."""
    key = key_of(task, address, private=private)
    table = task.process.kernel.futexes
    word = read_uint32(task.space, address)
    while True:
        if word & TID_MASK != task.tid:
            raise SyscallError(errno.EPERM)
        waiters = [waiter for waiter in table.waiters(key) if waiter.pi]
        heir = waiters[0].task.tid | (WAITERS if len(waiters) > 1 else 0) if waiters else 0
        seen = task.space.compare_exchange(address, word, heir)
        if seen == word:
            break
        word = seen
    if waiters:
        table.remove(waiters[0])
        waiters[0].wake()
    return 0


def _take(task: Task, address: int, *, waiting: bool = False) -> bool:
    """Make it the caller's if it is nobody's; else, for one who will wait, see that its owner unlocks it here."""
    word = read_uint32(task.space, address)
    while True:
        owner = word & TID_MASK
        if owner == task.tid:
            raise SyscallError(errno.EDEADLK)
        if not owner:
            new = task.tid | word & (WAITERS | OWNER_DIED)
        elif owner not in task.process.kernel.tasks:
            raise SyscallError(errno.ESRCH)
        elif not waiting:
            return False
        else:
            new = word | WAITERS
        seen = task.space.compare_exchange(address, word, new)
        if seen == word:
            return not owner
        word = seen
