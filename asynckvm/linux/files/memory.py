"""Open regular files whose bytes are in memory: those of tmpfs, and of memfd_create(2), which differ by having no name.

Source: tmpfs(5), lseek(2), fcntl(2) for seals.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.host_calls import FALLOC_PUNCH_HOLE
from asynckvm.linux.files.open_file import CHUNK, OpenFile, sought

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs.content import Content
    from asynckvm.platform import HostFile, Machine

F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16
SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE


class MemoryInode(Protocol):
    """What the open file needs of its inode."""

    content: Content
    # Seals of fcntl(F_ADD_SEALS); F_SEAL_SEAL for all but sealable memory files.
    seals: int

    def attributes(self) -> Attributes: ...
    def accessed_now(self) -> None: ...
    def modified_now(self) -> None: ...
    def drop_privileges(self) -> None: ...


class MemoryFile(OpenFile):
    """An open file description of a file in memory."""

    def __init__(self, inode: MemoryInode, flags: int) -> None:
        super().__init__(flags)
        self.inode = inode
        # Whether set-user-ID bits survive a write, as they do when root writes.
        self.keeps_privileges = True
        self._position = 0

    @property
    def positioned(self) -> bool:
        return True

    def read(self, length: int) -> bytes:
        data = self.pread(length, self._position)
        self._position += len(data)
        return data

    def pread(self, length: int, offset: int) -> bytes:
        data = self.inode.content.read(offset, min(length, CHUNK))
        self.inode.accessed_now()
        return data

    def write(self, data: bytes) -> int:
        if self.flags & os.O_APPEND:
            self._position = self.inode.content.size
        written = self._write(data, self._position)
        self._position += written
        return written

    def pwrite(self, data: bytes, offset: int) -> int:
        # As Linux: O_APPEND wins over the offset.
        return self._write(data, self.inode.content.size if self.flags & os.O_APPEND else offset)

    def _write(self, data: bytes, offset: int) -> int:
        content = self.inode.content
        self._check_seals(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
        if offset + len(data) > content.size and self.inode.seals & F_SEAL_GROW:
            if offset >= content.size:
                raise SyscallError(errno.EPERM)
            data = data[: content.size - offset]
        written = content.write(offset, data)
        if written:
            self._modified()
        return written

    def seek(self, offset: int, whence: int) -> int:
        content = self.inode.content
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            offset, whence = content.seek(offset, data=whence == os.SEEK_DATA), os.SEEK_SET
        self._position = sought(self._position, offset, whence, content.size)
        return self._position

    def truncate(self, length: int) -> None:
        content = self.inode.content
        self._check_seals((F_SEAL_SHRINK if length < content.size else 0) | (F_SEAL_GROW if length > content.size else 0))
        content.truncate(length)
        self._modified()

    def allocate(self, mode: int, offset: int, length: int) -> None:
        content = self.inode.content
        if mode & FALLOC_PUNCH_HOLE:
            self._check_seals(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
        elif offset + length > content.size:
            self._check_seals(F_SEAL_GROW)
        content.allocate(mode, offset, length)
        self._modified()

    def _modified(self) -> None:
        self.inode.modified_now()
        if not self.keeps_privileges:
            self.inode.drop_privileges()

    def sync(self) -> None:
        """There is nothing behind it."""

    def attributes(self) -> Attributes:
        return self.inode.attributes()

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:
        if writable:
            self._check_seals(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
        return self.inode.content.map_file(machine, writable=writable, length=length)

    # ------------------------------------------------------------ seals

    def add_seals(self, seals: int) -> None:
        """fcntl(F_ADD_SEALS)."""
        if not self.writable:
            raise SyscallError(errno.EPERM)
        if seals & ~SEALS:
            raise SyscallError(errno.EINVAL)
        if self.inode.seals & F_SEAL_SEAL:
            raise SyscallError(errno.EPERM)
        if seals & F_SEAL_WRITE and not self.inode.seals & F_SEAL_WRITE and self.inode.content.mapped_writable:
            raise SyscallError(errno.EBUSY)
        self.inode.seals |= seals

    @property
    def seals(self) -> int:
        return self.inode.seals

    def _check_seals(self, forbidding: int) -> None:
        if self.inode.seals & forbidding:
            raise SyscallError(errno.EPERM)
