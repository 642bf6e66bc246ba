"""open(2): find or create the file, check what may be done with it, make the open file.

FIFOs are found here and opened by who knows pipes, because that may wait. Source: open(2), openat2(2), execve(2) for programs.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux import busy
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import IN_MODIFY
from asynckvm.linux.files.memory import MemoryFile
from asynckvm.linux.files.open_file import O_ACCESS, O_LARGEFILE
from asynckvm.linux.files.path_only import PathOnly
from asynckvm.linux.vfs.changes import without_privileges
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.names import check_changes, find_child, make_in, new_owner
from asynckvm.linux.vfs.node import Change
from asynckvm.linux.vfs.resolve import Walk

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.vfs.caller import Caller

O_TMPFILE: Final = 0o20200000
# What is done at once and not kept in the flags of the open file.
_ONCE: Final = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
_CREATES: Final = os.O_CREAT | O_TMPFILE & ~os.O_DIRECTORY
_WANTED: Final = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}
_PATH_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_SPECIAL: Final = (b"", b".", b"..")
# Somebody else on the host may create or remove the same name again and again.
_ATTEMPTS: Final = 8


class Found(NamedTuple):
    """What is to be opened."""

    location: Location
    created: bool


def open_file(caller: Caller, start: Location, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> OpenFile:
    """Open what is no FIFO."""
    return open_found(caller, find(caller, start, path, flags, mode, resolve), flags)


def find_program(caller: Caller, start: Location, path: bytes, *, follow: bool = True) -> OpenFile:
    """A file to be executed, by its path; b"" is `start` itself. Errors as execve(2) has them."""
    location = Walk(caller, start).to(path, follow=follow) if path else start
    if location.node.is_link:
        raise SyscallError(errno.ELOOP)
    return open_program(caller, location)


def open_program(caller: Caller, location: Location) -> OpenFile:
    """A regular file to be executed, for reading. EACCES when the caller may not, or nobody may from there."""
    attributes = location.node.attributes()
    if not stat.S_ISREG(attributes.mode) or location.mount.no_exec:
        raise SyscallError(errno.EACCES)
    caller.check(attributes, os.X_OK)
    # A memory file may be executed by who made it: the descriptor of memfd_create(2) does not count as a writer.
    if caller.task is not None and location.mount is not caller.fs.mounts.memory:
        busy.check_not_written(caller.task.process.kernel, attributes)
    return _open(location, os.O_RDONLY)


def find(caller: Caller, start: Location, path: bytes, flags: int, mode: int, resolve: int = 0) -> Found:
    """Walk, and create what is missing when `flags` ask for it."""
    walk = Walk(caller, start, resolve)
    if flags & os.O_PATH or not flags & _CREATES:
        return Found(walk.to(path, follow=not flags & os.O_NOFOLLOW), created=False)
    if flags & O_TMPFILE == O_TMPFILE:
        return Found(_unnamed(caller, walk.to(path), flags, mode), created=True)
    for _ in range(_ATTEMPTS):
        found = _find_or_create(walk, path, flags, mode)
        if found is not None:
            return found
        walk = Walk(caller, start, resolve)
    raise SyscallError(errno.EAGAIN)


def _find_or_create(walk: Walk, path: bytes, flags: int, mode: int) -> Found | None:
    """None when the name appeared between looking and creating."""
    while True:
        name, slash = walk.to_parent(path)
        if name in _SPECIAL:
            raise SyscallError(errno.EEXIST if flags & os.O_EXCL else errno.EISDIR)
        if slash:
            raise SyscallError(errno.EISDIR)
        child = find_child(walk, name)
        if child is None:
            try:
                return Found(make_in(walk.caller, walk.location, name, stat.S_IFREG | mode & 0o7777), created=True)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                return None
        if flags & os.O_EXCL:
            raise SyscallError(errno.EEXIST)
        if not child.node.is_link or flags & os.O_NOFOLLOW:
            return Found(child, created=False)
        target = walk.follow(child)
        if target is None:
            return Found(walk.location, created=False)
        path = target


def _unnamed(caller: Caller, location: Location, flags: int, mode: int) -> Location:
    if not location.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    if flags & O_ACCESS == os.O_RDONLY:
        raise SyscallError(errno.EINVAL)
    owner, mode = new_owner(caller, check_changes(caller, location), stat.S_IFREG | mode & 0o7777)
    entry = location.node.make_unnamed(location.entry, stat.S_IMODE(mode), owner, linkable=not flags & os.O_EXCL)
    return Location(location.mount, entry)


def check_open(caller: Caller, found: Found, flags: int) -> Attributes:
    """Whether the caller may open it with these flags. Raises SyscallError."""
    location = found.location
    attributes = location.node.attributes()
    mode = attributes.mode
    if stat.S_ISLNK(mode):
        raise SyscallError(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP)
    if flags & os.O_DIRECTORY and flags & O_TMPFILE != O_TMPFILE and not stat.S_ISDIR(mode):
        raise SyscallError(errno.ENOTDIR)
    writing = flags & O_ACCESS != os.O_RDONLY
    if stat.S_ISDIR(mode) and (writing or flags & (os.O_CREAT | os.O_TRUNC)):
        raise SyscallError(errno.EISDIR)
    if stat.S_ISSOCK(mode):
        raise SyscallError(errno.ENXIO)
    if found.created:
        return attributes
    wanted = _WANTED.get(flags & O_ACCESS, os.R_OK | os.W_OK)
    changing = writing or bool(flags & os.O_TRUNC)
    if changing and stat.S_ISREG(mode) and location.mount.read_only:
        raise SyscallError(errno.EROFS)
    caller.check(attributes, wanted | (os.W_OK if flags & os.O_TRUNC else 0))
    if flags & os.O_NOATIME and not caller.owns(attributes):
        raise SyscallError(errno.EPERM)
    if changing and caller.task is not None and stat.S_ISREG(mode):
        busy.check_not_executed(caller.task.process.kernel, attributes)
    return attributes


def open_found(caller: Caller, found: Found, flags: int) -> OpenFile:
    """The open file for what `find` found."""
    location = found.location
    if flags & os.O_PATH:
        if flags & os.O_DIRECTORY and not location.node.is_directory:
            raise SyscallError(errno.ENOTDIR)
        location.node.settle()
        return PathOnly(location, flags & _PATH_FLAGS)
    mode = check_open(caller, found, flags).mode
    if found.created:
        flags &= ~os.O_TRUNC
    file = _open(location, flags)
    file.created = found.created
    if not caller.is_root:
        if flags & os.O_TRUNC and (kept := without_privileges(mode)) is not None:
            location.node.change(Change(mode=kept))
        if isinstance(file, MemoryFile):
            file.keeps_privileges = False
    watches = caller.fs.mounts.watches
    if flags & os.O_TRUNC:
        watches.about(location, IN_MODIFY)
    watches.opened(file)
    return file


def _open(location: Location, flags: int) -> OpenFile:
    file = location.node.open(flags, location)
    file.flags = kept_flags(flags)
    file.location = location
    location.node.settle()
    return file


def kept_flags(flags: int) -> int:
    """Those that F_GETFL shows."""
    return flags & ~_ONCE | O_LARGEFILE
