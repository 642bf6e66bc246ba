"""flock(2), and the commands of fcntl(2) that lock: struct flock in and out, whence and length into a range of bytes.

Source: flock(2), fcntl_locking(2).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.locks import END, Owner, Range
from asynckvm.linux.syscalls.descriptors import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

_LOCK_SH, _LOCK_EX, _LOCK_NB, _LOCK_UN = 1, 2, 4, 8
F_GETLK, F_SETLK, F_SETLKW = 5, 6, 7
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
_OF_OPEN_FILES: Final = frozenset({F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW})
_F_RDLCK, _F_WRLCK, _F_UNLCK = 0, 1, 2
# struct flock: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK: Final = struct.Struct("<hh4xqqi4x")


def flock(task: Task, fd: int, operation: int) -> int | Awaitable[int]:
    kind = operation & ~_LOCK_NB
    if kind not in (_LOCK_SH, _LOCK_EX, _LOCK_UN):
        raise SyscallError(errno.EINVAL)
    file = task.process.files.get_open(fd)
    if kind == _LOCK_UN:
        task.process.kernel.locks.unlock_file(file)
        return 0
    return _flock(task, file, exclusive=kind == _LOCK_EX, waiting=not operation & _LOCK_NB)


async def _flock(task: Task, file: OpenFile, *, exclusive: bool, waiting: bool) -> int:
    await task.process.kernel.locks.lock_file(task, file, exclusive=exclusive, waiting=waiting)
    return 0


def fcntl_get(task: Task, file: OpenFile, command: int, argument: int) -> int:
    """F_GETLK and F_OFD_GETLK: who would be in the way."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.space.read(argument, _FLOCK.size))
    if kind not in (_F_RDLCK, _F_WRLCK):
        raise SyscallError(errno.EINVAL)
    owner = _owner(task, file, command, pid)
    wanted = Range(owner, *_range(file, whence, start, length), kind == _F_WRLCK, 0)
    held = task.process.kernel.locks.find_conflict(file, wanted)
    if held is None:
        answer = (_F_UNLCK, whence, start, length, pid)
    else:
        length = 0 if held.end == END else held.end - held.start
        answer = (_F_WRLCK if held.exclusive else _F_RDLCK, os.SEEK_SET, held.start, length, held.pid)
    task.space.write(argument, _FLOCK.pack(*answer))
    return 0


def fcntl_set(task: Task, file: OpenFile, command: int, argument: int) -> int | Awaitable[int]:
    """F_SETLK, F_SETLKW and their namesakes for open file descriptions."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.space.read(argument, _FLOCK.size))
    owner = _owner(task, file, command, pid)
    begin, end = _range(file, whence, start, length)
    if kind == _F_UNLCK:
        task.process.kernel.locks.unlock_range(file, owner, begin, end)
        return 0
    if kind not in (_F_RDLCK, _F_WRLCK):
        raise SyscallError(errno.EINVAL)
    if not (file.writable if kind == _F_WRLCK else file.readable):
        raise SyscallError(errno.EBADF)
    number = -1 if command in _OF_OPEN_FILES else task.process.pid
    wanted = Range(owner, begin, end, kind == _F_WRLCK, number)
    return _set(task, file, wanted, waiting=command in (F_SETLKW, F_OFD_SETLKW))


async def _set(task: Task, file: OpenFile, wanted: Range, *, waiting: bool) -> int:
    locks, files = task.process.kernel.locks, task.process.files
    await locks.lock_range(task, file, wanted, waiting=waiting)
    if waiting and wanted.owner is files and not any(files.get(fd) is file for fd in files):
        # Another thread closed the file meanwhile: nobody would ever give the lock back.
        locks.unlock_range(file, files, wanted.start, wanted.end)
        raise SyscallError(errno.EBADF)
    return 0


def _owner(task: Task, file: OpenFile, command: int, pid: int) -> Owner:
    if command not in _OF_OPEN_FILES:
        return task.process.files
    if pid:
        raise SyscallError(errno.EINVAL)
    return file


def _range(file: OpenFile, whence: int, start: int, length: int) -> tuple[int, int]:
    """First byte and the one after the last. A negative length reaches back from the start, none to the end of all files."""
    if whence == os.SEEK_CUR:
        start += file.seek(0, os.SEEK_CUR)
    elif whence == os.SEEK_END:
        start += file.attributes().size
    elif whence != os.SEEK_SET:
        raise SyscallError(errno.EINVAL)
    end = start + length if length else END
    if length < 0:
        start, end = end, start
    if start > INT64_MAX or (length and end > END):
        raise SyscallError(errno.EOVERFLOW)
    if start < 0:
        raise SyscallError(errno.EINVAL)
    return start, end


COMMANDS.update(dict.fromkeys((F_GETLK, F_OFD_GETLK), fcntl_get))
COMMANDS.update(dict.fromkeys((F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW), fcntl_set))
