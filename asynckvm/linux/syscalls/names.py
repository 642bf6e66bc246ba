"""mkdir(2), unlink(2), rename(2), link(2), symlink(2), mknod(2) and their *at forms: system calls that change names."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls.paths import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    caller_of,
    check_flags,
    locate,
    start_of,
)
from asynckvm.linux.vfs import names

if TYPE_CHECKING:
    from asynckvm.linux.task import Task


def mkdir(task: Task, path: bytes, mode: int) -> int:
    return mkdirat(task, AT_FDCWD, path, mode)


def mkdirat(task: Task, directory: int, path: bytes, mode: int) -> int:
    names.make(caller_of(task), start_of(task, directory, path), path, stat.S_IFDIR | mode & 0o1777)
    return 0


def mknod(task: Task, path: bytes, mode: int, device: int) -> int:
    return mknodat(task, AT_FDCWD, path, mode, device)


def mknodat(task: Task, directory: int, path: bytes, mode: int, device: int) -> int:  # noqa: ARG001
    """Files, FIFOs and sockets. A device would be one of the host's, so it is as if the capability for it lacked: EPERM."""
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR):
        raise SyscallError(errno.EPERM)
    if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        raise SyscallError(errno.EINVAL)
    names.make(caller_of(task), start_of(task, directory, path), path, kind | stat.S_IMODE(mode))
    return 0


def rmdir(task: Task, path: bytes) -> int:
    return unlinkat(task, AT_FDCWD, path, AT_REMOVEDIR)


def unlink(task: Task, path: bytes) -> int:
    return unlinkat(task, AT_FDCWD, path, 0)


def unlinkat(task: Task, directory: int, path: bytes, flags: int) -> int:
    check_flags(flags, AT_REMOVEDIR)
    remove = names.remove_directory if flags & AT_REMOVEDIR else names.unlink
    remove(caller_of(task), start_of(task, directory, path), path)
    return 0


def symlink(task: Task, target: bytes, path: bytes) -> int:
    return symlinkat(task, target, AT_FDCWD, path)


def symlinkat(task: Task, target: bytes, directory: int, path: bytes) -> int:
    names.make(caller_of(task), start_of(task, directory, path), path, stat.S_IFLNK | 0o777, target)
    return 0


def link(task: Task, old: bytes, new: bytes) -> int:
    return linkat(task, AT_FDCWD, old, AT_FDCWD, new, 0)


def linkat(task: Task, old_directory: int, old: bytes, new_directory: int, new: bytes, flags: int) -> int:
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)
    follow = 0 if flags & AT_SYMLINK_FOLLOW else AT_SYMLINK_NOFOLLOW
    source = locate(task, old_directory, old, follow | flags & AT_EMPTY_PATH)
    names.link(caller_of(task), source, start_of(task, new_directory, new), new)
    return 0


def rename(task: Task, old: bytes, new: bytes) -> int:
    return renameat2(task, AT_FDCWD, old, AT_FDCWD, new, 0)


def renameat(task: Task, old_directory: int, old: bytes, new_directory: int, new: bytes) -> int:
    return renameat2(task, old_directory, old, new_directory, new, 0)


def renameat2(task: Task, old_directory: int, old: bytes, new_directory: int, new: bytes, flags: int) -> int:
    source, target = start_of(task, old_directory, old), start_of(task, new_directory, new)
    names.rename(caller_of(task), source, old, target, new, flags)
    return 0
