"""futex(2) and the lists of robust futexes: registers to and from `asynckvm.linux.futex`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux import clock, futex_pi
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.futex import BITSET_ANY, Waiter, key_of
from asynckvm.linux.tracing import may_trace
from asynckvm.linux.usercopy import read_timespec, read_uint32, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_WAIT, _WAKE, _REQUEUE, _CMP_REQUEUE, _WAKE_OP = 0, 1, 3, 4, 5
_LOCK_PI, _UNLOCK_PI, _TRYLOCK_PI, _WAIT_BITSET, _WAKE_BITSET, _LOCK_PI2 = 6, 7, 8, 9, 10, 13
_PRIVATE: Final = 128
_CLOCK_REALTIME: Final = 256
_TIMED_ABSOLUTE: Final = frozenset({_WAIT_BITSET, _LOCK_PI, _LOCK_PI2})
_ROBUST_LIST_BYTES: Final = 24
_INT32_MAX: Final = 0x7FFF_FFFF


async def futex(task: Task, address: int, operation: int, value: int, fourth: int, second: int, third: int) -> int:
    """`fourth` is a timeout or a second count, `second` another futex, `third` a value or a bit set, as the operation has it."""
    command, private = operation & ~(_PRIVATE | _CLOCK_REALTIME), bool(operation & _PRIVATE)
    if operation & _CLOCK_REALTIME and command not in (_WAIT, _WAIT_BITSET, _LOCK_PI2):
        raise SyscallError(errno.ENOSYS)
    table = task.process.kernel.futexes
    if command in (_WAIT, _WAIT_BITSET):
        bitset = third if command == _WAIT_BITSET else BITSET_ANY
        return await _wait(task, address, value, bitset, _deadline(task, operation, fourth), private=private)
    if command in (_WAKE, _WAKE_BITSET):
        bitset = third if command == _WAKE_BITSET else BITSET_ANY
        if not bitset:
            raise SyscallError(errno.EINVAL)
        return table.wake(key_of(task, address, private=private), _signed(value), bitset)
    if command in (_REQUEUE, _CMP_REQUEUE):
        return _requeue(task, address, value, fourth, second, third if command == _CMP_REQUEUE else None, private=private)
    if command == _WAKE_OP:
        return _wake_op(task, address, value, fourth, second, third, private=private)
    if command in (_LOCK_PI, _LOCK_PI2):
        return await futex_pi.lock(task, address, _deadline(task, operation, fourth), private=private)
    if command == _TRYLOCK_PI:
        return futex_pi.try_lock(task, address, private=private)
    if command == _UNLOCK_PI:
        return futex_pi.unlock(task, address, private=private)
    raise SyscallError(errno.ENOSYS)


def _signed(value: int) -> int:
    return value - (1 << 32) if value > _INT32_MAX else value


def _deadline(task: Task, operation: int, timeout: int) -> int | None:
    if not timeout:
        return None
    command = operation & ~(_PRIVATE | _CLOCK_REALTIME)
    real = operation & _CLOCK_REALTIME or command == _LOCK_PI
    number = clock.CLOCK_REALTIME if real else clock.CLOCK_MONOTONIC
    return clock.deadline(number, read_timespec(task.space, timeout), absolute=command in _TIMED_ABSOLUTE)


async def _wait(task: Task, address: int, value: int, bitset: int, until: int | None, *, private: bool) -> int:
    if not bitset:
        raise SyscallError(errno.EINVAL)
    key = key_of(task, address, private=private)
    if read_uint32(task.space, address) != value:
        raise SyscallError(errno.EAGAIN)
    if await task.process.kernel.futexes.wait(Waiter(task, key, bitset), until):
        return 0
    raise SyscallError(errno.ETIMEDOUT)


def _requeue(task: Task, address: int, wake: int, move: int, second: int, expected: int | None, *, private: bool) -> int:
    wake, move = _signed(wake), _signed(move & 0xFFFF_FFFF)
    if wake < 0 or move < 0:
        raise SyscallError(errno.EINVAL)
    source, target = key_of(task, address, private=private), key_of(task, second, private=private)
    if expected is not None and read_uint32(task.space, address) != expected:
        raise SyscallError(errno.EAGAIN)
    table = task.process.kernel.futexes
    woken = table.wake(source, wake)
    moved = table.requeue(source, target, move)
    return woken + moved if expected is not None else woken


# ---------------------------------------------------------------- FUTEX_WAKE_OP


def _wake_op(task: Task, address: int, wake: int, wake_second: int, second: int, encoded: int, *, private: bool) -> int:
    """Change the second word, wake waiters of the first, and of the second if its old value compares."""
    first_key, second_key = key_of(task, address, private=private), key_of(task, second, private=private)
    operation, comparison = encoded >> 28 & 0xF, encoded >> 24 & 0xF
    operand, compared = _signed12(encoded >> 12), _signed12(encoded)
    if operation & 8:
        operand, operation = 1 << (operand & 31), operation & 7
    old = read_uint32(task.space, second)
    while (seen := task.space.compare_exchange(second, old, _changed(operation, old, operand))) != old:
        old = seen
    table = task.process.kernel.futexes
    woken = table.wake(first_key, _signed(wake))
    if _compares(comparison, old - (1 << 32) if old > _INT32_MAX else old, compared):
        woken += table.wake(second_key, _signed(wake_second & 0xFFFF_FFFF))
    return woken


def _signed12(value: int) -> int:
    return (value & 0xFFF ^ 0x800) - 0x800


def _changed(operation: int, old: int, operand: int) -> int:
    changes = {0: operand, 1: old + operand, 2: old | operand, 3: old & ~operand, 4: old ^ operand}
    if operation not in changes:
        raise SyscallError(errno.ENOSYS)
    return changes[operation] & 0xFFFF_FFFF


def _compares(comparison: int, old: int, value: int) -> bool:
    outcomes = {0: old == value, 1: old != value, 2: old < value, 3: old <= value, 4: old > value, 5: old >= value}
    if comparison not in outcomes:
        raise SyscallError(errno.ENOSYS)
    return outcomes[comparison]


# ---------------------------------------------------------------- robust lists


def set_robust_list(task: Task, head: int, length: int) -> int:
    if length != _ROBUST_LIST_BYTES:
        raise SyscallError(errno.EINVAL)
    task.robust_list = head
    return 0


def get_robust_list(task: Task, tid: int, head: int, length: int) -> int:
    other = task.process.kernel.tasks.get(tid) if tid else task
    if other is None:
        raise SyscallError(errno.ESRCH)
    if not may_trace(task.process, other.process):
        raise SyscallError(errno.EPERM)
    write_uint64(task.space, head, other.robust_list)
    write_uint64(task.space, length, _ROBUST_LIST_BYTES)
    return 0
