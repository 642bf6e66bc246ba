"""What system calls with paths have in common: on whose behalf, from where, and which location an *at call means.

No system call lives here. Source: openat(2), path_resolution(7).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import Caller, Location, Walk

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_REMOVEDIR: Final = 0x200
AT_EACCESS: Final = 0x200
AT_SYMLINK_FOLLOW: Final = 0x400
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000


def caller_of(task: Task) -> Caller:
    process = task.process
    return Caller(process.fs, process.credentials, task)


def start_of(task: Task, directory: int, path: bytes) -> Location:
    """Where `path` begins. EBADF, ENOTDIR; a descriptor beside an absolute path means nothing."""
    if directory == AT_FDCWD or path.startswith(b"/"):
        return task.process.fs.directory
    location = task.process.files.get(directory).location
    if location is None:
        raise SyscallError(errno.ENOTDIR)
    if path and not location.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    return location


def locate(task: Task, directory: int, path: bytes, flags: int = 0) -> Location:
    """What an *at call with AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH in `flags` works on."""
    if not path and flags & AT_EMPTY_PATH:
        return location_of(task, directory)
    return Walk(caller_of(task), start_of(task, directory, path)).to(path, follow=not flags & AT_SYMLINK_NOFOLLOW)


def location_of(task: Task, fd: int) -> Location:
    """Of an open file. EINVAL for one that has no place in any file system."""
    if fd == AT_FDCWD:
        return task.process.fs.directory
    location = task.process.files.get(fd).location
    if location is None:
        raise SyscallError(errno.EINVAL)
    return location


def check_flags(flags: int, known: int) -> None:
    if flags & ~known:
        raise SyscallError(errno.EINVAL)
