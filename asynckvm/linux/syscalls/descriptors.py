"""System calls on descriptors and what they refer to, except for moving bytes (`transfer`) and telling status (`status`)."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files.memory import MemoryFile
from asynckvm.linux.syscalls.paths import check_flags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_DUPFD_QUERY, _F_CREATED_QUERY = 1027, 1028
_FD_CLOEXEC: Final = 1
_PAIR: Final = struct.Struct("<ii")
# What an O_PATH descriptor can be asked.
_OF_PATHS: Final = frozenset({_F_DUPFD, _F_DUPFD_CLOEXEC, _F_GETFD, _F_SETFD, _F_GETFL})
# Commands of other nouns, by number: record locks, signals and owners, leases, pipes' sizes. Filled by those who know them.
COMMANDS: Final[dict[int, Callable[[Task, OpenFile, int, int], int | Awaitable[int]]]] = {}


def add_pair(task: Task, address: int, pair: tuple[OpenFile, OpenFile], *, close_on_exec: bool) -> int:
    """For calls that make two files, or none: their descriptors as two ints at `address`."""
    files = task.process.files
    _, second = pair
    fds: list[int] = []
    try:
        with second.held():  # it must not outlive a failure
            for file in pair:
                fds.append(files.add(file, close_on_exec=close_on_exec))  # noqa: PERF401  those before a failure are closed
            task.space.write(address, _PAIR.pack(*fds))
    except BaseException:
        for fd in fds:
            files.close(fd)
        raise
    return 0


def dup(task: Task, fd: int) -> int:
    files = task.process.files
    return files.add(files.get(fd))


def dup2(task: Task, fd: int, target: int) -> int:
    files = task.process.files
    file = files.get(fd)
    return target if fd == target else files.replace(target, file)


def dup3(task: Task, fd: int, target: int, flags: int) -> int:
    if fd == target or flags & ~os.O_CLOEXEC:
        raise SyscallError(errno.EINVAL)
    files = task.process.files
    return files.replace(target, files.get(fd), close_on_exec=bool(flags))


def fcntl(task: Task, fd: int, command: int, argument: int) -> int | Awaitable[int]:
    files = task.process.files
    file = files.get(fd) if command in _OF_PATHS else files.get_open(fd)
    if command in (_F_DUPFD, _F_DUPFD_CLOEXEC):
        lowest = argument & 0xFFFF_FFFF
        if lowest >= files.limit:
            raise SyscallError(errno.EINVAL)
        return files.add(file, lowest=lowest, close_on_exec=command == _F_DUPFD_CLOEXEC)
    if command == _F_GETFD:
        return _FD_CLOEXEC if files.closes_on_exec(fd) else 0
    if command == _F_SETFD:
        files.set_close_on_exec(fd, value=bool(argument & _FD_CLOEXEC))
        return 0
    if command == _F_GETFL:
        return file.flags
    if command == _F_SETFL:
        file.set_flags(argument & 0xFFFF_FFFF)
        return 0
    answer = COMMANDS.get(command)
    if answer is None:
        raise SyscallError(errno.EINVAL)
    return answer(task, file, command, argument)


def _seals(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    if not isinstance(file, MemoryFile):
        raise SyscallError(errno.EINVAL)
    if command == _F_GET_SEALS:
        return file.seals
    file.add_seals(argument & 0xFFFF_FFFF)
    return 0


def _is_same(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    return int(task.process.files.get(argument) is file)


def _was_created(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    return int(file.created)


COMMANDS.update({_F_ADD_SEALS: _seals, _F_GET_SEALS: _seals, _F_DUPFD_QUERY: _is_same, _F_CREATED_QUERY: _was_created})


def lseek(task: Task, fd: int, offset: int, whence: int) -> int:
    return task.process.files.get(fd).seek(offset, whence)


def ftruncate(task: Task, fd: int, length: int) -> int:
    if length < 0:
        raise SyscallError(errno.EINVAL)
    file = task.process.files.get_open(fd)
    if not file.writable or not stat.S_ISREG(file.attributes().mode):
        raise SyscallError(errno.EINVAL)
    file.truncate(length)
    return 0


def fallocate(task: Task, fd: int, mode: int, offset: int, length: int) -> int:
    file = task.process.files.get(fd)
    if offset < 0 or length <= 0:
        raise SyscallError(errno.EINVAL)
    if not file.writable:
        raise SyscallError(errno.EBADF)
    if offset + length > INT64_MAX:
        raise SyscallError(errno.EFBIG)
    kind = file.attributes().mode
    if not stat.S_ISREG(kind):
        raise SyscallError({stat.S_IFIFO: errno.ESPIPE, stat.S_IFDIR: errno.EISDIR}.get(stat.S_IFMT(kind), errno.ENODEV))
    file.allocate(mode, offset, length)
    return 0


def fadvise64(task: Task, fd: int, offset: int, length: int, advice: int) -> int:  # noqa: ARG001
    file = task.process.files.get_open(fd)
    if stat.S_ISFIFO(file.attributes().mode):
        raise SyscallError(errno.ESPIPE)
    if length < 0 or not 0 <= advice <= 5:
        raise SyscallError(errno.EINVAL)
    return 0


def readahead(task: Task, fd: int, offset: int, count: int) -> int:  # noqa: ARG001
    file = task.process.files.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    if not stat.S_ISREG(file.attributes().mode):
        raise SyscallError(errno.EINVAL)
    return 0


def fsync(task: Task, fd: int) -> int:
    """And fdatasync(2)."""
    file = task.process.files.get_open(fd)
    file.sync()
    return 0


def sync(task: Task) -> int:  # noqa: ARG001
    """The host writes back by itself."""
    return 0


def syncfs(task: Task, fd: int) -> int:
    task.process.files.get_open(fd)
    return 0


def sync_file_range(task: Task, fd: int, offset: int, length: int, flags: int) -> int:
    check_flags(flags, 7)
    if offset < 0 or length < 0:
        raise SyscallError(errno.EINVAL)
    kind = task.process.files.get(fd).attributes().mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise SyscallError(errno.ESPIPE)
    return 0
