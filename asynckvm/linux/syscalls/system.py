"""System calls on the machine as a whole: its name, its random numbers, and what only its administrator may do."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux import uts
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.usercopy import TRANSFER_MAX

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_CAP_SYS_ADMIN: Final = 21
_GRND_FLAGS: Final = 7
_GRND_RANDOM, _GRND_INSECURE = 2, 4
_MEMBARRIER_QUERY: Final = 0
_GLOBAL, _GLOBAL_EXPEDITED, _REGISTER_GLOBAL = 1, 2, 4
# Barriers among a process's own threads, by their number, need that of their registration first.
_PRIVATE: Final = {8: 16, 32: 64}
_MEMBARRIER_COMMANDS: Final = (_GLOBAL, _GLOBAL_EXPEDITED, _REGISTER_GLOBAL, *_PRIVATE, *_PRIVATE.values())


def uname(task: Task, buffer: int) -> int:
    task.space.write(buffer, task.process.kernel.names.utsname())
    return 0


def sethostname(task: Task, name: int, length: int) -> int:
    task.process.kernel.names.node = _new_name(task, name, length)
    return 0


def setdomainname(task: Task, name: int, length: int) -> int:
    task.process.kernel.names.domain = _new_name(task, name, length)
    return 0


def _new_name(task: Task, name: int, length: int) -> bytes:
    """A name ends at its first zero, for who reads it."""
    if not task.process.credentials.effective_capabilities >> _CAP_SYS_ADMIN & 1:
        raise SyscallError(errno.EPERM)
    if not 0 <= length <= uts.NAME_MAX:
        raise SyscallError(errno.EINVAL)
    data: bytes = task.space.read(name, length) if length else b""
    return data.partition(b"\0")[0]


async def getrandom(task: Task, buffer: int, length: int, flags: int) -> int:
    if flags & ~_GRND_FLAGS or flags & (_GRND_RANDOM | _GRND_INSECURE) == _GRND_RANDOM | _GRND_INSECURE:
        raise SyscallError(errno.EINVAL)
    length, done = min(length, TRANSFER_MAX), 0
    while done < length:
        try:
            task.space.write(buffer + done, os.urandom(min(CHUNK, length - done)))
        except GuestMemoryError:
            if not done:
                raise
            break
        done += min(CHUNK, length - done)
        if done < length:
            await task.turn()
    return done


async def membarrier(task: Task, command: int, flags: int, processor: int) -> int:  # noqa: ARG001
    """Every thread in ring 3 passes a barrier when it is made to leave it, which a shootdown does."""
    if flags:
        raise SyscallError(errno.EINVAL)
    if command == _MEMBARRIER_QUERY:
        return sum(_MEMBARRIER_COMMANDS)
    if command not in _MEMBARRIER_COMMANDS:
        raise SyscallError(errno.EINVAL)
    if command in _PRIVATE.values():
        task.memory.barriers |= command
    if _PRIVATE.get(command, 0) & ~task.memory.barriers:
        raise SyscallError(errno.EPERM)
    if command in (_GLOBAL, _GLOBAL_EXPEDITED, *_PRIVATE):
        for other in task.process.tasks.values():
            if other is not task and other.in_guest:
                await other.leave_guest()
    return 0


def forbidden(task: Task, *_: object) -> int:  # noqa: ARG001
    """What only the administrator of a whole machine may do."""
    raise SyscallError(errno.EPERM)


def absent(task: Task, *_: object) -> int:  # noqa: ARG001
    """What every program asks for and can do without: no word about it in the log, and no way to here."""
    return -errno.ENOSYS
