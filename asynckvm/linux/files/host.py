"""Open files that stand on a descriptor of the host: regular files and directories of shared trees, harmless devices.

The descriptor was opened by `vfs.host` or belongs to the host's user; nothing here opens a path. Source: open(2), lseek(2),
getdents64(2), fallocate(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.errors import OutOfMemoryError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files import host_calls
from asynckvm.linux.files.open_file import CHUNK, FIONREAD, OpenFile

if TYPE_CHECKING:
    from asynckvm.linux.task import Task
    from asynckvm.platform import DirectFile, DirectFiles, HostFile, Machine

# Requests that only ask, with the size of their answer, <asm-generic/ioctls.h>: TCGETS, TIOCGWINSZ and FIONREAD.
_IOCTL_QUERIES: Final = {0x5401: 36, 0x5413: 8, FIONREAD: 4}


class HostDescriptor(OpenFile):
    """A host descriptor whose reads and writes do not block: a regular file, a device such as /dev/null. Owns `fd`."""

    def __init__(self, fd: int, flags: int, *, regular: bool | None = None) -> None:
        super().__init__(flags)
        self.fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode) if regular is None else regular
        # Views of the file for mmap, by whether they may be stored to, with the bytes they cover.
        self._mapped: dict[bool, tuple[int, HostFile]] = {}
        # Owns `fd` once vCPUs read it, and is `still` then.
        self._direct: DirectFile | None = None

    @property
    def positioned(self) -> bool:
        return self._regular

    def set_flags(self, flags: int) -> None:
        super().set_flags(flags)
        if self._regular:
            current = fcntl.fcntl(self.fd, fcntl.F_GETFL)
            fcntl.fcntl(self.fd, fcntl.F_SETFL, current & ~os.O_APPEND | flags & os.O_APPEND)

    def read(self, length: int) -> bytes:
        with self.still:
            return os.read(self.fd, min(length, CHUNK))

    def write(self, data: bytes) -> int:
        with self.still:
            return os.write(self.fd, data)

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self.fd, min(length, CHUNK), offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        return os.pwrite(self.fd, data, offset)

    def seek(self, offset: int, whence: int) -> int:
        with self.still:
            return os.lseek(self.fd, offset, whence)

    def truncate(self, length: int) -> None:
        os.ftruncate(self.fd, length)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        host_calls.allocate(self.fd, mode, offset, length)

    def sync(self) -> None:
        """The host writes back by itself; waiting for its disk would hold up everybody on the event loop."""

    def attributes(self) -> Attributes:
        return Attributes.of_status(self.status())

    def status(self) -> bytes:
        return host_calls.status(self.fd)

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        size = _IOCTL_QUERIES.get(request)
        if size is None or (self._regular and request != FIONREAD):
            raise SyscallError(errno.ENOTTY)
        task.space.write(argument, fcntl.ioctl(self.fd, request, bytes(size)))
        return 0

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:
        if not self._regular:
            raise SyscallError(errno.ENODEV)
        covered, file = self._mapped.get(writable, (0, None))
        if file is None or length > covered:
            longer = machine.open_file(self.fd, writable=writable, length=length)
            if file is not None:
                file.close()
            file = longer
            self._mapped[writable] = length, file
        return file

    def direct(self, files: DirectFiles) -> DirectFile | None:
        if self._direct is None and self._regular and self.readable:
            with contextlib.suppress(OutOfMemoryError):
                self._direct = self.still = files.open(self.fd)
        return self._direct

    def close(self) -> None:
        for _, file in self._mapped.values():
            file.close()
        self._mapped.clear()
        # Its number is somebody else's from now on: who still asks must not reach that.
        fd, self.fd = self.fd, -1
        direct, self._direct, self.still = self._direct, None, OpenFile.still
        if direct is not None:
            direct.close()
        else:
            os.close(fd)


class HostDirectory(OpenFile):
    """An open directory of the host. Owns `fd`; positions are the host's own."""

    def __init__(self, fd: int, flags: int) -> None:
        super().__init__(flags)
        self.fd = fd

    @property
    def pollable(self) -> bool:
        return False

    def read(self, length: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EISDIR)

    def attributes(self) -> Attributes:
        return Attributes.of_status(self.status())

    def status(self) -> bytes:
        return host_calls.status(self.fd)

    def seek(self, offset: int, whence: int) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_CUR) or not -INT64_MAX <= offset <= INT64_MAX:
            raise SyscallError(errno.EINVAL)
        return os.lseek(self.fd, offset, whence)

    def sync(self) -> None:
        """As for files."""

    def entries(self, capacity: int) -> bytes:
        return host_calls.entries(self.fd, min(capacity, CHUNK))

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)
