"""Open files of the host's file system: regular files, harmless devices, directories. Source: open(2), lseek(2), getdents(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files.open_file import CHUNK, OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Node
    from asynckvm.platform import HostFile, Machine

# Requests that only ask, with the size of their answer, <asm-generic/ioctls.h>: TCGETS, TIOCGWINSZ, FIONREAD.
_IOCTL_QUERIES: Final = {0x5401: 36, 0x5413: 8, 0x541B: 4}
_DIRENT: Final = struct.Struct("<QqHB")
_DT_UNKNOWN: Final = 0


class HostDescriptor(OpenFile):
    """A host descriptor whose reads and writes do not block: a regular file, a device such as /dev/null. Owns `fd`."""

    def __init__(self, fd: int, flags: int) -> None:
        super().__init__(flags)
        self.fd = fd
        self._mapped: HostFile | None = None

    @property
    def positioned(self) -> bool:
        return stat.S_ISREG(os.fstat(self.fd).st_mode)

    def read(self, length: int) -> bytes:
        return os.read(self.fd, min(length, CHUNK))

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self.fd, min(length, CHUNK), offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        return os.pwrite(self.fd, data, offset)

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self.fd, offset, whence)

    def attributes(self) -> Attributes:
        return Attributes.from_host(os.fstat(self.fd))

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        size = _IOCTL_QUERIES.get(request)
        if size is None:
            raise SyscallError(errno.ENOTTY)
        task.space.write(argument, fcntl.ioctl(self.fd, request, bytes(size)))
        return 0

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:  # noqa: ARG002
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise SyscallError(errno.ENODEV)
        if self._mapped is None:
            self._mapped = machine.open_file(self.fd)
        return self._mapped

    def close(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
        os.close(self.fd)


class Directory(OpenFile):
    """An open directory. `node` is where paths relative to it start; the host descriptor `fd` is owned, None with O_PATH."""

    def __init__(self, node: Node, fd: int | None, flags: int) -> None:
        super().__init__(flags)
        self.node = node
        self.fd = fd
        self._position = 0
        self._entries: Iterator[bytes] | None = None
        self._waiting = b""

    def read(self, length: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def attributes(self) -> Attributes:
        return Attributes.from_host(os.fstat(self.node.fd))

    def seek(self, offset: int, whence: int) -> int:
        """Positions are those that getdents64 reported in d_off: numbers of entries."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence != os.SEEK_SET:
            raise SyscallError(errno.EINVAL)
        if not 0 <= offset <= INT64_MAX:
            raise SyscallError(errno.EINVAL)
        if offset != self._position:
            self._entries, self._waiting, self._position = None, b"", offset
        return offset

    def entries(self, capacity: int) -> bytes:
        if self.fd is None:
            raise SyscallError(errno.EBADF)
        if self._entries is None:
            self._entries = self._scan(self.fd, skip=self._position)
        found = bytearray()
        while record := self._waiting or next(self._entries, b""):
            if len(found) + len(record) > capacity:
                self._waiting = record
                if not found:
                    raise SyscallError(errno.EINVAL)
                break
            self._waiting = b""
            found += record
            self._position += 1
        return bytes(found)

    def _scan(self, fd: int, skip: int) -> Iterator[bytes]:
        os.lseek(fd, 0, os.SEEK_SET)
        parent = self.node.parent or self.node
        records = [(b".", self.node.status.st_ino, stat.S_IFDIR), (b"..", parent.status.st_ino, stat.S_IFDIR)]
        for number, (name, inode, mode) in enumerate(records, 1):
            if number > skip:
                yield _dirent(name, inode, mode, number)
        with os.scandir(fd) as scan:
            for number, entry in enumerate(scan, len(records) + 1):
                if number > skip:
                    yield _dirent(os.fsencode(entry.name), entry.inode(), _entry_mode(entry), number)

    def close(self) -> None:
        self._entries = None
        if self.fd is not None:
            os.close(self.fd)


class PathOnly(OpenFile):
    """Any file but a directory, opened with O_PATH: it has a status and nothing else."""

    def __init__(self, node: Node, flags: int) -> None:
        super().__init__(flags)
        self.node = node

    def attributes(self) -> Attributes:
        return Attributes.from_host(os.fstat(self.node.fd))


def _entry_mode(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return _DT_UNKNOWN


def _dirent(name: bytes, inode: int, mode: int, offset: int) -> bytes:
    length = (_DIRENT.size + len(name) + 1 + 7) & ~7
    # d_type is the file type of st_mode without its permission bits.
    return (_DIRENT.pack(inode, offset, length, mode >> 12) + name).ljust(length, b"\0")
