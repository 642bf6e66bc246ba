"""getdents64(2), getcwd(2), chdir(2), chroot(2), umask(2), and mount(2), which is the host's business."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.syscalls.paths import caller_of
from asynckvm.linux.vfs import Location, resolve

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_DIRENT64: Final = struct.Struct("<QqHB")
_DIRENT: Final = struct.Struct("<QqH")


def getdents64(task: Task, fd: int, buffer: int, size: int) -> int:
    return _write_entries(task, fd, buffer, size, old=False)


def getdents(task: Task, fd: int, buffer: int, size: int) -> int:
    """With the type of a file in the last byte of its record, and so records of the same length or shorter by some bytes."""
    return _write_entries(task, fd, buffer, size, old=True)


def _write_entries(task: Task, fd: int, buffer: int, size: int, *, old: bool) -> int:
    file = task.process.files.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    position = file.seek(0, os.SEEK_CUR) if old else 0
    entries = file.entries(min(size, CHUNK))
    if old:
        entries = _old_records(entries)
        if len(entries) > size:
            file.seek(position, os.SEEK_SET)
            raise SyscallError(errno.EINVAL)
    task.space.write(buffer, entries)
    return len(entries)


def _old_records(entries: bytes) -> bytes:
    """struct linux_dirent in the room of struct linux_dirent64: its header is a byte shorter, and its type comes last."""
    records, position = bytearray(), 0
    while position < len(entries):
        inode, following, length, kind = _DIRENT64.unpack_from(entries, position)
        name = entries[position + _DIRENT64.size : position + length].split(b"\0", 1)[0]
        record = _DIRENT.pack(inode, following, length) + name
        records += record.ljust(length - 1, b"\0") + bytes([kind])
        position += length
    return bytes(records)


def getcwd(task: Task, buffer: int, size: int) -> int:
    fs = task.process.fs
    if fs.directory.entry.deleted:
        raise SyscallError(errno.ENOENT)
    path = fs.directory.shown_from(fs.root) + b"\0"
    if len(path) > size:
        raise SyscallError(errno.ERANGE)
    task.space.write(buffer, path)
    return len(path)


def chdir(task: Task, path: bytes) -> int:
    fs = task.process.fs
    fs.directory = _entered(task, resolve(caller_of(task), fs.directory, path))
    return 0


def fchdir(task: Task, fd: int) -> int:
    location = task.process.files.get(fd).location
    if location is None:
        raise SyscallError(errno.ENOTDIR)
    task.process.fs.directory = _entered(task, location)
    return 0


def chroot(task: Task, path: bytes) -> int:
    """For the root user, as a process with CAP_SYS_CHROOT."""
    fs = task.process.fs
    location = _entered(task, resolve(caller_of(task), fs.directory, path))
    if not caller_of(task).is_root:
        raise SyscallError(errno.EPERM)
    fs.root = location
    return 0


def _entered(task: Task, location: Location) -> Location:
    if not location.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    caller_of(task).check(location.node.attributes(), os.X_OK)
    location.node.settle()
    return location


def umask(task: Task, mask: int) -> int:
    fs = task.process.fs
    old, fs.umask = fs.umask, mask & 0o777
    return old
