"""Changes in a writable tree of the host: calls relative to a directory that was reached through `openat2`, one name each.

None of them follows a link in that name. Source: mkdirat(2), renameat2(2), linkat(2), fchownat(2), utimensat(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs.node import NOW
from asynckvm.linux.vfs.openat2 import open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs.host import HostEntry
    from asynckvm.linux.vfs.node import Change, Owner

_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
# A set-user-ID program made by a guest would be one on the host too.
_MODE_FILE: Final = 0o1777
_MODE_DIRECTORY: Final = 0o3777


@contextlib.contextmanager
def directory(entry: HostEntry | None) -> Iterator[int]:
    """A descriptor of the directory, for changes in it."""
    if entry is None:
        raise SyscallError(errno.EBUSY)  # the root of a tree has no name that could change
    if not entry.tree.writable:
        raise SyscallError(errno.EROFS)
    fd = entry.reach(os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def make(fd: int, name: bytes, mode: int, owner: Owner, target: bytes) -> None:
    """A new name in the directory `fd`, with exactly this mode, and this owner where the host lets it be given away."""
    kind, mode = stat.S_IFMT(mode), allowed(mode)
    check_name(name)
    if kind == stat.S_IFREG:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd))
    elif kind == stat.S_IFDIR:
        os.mkdir(name, mode, dir_fd=fd)
    elif kind == stat.S_IFLNK:
        os.symlink(target, name, dir_fd=fd)
    elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
        os.mknod(name, kind | mode, dir_fd=fd)
    else:
        raise SyscallError(errno.EPERM)
    if os.geteuid() == 0 and owner != (0, os.getegid()):
        os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        made = open_beneath(fd, name)
        try:
            # Whatever the umask of this process took away.
            os.chmod(f"/proc/self/fd/{made}", mode)  # noqa: PTH101
        finally:
            os.close(made)


def open_made(entry: HostEntry, flags: int) -> int:
    """Open a regular file that was just made, whatever its mode."""
    fd = entry.reach()
    path = f"/proc/self/fd/{fd}"
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.chmod(path, mode | stat.S_IRUSR | stat.S_IWUSR)  # noqa: PTH101
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        finally:
            os.chmod(path, mode)  # noqa: PTH101
    finally:
        os.close(fd)


def rename(source: int, old: bytes, target: int, new: bytes, flags: int) -> None:
    check_name(old)
    check_name(new)
    if _renameat2(source, old, target, new, flags):
        raise SyscallError(ctypes.get_errno())


def change(path: bytes, wanted: Change, before: Attributes, directory: int | None = None) -> None:
    """Of the file at `path`: a magic link of a descriptor, or a symbolic link in `directory`."""
    follow = directory is None
    if wanted.user is not None or wanted.group is not None:
        user, group = (-1 if number is None else number for number in (wanted.user, wanted.group))
        os.chown(path, user, group, dir_fd=directory, follow_symlinks=follow)
    if wanted.mode is not None:
        if not follow:
            raise SyscallError(errno.EOPNOTSUPP)
        os.chmod(path, allowed(stat.S_IFMT(before.mode) | wanted.mode))  # noqa: PTH101
    if wanted.accessed is not None or wanted.modified is not None:
        now = time.time_ns()
        times = [
            old if new is None else now if new == NOW else new
            for new, old in ((wanted.accessed, before.accessed), (wanted.modified, before.modified))
        ]
        os.utime(path, ns=(times[0], times[1]), dir_fd=directory, follow_symlinks=follow)


def allowed(mode: int) -> int:
    """The permissions of `mode` that a guest may give."""
    return mode & (_MODE_DIRECTORY if stat.S_ISDIR(mode) else _MODE_FILE)


def check_name(name: bytes) -> None:
    """A name for the host is one name."""
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise SyscallError(errno.EINVAL)
