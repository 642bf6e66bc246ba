"""Open files and the descriptor table of a process.

An `OpenFile` is Linux's open file description: what several descriptors may share. Here are the base, the files of the host's
file system and the table; the three standard streams live in `streams`. No guest memory and no event loop in here: reads and
writes are of bytes, and a file that would block raises BlockingIOError. Source: open(2), lseek(2), getdents(2), fcntl(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.vfs import Node
    from asynckvm.platform import HostFile, Machine

# One host call moves at most this much, so that the event loop is never long without a turn.
CHUNK: Final = 1 << 20
DESCRIPTORS_MAX: Final = 256

O_ACCESS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
O_LARGEFILE: Final = 0o100000
# What fcntl(F_SETFL) may change.
O_CHANGEABLE: Final = os.O_APPEND | os.O_NONBLOCK | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME

# Requests that only ask, with the size of their answer, <asm-generic/ioctls.h>: TCGETS, TIOCGWINSZ, FIONREAD.
_IOCTL_QUERIES: Final = {0x5401: 36, 0x5413: 8, 0x541B: 4}
_DIRENT: Final = struct.Struct("<QqHB")
_DT_UNKNOWN: Final = 0


class OpenFile:
    """An open file description. The base refuses everything; `flags` are those of open(2), `references` counts descriptors."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.references = 0

    @property
    def readable(self) -> bool:
        return self.flags & (O_ACCESS | os.O_PATH) in (os.O_RDONLY, os.O_RDWR)

    @property
    def writable(self) -> bool:
        return self.flags & (O_ACCESS | os.O_PATH) in (os.O_WRONLY, os.O_RDWR)

    @property
    def positioned(self) -> bool:
        """Whether reads go on to the end of the file, as with regular files, instead of ending with what is there."""
        return False

    def read(self, length: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def write(self, data: bytes) -> int:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def seek(self, offset: int, whence: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    async def ready(self, *, writing: bool) -> None:  # noqa: ARG002
        """Wait until read() or write() is worth another try after a BlockingIOError."""
        raise SyscallError(errno.EAGAIN)

    def status(self) -> os.stat_result:
        raise SyscallError(errno.EBADF)

    def entries(self, capacity: int) -> bytes:  # noqa: ARG002
        """The next struct linux_dirent64 records that fit."""
        raise SyscallError(errno.ENOTDIR)

    def query(self, request: int) -> bytes:  # noqa: ARG002
        """The answer to an ioctl(2) that only asks."""
        raise SyscallError(errno.ENOTTY)

    def map_file(self, machine: Machine) -> HostFile:  # noqa: ARG002
        """The file for mmap(2)."""
        raise SyscallError(errno.ENODEV)

    def close(self) -> None:
        """Called once, when the last descriptor is closed."""


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

    def status(self) -> os.stat_result:
        return os.fstat(self.fd)

    def query(self, request: int) -> bytes:
        size = _IOCTL_QUERIES.get(request)
        if size is None:
            raise SyscallError(errno.ENOTTY)
        return fcntl.ioctl(self.fd, request, bytes(size))

    def map_file(self, machine: Machine) -> HostFile:
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

    def status(self) -> os.stat_result:
        return os.fstat(self.node.fd)

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

    def status(self) -> os.stat_result:
        return os.fstat(self.node.fd)


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


class DescriptorTable:
    """File descriptors of one process: small numbers to open files, with each its own close-on-exec flag."""

    def __init__(self, limit: int = DESCRIPTORS_MAX) -> None:
        self.limit = limit
        self._slots: dict[int, OpenFile] = {}
        self._close_on_exec: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, fd: int) -> OpenFile:
        file = self._slots.get(fd)
        if file is None:
            raise SyscallError(errno.EBADF)
        return file

    def add(self, file: OpenFile, *, lowest: int = 0, close_on_exec: bool = False) -> int:
        """The lowest free number from `lowest` on. EMFILE when there is none; then `file` is closed if nobody has it."""
        fd = lowest
        while fd in self._slots:
            fd += 1
        if fd >= self.limit:
            if not file.references:
                file.close()
            raise SyscallError(errno.EMFILE)
        self._set(fd, file, close_on_exec=close_on_exec)
        return fd

    def replace(self, fd: int, file: OpenFile, *, close_on_exec: bool = False) -> int:
        """As dup2: `fd` becomes `file`, whatever it was."""
        if not 0 <= fd < self.limit:
            raise SyscallError(errno.EBADF)
        file.references += 1  # held, in case closing `fd` would end it
        if fd in self._slots:
            self.close(fd)
        self._set(fd, file, close_on_exec=close_on_exec)
        file.references -= 1
        return fd

    def close(self, fd: int) -> None:
        file = self.get(fd)
        del self._slots[fd]
        self._close_on_exec.discard(fd)
        file.references -= 1
        if not file.references:
            file.close()

    def close_all(self) -> None:
        for fd in list(self._slots):
            self.close(fd)

    def close_range(self, first: int, last: int) -> None:
        for fd in [fd for fd in self._slots if first <= fd <= last]:
            self.close(fd)

    def closes_on_exec(self, fd: int) -> bool:
        self.get(fd)
        return fd in self._close_on_exec

    def set_close_on_exec(self, fd: int, *, value: bool) -> None:
        self.get(fd)
        (self._close_on_exec.add if value else self._close_on_exec.discard)(fd)

    def set_range_close_on_exec(self, first: int, last: int) -> None:
        self._close_on_exec.update(fd for fd in self._slots if first <= fd <= last)

    def _set(self, fd: int, file: OpenFile, *, close_on_exec: bool) -> None:
        self._slots[fd] = file
        file.references += 1
        if close_on_exec:
            self._close_on_exec.add(fd)
