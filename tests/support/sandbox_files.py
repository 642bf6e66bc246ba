"""A sandbox's files without a sandbox: mounts, a user, and a few calls in the words of the `os` module, for tests of the vfs."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import (
    Budget,
    Caller,
    Change,
    FileSystem,
    FileSystemContext,
    Location,
    Mounts,
    Tmpfs,
    changes,
    names,
    opening,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.files import OpenFile

__all__ = ["Change", "Files", "User", "failure", "listed"]
MIB = 1 << 20


class User(NamedTuple):
    euid: int = 0
    egid: int = 0
    groups: tuple[int, ...] = ()


class Files:
    """What one process can do with paths. `mounts` may be shared with another one, of another user."""

    def __init__(self, fs: FileSystem | Mounts | None = None, user: User = User(), flags: int = 0) -> None:  # noqa: B008
        if not isinstance(fs, Mounts):
            fs = Mounts(fs if fs is not None else Tmpfs(Budget(64 * MIB, 4096)), flags)
        self.mounts = fs
        self.context = FileSystemContext(fs)
        self.caller = Caller(self.context, user)

    def as_user(self, number: int, *groups: int) -> Files:
        return Files(self.mounts, User(number, number, groups))

    def mount(self, fs: FileSystem, path: bytes, flags: int = 0) -> None:
        self.mounts.add(fs, self.find(path), flags)

    def find(self, path: bytes, *, follow: bool = True) -> Location:
        return resolve(self.caller, self.context.directory, path, follow=follow)

    def open(self, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o666, resolve_flags: int = 0) -> OpenFile:
        file = opening.open_file(self.caller, self.context.directory, path, flags, mode, resolve_flags)
        file.hold()
        return file

    def stat(self, path: bytes) -> Attributes:
        return self.find(path).node.attributes()

    def lstat(self, path: bytes) -> Attributes:
        return self.find(path, follow=False).node.attributes()

    def readlink(self, path: bytes) -> bytes:
        return self.find(path, follow=False).node.read_link(self.caller)

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        self._make(path, stat.S_IFDIR | mode)

    def mkfifo(self, path: bytes, mode: int = 0o666) -> None:
        self._make(path, stat.S_IFIFO | mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        self._make(path, stat.S_IFLNK | 0o777, target)

    def _make(self, path: bytes, mode: int, target: bytes = b"") -> None:
        names.make(self.caller, self.context.directory, path, mode, target)

    def unlink(self, path: bytes) -> None:
        names.unlink(self.caller, self.context.directory, path)

    def rmdir(self, path: bytes) -> None:
        names.remove_directory(self.caller, self.context.directory, path)

    def link(self, old: bytes, new: bytes) -> None:
        names.link(self.caller, self.find(old, follow=False), self.context.directory, new)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        directory = self.context.directory
        names.rename(self.caller, directory, old, directory, new, flags)

    def chmod(self, path: bytes, mode: int) -> None:
        changes.set_mode(self.caller, self.find(path), mode)

    def chown(self, path: bytes, user: int | None, group: int | None) -> None:
        changes.set_owner(self.caller, self.find(path), user, group)

    def truncate(self, path: bytes, length: int) -> None:
        changes.set_size(self.caller, self.find(path), length)

    def chdir(self, path: bytes) -> None:
        location = self.find(path)
        if not location.node.is_directory:
            raise SyscallError(errno.ENOTDIR)
        location.node.settle()
        self.context.directory = location

    def write(self, path: bytes, data: bytes, flags: int = os.O_TRUNC) -> None:
        file = self.open(path, os.O_WRONLY | os.O_CREAT | flags)
        try:
            assert file.write(data) == len(data)
        finally:
            file.release()

    def read(self, path: bytes) -> bytes:
        file = self.open(path)
        try:
            return b"".join(iter(lambda: file.read(1 << 16), b""))
        finally:
            file.release()

    def list(self, path: bytes) -> list[bytes]:
        file = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return [name for name in listed(file) if name not in (b".", b"..")]
        finally:
            file.release()


def listed(file: OpenFile, capacity: int = 4096) -> list[bytes]:
    """The names in an open directory, from its position on."""
    found = []
    while records := file.entries(capacity):
        while records:
            length = int.from_bytes(records[16:18], "little")
            found.append(records[19:length].split(b"\0", 1)[0])
            records = records[length:]
    return found


def failure(call: Callable[..., object], *arguments: object, **options: object) -> str:
    """The symbol of the error with which a call fails, "" when it does not."""
    try:
        call(*arguments, **options)
    except SyscallError as error:
        return error.name
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""
