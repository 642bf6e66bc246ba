"""open(2) and its kin, close(2), memfd_create(2): system calls that make descriptors of files, and end them."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestStringError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.memory import MemoryFile
from asynckvm.linux.files.pipe import Pipe, open_fifo
from asynckvm.linux.syscalls.paths import AT_FDCWD, caller_of, check_flags, start_of
from asynckvm.linux.vfs import Location, Owner, opening
from asynckvm.linux.vfs.opening import O_TMPFILE
from asynckvm.linux.vfs.resolve import (
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from asynckvm.linux.vfs.tmpfs import File

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Caller

_CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_CLOEXEC = 2, 4
_OPEN_HOW: Final = struct.Struct("<QQQ")
_HOW_MAX: Final = 4096
_RESOLVE_ALL: Final = (
    RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED
)
# Every flag open(2) knows; it forgets others, openat2(2) refuses them.
_FLAGS: Final = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_APPEND | os.O_NONBLOCK | os.O_DSYNC
    | os.O_SYNC | os.O_ASYNC | os.O_DIRECT | 0o100000 | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC | os.O_PATH
    | O_TMPFILE
)  # fmt: skip
_PATH_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WANTS_MODE: Final = os.O_CREAT | O_TMPFILE & ~os.O_DIRECTORY
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_NOEXEC_SEAL, _MFD_EXEC = 1, 2, 8, 16
_MEMFD_NAME_MAX: Final = 249


def open_(task: Task, path: bytes, flags: int, mode: int) -> int | Awaitable[int]:
    return openat(task, AT_FDCWD, path, flags, mode)


def creat(task: Task, path: bytes, mode: int) -> int | Awaitable[int]:
    return openat(task, AT_FDCWD, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)


def openat(task: Task, directory: int, path: bytes, flags: int, mode: int) -> int | Awaitable[int]:
    flags &= _FLAGS
    if flags & os.O_PATH:
        flags &= _PATH_FLAGS
    return _open(task, directory, path, flags, mode & 0o7777 if flags & _WANTS_MODE else 0, 0)


def openat2(task: Task, directory: int, path: bytes, how: int, size: int) -> int | Awaitable[int]:
    if size < _OPEN_HOW.size:
        raise SyscallError(errno.EINVAL)
    if size > _HOW_MAX:
        raise SyscallError(errno.E2BIG)
    data = task.space.read(how, size)
    if any(data[_OPEN_HOW.size :]):
        raise SyscallError(errno.E2BIG)
    flags, mode, resolve = _OPEN_HOW.unpack_from(data)
    check_flags(flags, _FLAGS)
    check_flags(resolve, _RESOLVE_ALL)
    check_flags(mode, 0o7777 if flags & _WANTS_MODE else 0)
    if resolve & RESOLVE_BENEATH and resolve & RESOLVE_IN_ROOT:
        raise SyscallError(errno.EINVAL)
    if flags & os.O_PATH:
        check_flags(flags, _PATH_FLAGS)
    if resolve & RESOLVE_CACHED:
        if flags & (os.O_TRUNC | _WANTS_MODE):
            raise SyscallError(errno.EINVAL)
        raise SyscallError(errno.EAGAIN)  # nothing is cached
    return _open(task, directory, path, flags, mode, resolve)


def _open(task: Task, directory: int, path: bytes, flags: int, mode: int, resolve: int) -> int | Awaitable[int]:
    if flags & O_TMPFILE & ~os.O_DIRECTORY and (flags & O_TMPFILE != O_TMPFILE or flags & os.O_CREAT):
        raise SyscallError(errno.EINVAL)
    if flags & os.O_CREAT and flags & os.O_DIRECTORY:
        raise SyscallError(errno.EINVAL)
    task.process.files.check_room()  # before it makes, empties or waits for a file
    caller = caller_of(task)
    found = opening.find(caller, start_of(task, directory, path), path, flags, mode, resolve)
    if found.location.node.type == stat.S_IFIFO and not flags & os.O_PATH:
        opening.check_open(caller, found, flags)
        return _open_fifo(task, found.location, flags)
    leases = task.process.kernel.leases
    if leases and not flags & os.O_PATH and leases.hinders(found.location.node.identity, flags):
        return _open_leased(task, caller, found, flags)
    file = opening.open_found(caller, found, flags)
    return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


async def _open_leased(task: Task, caller: Caller, found: opening.Found, flags: int) -> int:
    opening.check_open(caller, found, flags)
    # What was looked at just now may be old news after the wait.
    found.location.node.settle()
    await task.process.kernel.leases.broken(task, found.location.node.identity, flags)
    file = opening.open_found(caller, found, flags)
    return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


async def _open_fifo(task: Task, location: Location, flags: int) -> int:
    kernel, node = task.process.kernel, location.node
    endpoint = node.endpoint()
    if not isinstance(endpoint.pipe, Pipe):
        endpoint.pipe = Pipe(kernel.pipe_pages, node.attributes)
    file = await open_fifo(task, endpoint.pipe, flags)
    file.location = location
    location.node.settle()
    return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


def close(task: Task, fd: int) -> int:
    task.process.files.close(fd)
    return 0


def close_range(task: Task, first: int, last: int, flags: int) -> int:
    if first > last or flags & ~(_CLOSE_RANGE_CLOEXEC | _CLOSE_RANGE_UNSHARE):
        raise SyscallError(errno.EINVAL)
    process = task.process
    if flags & _CLOSE_RANGE_UNSHARE and process.files.users > 1:
        shared = process.files
        process.files = shared.copy()
        shared.drop()
    if flags & _CLOSE_RANGE_CLOEXEC:
        process.files.set_range_close_on_exec(first, last)
    else:
        process.files.close_range(first, last)
    return 0


def memfd_create(task: Task, name: int, flags: int) -> int:
    check_flags(flags, _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_NOEXEC_SEAL | _MFD_EXEC)
    if flags & _MFD_NOEXEC_SEAL and flags & _MFD_EXEC:
        raise SyscallError(errno.EINVAL)
    try:
        text = task.space.read_string(name, _MEMFD_NAME_MAX)
    except GuestStringError:
        raise SyscallError(errno.EINVAL) from None
    process = task.process
    mounts = process.fs.mounts
    owner = Owner(process.credentials.euid, process.credentials.egid)
    entry = mounts.unnamed.unnamed(b"memfd:" + text, 0o666 if flags & _MFD_NOEXEC_SEAL else 0o777, owner)
    assert isinstance(entry.node, File)
    if flags & (_MFD_ALLOW_SEALING | _MFD_NOEXEC_SEAL):
        entry.node.seals = 0
    file = MemoryFile(entry.node, opening.kept_flags(os.O_RDWR))
    file.location = Location(mounts.memory, entry)
    return process.files.add(file, close_on_exec=bool(flags & _MFD_CLOEXEC))
