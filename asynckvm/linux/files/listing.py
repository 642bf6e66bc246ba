"""An open directory whose entries are objects of this process, as in tmpfs and procfs, and the records of getdents64(2).

A position is a number that its entry keeps while it exists, so that a listing goes on where it was whatever is removed meanwhile.
Source: getdents64(2), readdir(3).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.open_file import OpenFile, sought

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs import Entry, Location

_DIRENT: Final = struct.Struct("<QqHB")


class Listed(NamedTuple):
    """One entry of a directory: `following` is the position after it, `mode` has its type."""

    following: int
    name: bytes
    inode: int
    mode: int


class ListedNode(Protocol):
    """A directory that tells its entries."""

    # Changes with every change of the entries.
    version: int

    def attributes(self) -> Attributes: ...
    def listing(self, entry: Entry, position: int) -> Iterator[Listed]:
        """The entries from `position` (0 at first) on, in the order of their positions, "." and ".." among them."""
        ...


class Listing(OpenFile):
    """An open directory, which has a location always."""

    location: Location

    def __init__(self, node: ListedNode, location: Location, flags: int) -> None:
        super().__init__(flags)
        self.location = location
        self._node = node
        self._position = 0
        self._rest: Iterator[Listed] | None = None
        self._version = node.version

    @property
    def pollable(self) -> bool:
        return False

    def read(self, length: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def attributes(self) -> Attributes:
        return self._node.attributes()

    def sync(self) -> None:
        """There is nothing behind it."""

    def seek(self, offset: int, whence: int) -> int:
        self._position, self._rest = sought(self._position, offset, whence), None
        return self._position

    def entries(self, capacity: int) -> bytes:
        if self.location.entry.deleted:
            raise SyscallError(errno.ENOENT)
        if self._rest is None or self._version != self._node.version:
            self._rest = self._node.listing(self.location.entry, self._position)
            self._version = self._node.version
        found = bytearray()
        for item in self._rest:
            record = dirent(item)
            if len(found) + len(record) > capacity:
                self._rest = None
                if not found:
                    raise SyscallError(errno.EINVAL)
                break
            found += record
            self._position = item.following
        return bytes(found)


def dirent(item: Listed) -> bytes:
    """struct linux_dirent64."""
    length = (_DIRENT.size + len(item.name) + 1 + 7) & ~7
    # d_type is the file type of st_mode without its permission bits.
    return (_DIRENT.pack(item.inode, item.following, length, item.mode >> 12) + item.name).ljust(length, b"\0")
