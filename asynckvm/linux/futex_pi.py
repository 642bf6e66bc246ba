"""Futexes that know their owner: locks which the kernel hands over (FUTEX_LOCK_PI and its kin).

The word is the owner's thread number, so that a waiter could lend it its priority. There are no priorities here to lend; what is
left, and what programs rely on, is that an unlock gives the lock to the first waiter and to nobody who comes in between.
Source: futex(2), Documentation/locking/pi-futex.rst, kernel/futex/pi.c.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from asynckvm.errors import AsyncKvmError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.futex import BITSET_ANY, OWNER_DIED, TID_MASK, WAITERS, Waiter, key_of
from asynckvm.linux.usercopy import read_uint32

if TYPE_CHECKING:
    from asynckvm.linux.task import Task
    from asynckvm.platform import AddressSpace


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
    if not await table.wait(Waiter(task, key, BITSET_ANY, lock=address), until):
        raise SyscallError(errno.ETIMEDOUT)
    # Whoever unlocked it has written our number.
    return 0


def unlock(task: Task, address: int, *, private: bool) -> int:
    """Give it to the first waiter. EPERM when it is not the caller's."""
    key = key_of(task, address, private=private)
    table = task.process.kernel.futexes
    waiters = [waiter for waiter in table.waiters(key) if waiter.lock]
    if not _give(task.space, address, task.tid, waiters):
        raise SyscallError(errno.EPERM)
    if waiters:
        table.remove(waiters[0])
        waiters[0].wake()
    return 0


def release(task: Task) -> None:
    """The thread has ended: what somebody waits for that it still owned goes to the first waiter, and is marked.

    Source: exit_pi_state_list().
    """
    table = task.process.kernel.futexes
    for waiter in table.lockers():
        waiters = [other for other in table.waiters(waiter.key) if other.lock]
        with contextlib.suppress(AsyncKvmError):
            if waiter in waiters and _give(waiter.task.space, waiter.lock, task.tid, waiters, OWNER_DIED):
                table.remove(waiters[0])
                waiters[0].wake()


def _give(space: AddressSpace, address: int, owner: int, waiters: list[Waiter], mark: int = 0) -> bool:
    """Write the number of the first waiter, or of nobody; whether the lock was the owner's to give."""
    word = read_uint32(space, address)
    while word & TID_MASK == owner:
        heir = waiters[0].task.tid | (WAITERS if len(waiters) > 1 else 0) | mark if waiters else 0
        seen = space.compare_exchange(address, word, heir)
        if seen == word:
            return True
        word = seen
    return False


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
