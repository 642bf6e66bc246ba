"""System V shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import PERMISSIONS_BYTES
from asynckvm.linux.ipc.segments import SHM_LOCKED
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_IPC_RMID, _IPC_SET, _IPC_STAT, _IPC_INFO = 0, 1, 2, 3
_SHM_LOCK, _SHM_UNLOCK, _SHM_STAT, _SHM_INFO, _SHM_STAT_ANY = 11, 12, 13, 14, 15


def shmget(task: Task, key: int, size: int, flags: int) -> int:
    return task.process.kernel.segments.open(task, key, size, flags)


def shmat(task: Task, number: int, address: int, flags: int) -> int:
    return task.process.kernel.segments.attach(task, number, address, flags)


async def shmdt(task: Task, address: int) -> int:
    if address % PAGE:
        raise SyscallError(errno.EINVAL)
    await task.process.kernel.segments.detach(task, address)
    return 0


def shmctl(task: Task, number: int, command: int, buffer: int) -> int:
    segments, credentials = task.process.kernel.segments, task.process.credentials
    if number < 0 or command < 0:
        raise SyscallError(errno.EINVAL)
    segments.sweep()
    if command in (_IPC_INFO, _SHM_INFO):
        task.space.write(buffer, segments.limits() if command == _IPC_INFO else segments.used())
        return segments.highest
    if command in (_SHM_STAT, _SHM_STAT_ANY):
        number, segment = segments.at(number)
        if command == _SHM_STAT:
            segment.permissions.check(credentials, 0o444)
        task.space.write(buffer, segment.status())
        return number
    segment = segments.find(number)
    if command == _IPC_STAT:
        segment.permissions.check(credentials, 0o444)
        task.space.write(buffer, segment.status())
    elif command == _IPC_SET:
        image = task.space.read(buffer, PERMISSIONS_BYTES)
        segment.permissions.check_owner(credentials)
        segment.change(image)
    elif command == _IPC_RMID:
        segment.permissions.check_owner(credentials)
        segments.remove(number)
    elif command in (_SHM_LOCK, _SHM_UNLOCK):
        segment.permissions.check_owner(credentials)
        segment.permissions.mode = segment.permissions.mode & ~SHM_LOCKED | (SHM_LOCKED if command == _SHM_LOCK else 0)
    else:
        raise SyscallError(errno.EINVAL)
    return 0
