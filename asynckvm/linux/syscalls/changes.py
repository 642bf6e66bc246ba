"""chmod(2), chown(2), utimensat(2), truncate(2) and their kin: system calls that change what stat(2) tells."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls.paths import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    caller_of,
    check_flags,
    locate,
    location_of,
)
from asynckvm.linux.usercopy import NANOSECONDS
from asynckvm.linux.vfs import NOW, PATH_MAX, changes

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Location

_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_PAIR: Final = struct.Struct("<qq")
_PAIRS: Final = struct.Struct("<4q")
_MICROSECONDS: Final = 1_000_000
_LEAVE: Final = 0xFFFF_FFFF


def chmod(task: Task, path: bytes, mode: int) -> int:
    return fchmodat2(task, AT_FDCWD, path, mode, 0)


def fchmodat(task: Task, directory: int, path: bytes, mode: int) -> int:
    return fchmodat2(task, directory, path, mode, 0)


def fchmodat2(task: Task, directory: int, path: bytes, mode: int, flags: int) -> int:
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    changes.set_mode(caller_of(task), locate(task, directory, path, flags), mode)
    return 0


def fchmod(task: Task, fd: int, mode: int) -> int:
    changes.set_mode(caller_of(task), _opened(task, fd), mode)
    return 0


def chown(task: Task, path: bytes, user: int, group: int) -> int:
    return fchownat(task, AT_FDCWD, path, user, group, 0)


def lchown(task: Task, path: bytes, user: int, group: int) -> int:
    return fchownat(task, AT_FDCWD, path, user, group, AT_SYMLINK_NOFOLLOW)


def fchownat(task: Task, directory: int, path: bytes, user: int, group: int, flags: int) -> int:
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    _set_owner(task, locate(task, directory, path, flags), user, group)
    return 0


def fchown(task: Task, fd: int, user: int, group: int) -> int:
    _set_owner(task, _opened(task, fd), user, group)
    return 0


def _set_owner(task: Task, location: Location, user: int, group: int) -> None:
    changes.set_owner(caller_of(task), location, *(None if number == _LEAVE else number for number in (user, group)))


def _opened(task: Task, fd: int) -> Location:
    """The place of an open file, which an O_PATH descriptor does not let one change."""
    task.process.files.get_open(fd)
    return location_of(task, fd)


def utime(task: Task, path: bytes, times: int) -> int:
    moments = (NOW, NOW)
    if times:
        accessed, modified = _PAIR.unpack(task.space.read(times, _PAIR.size))
        moments = (accessed * NANOSECONDS, modified * NANOSECONDS)
    changes.set_times(caller_of(task), locate(task, AT_FDCWD, path), *moments)
    return 0


def utimes(task: Task, path: bytes, times: int) -> int:
    return _set_timevals(task, locate(task, AT_FDCWD, path), times)


def futimesat(task: Task, directory: int, path: int, times: int) -> int:
    """A null pointer for the path means the descriptor's own file."""
    location = locate(task, directory, _read_path(task, path)) if path else location_of(task, directory)
    return _set_timevals(task, location, times)


def _set_timevals(task: Task, location: Location, times: int) -> int:
    moments = [NOW, NOW]
    if times:
        values = _PAIRS.unpack(task.space.read(times, _PAIRS.size))
        moments = []
        for seconds, microseconds in (values[:2], values[2:]):
            if not 0 <= microseconds < _MICROSECONDS:
                raise SyscallError(errno.EINVAL)
            moments.append(seconds * NANOSECONDS + microseconds * 1000)
    changes.set_times(caller_of(task), location, moments[0], moments[1])
    return 0


def utimensat(task: Task, directory: int, path: int, times: int, flags: int) -> int:
    """A null pointer for the path means the descriptor's own file."""
    moments: list[int | None] = [NOW, NOW]
    if times:
        values = _PAIRS.unpack(task.space.read(times, _PAIRS.size))
        moments = [_moment(*values[:2]), _moment(*values[2:])]
        if moments == [None, None]:
            return 0
    if path:
        check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
        location = locate(task, directory, _read_path(task, path), flags)
    else:
        check_flags(flags, 0)
        if directory == AT_FDCWD:
            raise SyscallError(errno.EFAULT)
        location = _opened(task, directory)
    changes.set_times(caller_of(task), location, moments[0], moments[1])
    return 0


def _moment(seconds: int, nanoseconds: int) -> int | None:
    if nanoseconds == _UTIME_OMIT:
        return None
    if nanoseconds == _UTIME_NOW:
        return NOW
    if not 0 <= nanoseconds < NANOSECONDS:
        raise SyscallError(errno.EINVAL)
    return seconds * NANOSECONDS + nanoseconds


def truncate(task: Task, path: bytes, length: int) -> int | Awaitable[int]:
    if length < 0:
        raise SyscallError(errno.EINVAL)
    location, leases = locate(task, AT_FDCWD, path), task.process.kernel.leases
    if leases and leases.hinders(location.node.identity, os.O_WRONLY):
        return _truncate_leased(task, location, length)
    changes.set_size(caller_of(task), location, length)
    return 0


async def _truncate_leased(task: Task, location: Location, length: int) -> int:
    await task.process.kernel.leases.broken(task, location.node.identity, os.O_WRONLY)
    changes.set_size(caller_of(task), location, length)
    return 0


def _read_path(task: Task, address: int) -> bytes:
    path: bytes = task.space.read_string(address, PATH_MAX - 1)
    return path
