"""getxattr(2), setxattr(2), listxattr(2), removexattr(2), each by path, by path of a link, and by descriptor."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from asynckvm.errors import GuestStringError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls.paths import AT_FDCWD, AT_SYMLINK_NOFOLLOW, caller_of, check_flags, locate, location_of
from asynckvm.linux.vfs import changes
from asynckvm.linux.vfs.xattrs import NAME_MAX, SIZE_MAX, XATTR_CREATE, XATTR_REPLACE

if TYPE_CHECKING:
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Location


def getxattr(task: Task, path: bytes, name: int, buffer: int, size: int) -> int:
    return _get(task, locate(task, AT_FDCWD, path), name, buffer, size)


def lgetxattr(task: Task, path: bytes, name: int, buffer: int, size: int) -> int:
    return _get(task, locate(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW), name, buffer, size)


def fgetxattr(task: Task, fd: int, name: int, buffer: int, size: int) -> int:
    return _get(task, _opened(task, fd), name, buffer, size)


def setxattr(task: Task, path: bytes, name: int, value: int, size: int, flags: int) -> int:
    return _set(task, locate(task, AT_FDCWD, path), name, value, size, flags)


def lsetxattr(task: Task, path: bytes, name: int, value: int, size: int, flags: int) -> int:
    return _set(task, locate(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW), name, value, size, flags)


def fsetxattr(task: Task, fd: int, name: int, value: int, size: int, flags: int) -> int:
    return _set(task, _opened(task, fd), name, value, size, flags)


def listxattr(task: Task, path: bytes, buffer: int, size: int) -> int:
    return _list(task, locate(task, AT_FDCWD, path), buffer, size)


def llistxattr(task: Task, path: bytes, buffer: int, size: int) -> int:
    return _list(task, locate(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW), buffer, size)


def flistxattr(task: Task, fd: int, buffer: int, size: int) -> int:
    return _list(task, _opened(task, fd), buffer, size)


def removexattr(task: Task, path: bytes, name: int) -> int:
    return _remove(task, locate(task, AT_FDCWD, path), name)


def lremovexattr(task: Task, path: bytes, name: int) -> int:
    return _remove(task, locate(task, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW), name)


def fremovexattr(task: Task, fd: int, name: int) -> int:
    return _remove(task, _opened(task, fd), name)


def _opened(task: Task, fd: int) -> Location:
    file = task.process.files.get_open(fd)
    if file.location is None:
        raise SyscallError(errno.EOPNOTSUPP)
    return location_of(task, fd)


def _name(task: Task, address: int) -> bytes:
    try:
        name: bytes = task.space.read_string(address, NAME_MAX)
    except GuestStringError:
        raise SyscallError(errno.ERANGE) from None
    if not name:
        raise SyscallError(errno.ERANGE)
    return name


def _get(task: Task, location: Location, address: int, buffer: int, size: int) -> int:
    name = _name(task, address)
    if name.startswith(b"user."):
        changes.check_xattr(caller_of(task), location, os.R_OK)
    return _deliver(task, location.node.get_xattr(name), buffer, size)


def _set(task: Task, location: Location, address: int, value: int, size: int, flags: int) -> int:
    check_flags(flags, XATTR_CREATE | XATTR_REPLACE)
    name = _name(task, address)
    if size > SIZE_MAX:
        raise SyscallError(errno.E2BIG)
    data = task.space.read(value, size) if size else b""
    changes.check_xattr(caller_of(task), location, os.W_OK)
    location.node.set_xattr(name, data, flags)
    return 0


def _list(task: Task, location: Location, buffer: int, size: int) -> int:
    return _deliver(task, b"".join(name + b"\0" for name in location.node.xattrs()), buffer, size)


def _remove(task: Task, location: Location, address: int) -> int:
    name = _name(task, address)
    changes.check_xattr(caller_of(task), location, os.W_OK)
    location.node.remove_xattr(name)
    return 0


def _deliver(task: Task, data: bytes, buffer: int, size: int) -> int:
    """A size of 0 asks how much there is."""
    if size:
        if len(data) > size:
            raise SyscallError(errno.ERANGE)
        task.space.write(buffer, data)
    return len(data)
