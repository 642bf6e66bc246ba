"""System V semaphores: semget(2), semop(2), semtimedop(2), semctl(2)."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import PERMISSIONS_BYTES
from asynckvm.linux.ipc.semaphores import OPERATIONS_MAX, Operation, SemaphoreSet
from asynckvm.linux.usercopy import read_timespec

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_IPC_RMID, _IPC_SET, _IPC_STAT, _IPC_INFO = 0, 1, 2, 3
_GETPID, _GETVAL, _GETALL, _GETNCNT, _GETZCNT, _SETVAL, _SETALL = 11, 12, 13, 14, 15, 16, 17
_SEM_STAT, _SEM_INFO, _SEM_STAT_ANY = 18, 19, 20
_OF_ONE: Final = frozenset({_GETPID, _GETVAL, _GETNCNT, _GETZCNT, _SETVAL})
_SEMBUF: Final = struct.Struct("<Hhh")


def semget(task: Task, key: int, count: int, flags: int) -> int:
    return task.process.kernel.semaphores.open(task, key, count, flags)


async def semop(task: Task, number: int, address: int, count: int) -> int:
    return await semtimedop(task, number, address, count, 0)


async def semtimedop(task: Task, number: int, address: int, count: int, timespec: int) -> int:
    if not count or number < 0:
        raise SyscallError(errno.EINVAL)
    if count > OPERATIONS_MAX:
        raise SyscallError(errno.E2BIG)
    operations = [Operation(*fields) for fields in _SEMBUF.iter_unpack(task.space.read(address, _SEMBUF.size * count))]
    until = time.monotonic_ns() + read_timespec(task.space, timespec) if timespec else None
    await task.process.kernel.semaphores.operate(task, number, operations, until)
    return 0


def semctl(task: Task, number: int, index: int, command: int, argument: int) -> int:
    semaphores, credentials = task.process.kernel.semaphores, task.process.credentials
    if number < 0:
        raise SyscallError(errno.EINVAL)
    if command in (_IPC_INFO, _SEM_INFO):
        task.space.write(argument, semaphores.info(used=command == _SEM_INFO))
        return semaphores.highest
    if command in (_SEM_STAT, _SEM_STAT_ANY):
        number, found = semaphores.at(number)
        if command == _SEM_STAT:
            found.permissions.check(credentials, 0o444)
        task.space.write(argument, found.status())
        return number
    found = semaphores.find(number)
    if command == _IPC_STAT:
        found.permissions.check(credentials, 0o444)
        task.space.write(argument, found.status())
    elif command == _IPC_SET:
        image = task.space.read(argument, PERMISSIONS_BYTES)
        found.permissions.check_owner(credentials)
        found.permissions.change(image)
        found.changed_at = int(time.time())
    elif command == _IPC_RMID:
        found.permissions.check_owner(credentials)
        semaphores.remove(number)
    elif command in (_GETALL, _SETALL):
        _all(task, found, command, argument)
    elif command in _OF_ONE:
        return _one(task, found, index, command, argument)
    else:
        raise SyscallError(errno.EINVAL)
    return 0


def _all(task: Task, found: SemaphoreSet, command: int, address: int) -> None:
    found.permissions.check(task.process.credentials, 0o222 if command == _SETALL else 0o444)
    count = len(found.values)
    if command == _GETALL:
        task.space.write(address, struct.pack(f"<{count}H", *found.values))
    else:
        found.set(task.process, dict(enumerate(struct.unpack(f"<{count}H", task.space.read(address, 2 * count)))))


def _one(task: Task, found: SemaphoreSet, index: int, command: int, value: int) -> int:
    found.permissions.check(task.process.credentials, 0o222 if command == _SETVAL else 0o444)
    if not 0 <= index < len(found.values):
        raise SyscallError(errno.EINVAL)
    if command == _SETVAL:
        # An int, in the lower half of the register.
        found.set(task.process, {index: (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000})
        return 0
    if command == _GETVAL:
        return found.values[index]
    if command == _GETPID:
        return found.pids[index]
    zero = command == _GETZCNT
    return sum(one.number == index and (not one.change) is zero for one in found.waiting)
