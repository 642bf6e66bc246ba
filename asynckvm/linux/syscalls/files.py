"""System calls on files and descriptors, except for moving their bytes (`transfer`): a read-only view of the host."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK, O_LARGEFILE
from asynckvm.linux.files.host import Directory, HostDescriptor, PathOnly
from asynckvm.linux.syscalls import structs
from asynckvm.linux.vfs import Node

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EACCESS: Final = 0x200
_AT_NO_AUTOMOUNT: Final = 0x800
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_SYNC: Final = 0x6000
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_FD_CLOEXEC: Final = 1
_O_TMPFILE: Final = 0o20000000
_CLOSE_RANGE_CLOEXEC: Final = 4


# ---------------------------------------------------------------- opening and closing


def open_(task: Task, path: bytes, flags: int, mode: int) -> int:
    return openat(task, AT_FDCWD, path, flags, mode)


def openat(task: Task, directory: int, path: bytes, flags: int, mode: int) -> int:  # noqa: ARG001
    process = task.process
    if flags & _O_TMPFILE == _O_TMPFILE:
        raise SyscallError(errno.EROFS)
    try:
        node = process.view.resolve(_start(task, directory, path), path, follow=not flags & os.O_NOFOLLOW)
    except FileNotFoundError:
        # Only the last component may be missing, but then nothing could be created there either.
        raise SyscallError(errno.EROFS if flags & os.O_CREAT else errno.ENOENT) from None
    if flags & os.O_CREAT and flags & os.O_EXCL:
        raise SyscallError(errno.EEXIST)
    if flags & os.O_DIRECTORY and not node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    kept = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC) | O_LARGEFILE
    file: Directory | HostDescriptor | PathOnly
    if flags & os.O_PATH:
        file = Directory(node, None, kept) if node.is_directory else PathOnly(node, kept)
    else:
        fd = process.view.open(node, flags)
        file = Directory(node, fd, kept) if node.is_directory else HostDescriptor(fd, kept)
    return process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


def close(task: Task, fd: int) -> int:
    task.process.files.close(fd)
    return 0


def close_range(task: Task, first: int, last: int, flags: int) -> int:
    if first > last or flags & ~_CLOSE_RANGE_CLOEXEC:
        raise SyscallError(errno.EINVAL)
    files = task.process.files
    if flags & _CLOSE_RANGE_CLOEXEC:
        files.set_range_close_on_exec(first, last)
    else:
        files.close_range(first, last)
    return 0


def read_only(task: Task, *_: object) -> int:  # noqa: ARG001
    """Every call that would change the file system."""
    raise SyscallError(errno.EROFS)


# ---------------------------------------------------------------- descriptors


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


def fcntl(task: Task, fd: int, command: int, argument: int) -> int:
    files = task.process.files
    file = files.get(fd)
    if command in (_F_DUPFD, _F_DUPFD_CLOEXEC):
        if argument >= files.limit:
            raise SyscallError(errno.EINVAL)
        return files.add(file, lowest=argument, close_on_exec=command == _F_DUPFD_CLOEXEC)
    if command == _F_GETFD:
        return _FD_CLOEXEC if files.closes_on_exec(fd) else 0
    if command == _F_SETFD:
        files.set_close_on_exec(fd, value=bool(argument & _FD_CLOEXEC))
        return 0
    if command == _F_GETFL:
        return file.flags
    if command == _F_SETFL:
        file.set_flags(argument)
        return 0
    raise SyscallError(errno.EINVAL)


def ioctl(task: Task, fd: int, request: int, argument: int) -> int:
    return task.process.files.get(fd).ioctl(task, request, argument)


def lseek(task: Task, fd: int, offset: int, whence: int) -> int:
    return task.process.files.get(fd).seek(offset, whence)


def fadvise64(task: Task, fd: int, offset: int, length: int, advice: int) -> int:  # noqa: ARG001
    task.process.files.get(fd)
    return 0


def sync_file(task: Task, fd: int) -> int:
    task.process.files.get(fd)
    return 0


# ---------------------------------------------------------------- status


def stat(task: Task, path: bytes, buffer: int) -> int:
    return newfstatat(task, AT_FDCWD, path, buffer, 0)


def lstat(task: Task, path: bytes, buffer: int) -> int:
    return newfstatat(task, AT_FDCWD, path, buffer, _AT_SYMLINK_NOFOLLOW)


def fstat(task: Task, fd: int, buffer: int) -> int:
    task.space.write(buffer, structs.stat(task.process.files.get(fd).attributes()))
    return 0


def newfstatat(task: Task, directory: int, path: bytes, buffer: int, flags: int) -> int:
    if flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, structs.stat(_status(task, directory, path, flags)))
    return 0


def statx(task: Task, directory: int, path: bytes, flags: int, mask: int, buffer: int) -> int:
    if flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_EMPTY_PATH | _AT_STATX_SYNC) or mask >> 31:
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, structs.statx(_status(task, directory, path, flags)))
    return 0


def access(task: Task, path: bytes, mode: int) -> int:
    return faccessat2(task, AT_FDCWD, path, mode, 0)


def faccessat(task: Task, directory: int, path: bytes, mode: int) -> int:
    return faccessat2(task, directory, path, mode, 0)


def faccessat2(task: Task, directory: int, path: bytes, mode: int, flags: int) -> int:
    if mode & ~7 or flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_EACCESS | _AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    view = task.process.view
    view.check_access(view.resolve(_start(task, directory, path), path, follow=not flags & _AT_SYMLINK_NOFOLLOW), mode)
    return 0


def readlink(task: Task, path: bytes, buffer: int, size: int) -> int:
    return readlinkat(task, AT_FDCWD, path, buffer, size)


def readlinkat(task: Task, directory: int, path: bytes, buffer: int, size: int) -> int:
    if size <= 0:
        raise SyscallError(errno.EINVAL)
    target = task.process.view.read_link(_start(task, directory, path), path)[:size]
    task.space.write(buffer, target)
    return len(target)


def _status(task: Task, directory: int, path: bytes, flags: int) -> Attributes:
    if not path and flags & _AT_EMPTY_PATH:
        if directory == AT_FDCWD:
            return Attributes.from_host(os.fstat(task.process.directory.fd))
        return task.process.files.get(directory).attributes()
    node = task.process.view.resolve(_start(task, directory, path), path, follow=not flags & _AT_SYMLINK_NOFOLLOW)
    return Attributes.from_host(node.status)


def _start(task: Task, directory: int, path: bytes) -> Node:
    """Where a relative path begins."""
    if directory == AT_FDCWD or path.startswith(b"/"):
        return task.process.directory
    file = task.process.files.get(directory)
    if not isinstance(file, Directory):
        raise SyscallError(errno.ENOTDIR)
    return file.node


# ---------------------------------------------------------------- directories


def getdents64(task: Task, fd: int, buffer: int, size: int) -> int:
    file = task.process.files.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    entries = file.entries(min(size, CHUNK))
    task.space.write(buffer, entries)
    return len(entries)


def getcwd(task: Task, buffer: int, size: int) -> int:
    path = task.process.directory.path + b"\0"
    if len(path) > size:
        raise SyscallError(errno.ERANGE)
    task.space.write(buffer, path)
    return len(path)


def chdir(task: Task, path: bytes) -> int:
    process = task.process
    return _enter(task, process.view.resolve(process.directory, path))


def fchdir(task: Task, fd: int) -> int:
    file = task.process.files.get(fd)
    if not isinstance(file, Directory):
        raise SyscallError(errno.ENOTDIR)
    return _enter(task, file.node)


def _enter(task: Task, node: Node) -> int:
    if not node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    task.process.view.check_access(node, os.X_OK)
    task.process.directory = node
    return 0
