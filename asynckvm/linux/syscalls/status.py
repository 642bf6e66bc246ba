"""stat(2), access(2), readlink(2), statfs(2) and their kin: system calls that tell about files."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls import structs
from asynckvm.linux.syscalls.paths import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_NOFOLLOW,
    caller_of,
    check_flags,
    locate,
    location_of,
    start_of,
)
from asynckvm.linux.vfs import Caller, Location, Statistics, Walk, resolve

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Node

_AT_STATX_SYNC: Final = 0x6000
_STAT_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH
# What fstatfs(2) says about what has no place in a mount: pipes and the like.
_ANONYMOUS: Final = Statistics(0x50495045)


class _RealUser(NamedTuple):
    """access(2) asks for the real user and group, whatever the effective ones are."""

    euid: int
    egid: int
    groups: tuple[int, ...]


def stat(task: Task, path: bytes, buffer: int) -> int:
    return newfstatat(task, AT_FDCWD, path, buffer, 0)


def lstat(task: Task, path: bytes, buffer: int) -> int:
    return newfstatat(task, AT_FDCWD, path, buffer, AT_SYMLINK_NOFOLLOW)


def fstat(task: Task, fd: int, buffer: int) -> int:
    task.space.write(buffer, task.process.files.get(fd).status())
    return 0


def newfstatat(task: Task, directory: int, path: bytes, buffer: int, flags: int) -> int:
    check_flags(flags, _STAT_FLAGS)
    task.space.write(buffer, _find(task, directory, path, flags).status())
    return 0


def statx(task: Task, directory: int, path: bytes, flags: int, mask: int, buffer: int) -> int:
    check_flags(flags, _STAT_FLAGS | _AT_STATX_SYNC)
    if mask >> 31 or flags & _AT_STATX_SYNC == _AT_STATX_SYNC:
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, structs.statx(_find(task, directory, path, flags).attributes()))
    return 0


def _find(task: Task, directory: int, path: bytes, flags: int) -> Node | OpenFile:
    if not path and flags & AT_EMPTY_PATH and directory != AT_FDCWD:
        return task.process.files.get(directory)
    return locate(task, directory, path, flags).node


def access(task: Task, path: bytes, mode: int) -> int:
    return faccessat2(task, AT_FDCWD, path, mode, 0)


def faccessat(task: Task, directory: int, path: bytes, mode: int) -> int:
    return faccessat2(task, directory, path, mode, 0)


def faccessat2(task: Task, directory: int, path: bytes, mode: int, flags: int) -> int:
    if mode & ~7:
        raise SyscallError(errno.EINVAL)
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EACCESS | AT_EMPTY_PATH)
    caller = caller_of(task)
    if not flags & AT_EACCESS:
        identity = task.process.credentials
        caller = Caller(task.process.fs, _RealUser(identity.ruid, identity.rgid, identity.groups), task)
    if not path and flags & AT_EMPTY_PATH:
        if directory != AT_FDCWD and task.process.files.get(directory).location is None:
            caller.check(task.process.files.get(directory).attributes(), mode)
            return 0
        location = location_of(task, directory)
    else:
        start = start_of(task, directory, path)
        location = resolve(caller, start, path, follow=not flags & AT_SYMLINK_NOFOLLOW)
    _check_access(caller, location, mode)
    return 0


def _check_access(caller: Caller, location: Location, mode: int) -> None:
    if not mode:
        return
    attributes = location.node.attributes()
    if mode & os.X_OK and modes.S_ISREG(attributes.mode) and location.mount.no_exec:
        raise SyscallError(errno.EACCES)
    caller.check(attributes, mode)
    writes_here = modes.S_ISREG(attributes.mode) or modes.S_ISDIR(attributes.mode) or modes.S_ISLNK(attributes.mode)
    if mode & os.W_OK and location.mount.read_only and writes_here:
        raise SyscallError(errno.EROFS)


def readlink(task: Task, path: bytes, buffer: int, size: int) -> int:
    return readlinkat(task, AT_FDCWD, path, buffer, size)


def readlinkat(task: Task, directory: int, path: bytes, buffer: int, size: int) -> int:
    if size <= 0:
        raise SyscallError(errno.EINVAL)
    if path:
        location = Walk(caller_of(task), start_of(task, directory, path)).to(path, read=True)
    else:
        location = location_of(task, directory)
    if not location.node.is_link:
        raise SyscallError(errno.EINVAL if path else errno.ENOENT)
    target = location.node.read_link(caller_of(task))[:size]
    task.space.write(buffer, target)
    return len(target)


def statfs(task: Task, path: bytes, buffer: int) -> int:
    return _write_statistics(task, resolve(caller_of(task), task.process.fs.directory, path), buffer)


def ustat(task: Task, device: int, buffer: int) -> int:
    """The older call for the same, which names a file system by the device number of its files."""
    for mount in task.process.fs.mounts:
        if mount.fs.device & 0xFFFF_FFFF == device:
            task.space.write(buffer, structs.ustat(mount.fs.statistics()))
            return 0
    raise SyscallError(errno.EINVAL)


def fstatfs(task: Task, fd: int, buffer: int) -> int:
    return _write_statistics(task, task.process.files.get(fd).location, buffer)


def _write_statistics(task: Task, location: Location | None, buffer: int) -> int:
    if location is None:
        task.space.write(buffer, structs.statfs(_ANONYMOUS, 0, 0))
    else:
        mount = location.mount
        task.space.write(buffer, structs.statfs(mount.fs.statistics(), mount.fs.device, mount.flags))
    return 0
