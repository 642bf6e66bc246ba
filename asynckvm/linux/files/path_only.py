"""A file opened with O_PATH: a handle on a place, with a status and nothing else. Source: open(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.open_file import OpenFile

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs import Location


class PathOnly(OpenFile):
    """Of any type of file. What needs more answers EBADF."""

    location: Location

    def __init__(self, location: Location, flags: int) -> None:
        super().__init__(flags)
        self.location = location

    def attributes(self) -> Attributes:
        return self.location.node.attributes()

    def status(self) -> bytes:
        return self.location.node.status()

    def read(self, length: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def write(self, data: bytes) -> int:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def seek(self, offset: int, whence: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def entries(self, capacity: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def truncate(self, length: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def allocate(self, mode: int, offset: int, length: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def sync(self) -> None:
        raise SyscallError(errno.EBADF)
