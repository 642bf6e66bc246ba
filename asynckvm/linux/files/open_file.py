"""`OpenFile`, Linux's open file description: what descriptors of one or several processes share.

The base refuses everything, so each kind of file says only what it can do. No guest memory and no event loop in here: reads and
writes are of bytes, a file that would block raises BlockingIOError, and who wants to wait does so on `queue`.
Source: open(2), lseek(2), fcntl(2), poll(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.errors import InternalError
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.wait import READABLE, WRITABLE, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.dnotify import Notice
    from asynckvm.linux.files.account import OpenFileAccount
    from asynckvm.linux.owner import Owner
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Location
    from asynckvm.platform import DirectFile, DirectFiles, HostFile, Machine

# One host call moves at most this much, so that the event loop is never long without a turn.
CHUNK: Final = 1 << 20

# ioctl(2): how much could be read.
FIONREAD: Final = 0x541B
O_ACCESS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
O_LARGEFILE: Final = 0o100000
_MODE: Final = O_ACCESS | os.O_PATH
_READING: Final = frozenset({os.O_RDONLY, os.O_RDWR})
_WRITING: Final = frozenset({os.O_WRONLY, os.O_RDWR})
# What fcntl(F_SETFL) may change.
O_CHANGEABLE: Final = os.O_APPEND | os.O_NONBLOCK | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME


def sought(position: int, offset: int, whence: int, end: int | None = None) -> int:
    """Where lseek(2) leads from `position` in a file that ends at `end`, or that nobody can count back from. EINVAL."""
    if whence == os.SEEK_CUR:
        offset += position
    elif whence == os.SEEK_END and end is not None:
        offset += end
    elif whence != os.SEEK_SET:
        raise SyscallError(errno.EINVAL)
    if not 0 <= offset <= INT64_MAX:
        raise SyscallError(errno.EINVAL)
    return offset


class OpenFile:
    """An open file description. `flags` are those of open(2); `location` is where it was opened, None for what has no name."""

    location: Location | None = None
    # Who is told of its events by a signal, when somebody asked for that.
    signalled: Owner | None = None
    # What F_NOTIFY asked for, of a directory.
    notice: Notice | None = None
    # Whether this very open(2) created the file.
    created = False
    # Where it counts as open, from its first descriptor on.
    account: OpenFileAccount | None = None
    # Whether mmap(2) of it gives new memory, as without a file: /dev/zero.
    maps_zeros = False
    # Inside it no vCPU moves the position. Not for long, and not while waiting.
    still: contextlib.AbstractContextManager[None] = contextlib.nullcontext()

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.queue = WaitQueue()
        self._references = 0
        self._closing: dict[Callable[[OpenFile], None], None] = {}

    # ------------------------------------------------------------ life

    @property
    def references(self) -> int:
        """Descriptors, messages in flight and others that hold the file."""
        return self._references

    def hold(self) -> None:
        """One more holder."""
        self._references += 1

    def release(self) -> None:
        """One holder less; the last one closes the file."""
        if self._references <= 0:
            raise InternalError(f"{type(self).__name__} is released more often than it was held")
        self._references -= 1
        if not self._references:
            for closing in list(self._closing):
                closing(self)
            self._closing.clear()
            if self.account is not None:
                self.account.count -= 1
                self.account = None
            self.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For calls that wait: another thread may close the descriptor, and what is behind it must stay until they are done."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def watch_close(self, closing: Callable[[OpenFile], None]) -> None:
        """Call `closing(file)` just before the file is closed."""
        self._closing[closing] = None

    def unwatch_close(self, closing: Callable[[OpenFile], None]) -> None:
        self._closing.pop(closing, None)

    def close(self) -> None:
        """Give back what the file has. Called once, by the last `release`."""

    # ------------------------------------------------------------ modes

    @property
    def readable(self) -> bool:
        return self.flags & _MODE in _READING

    @property
    def writable(self) -> bool:
        return self.flags & _MODE in _WRITING

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & os.O_NONBLOCK)

    @property
    def positioned(self) -> bool:
        """Whether reads go on to the end of the file, as with regular files, instead of ending with what is there."""
        return False

    def set_flags(self, flags: int) -> None:
        """fcntl(F_SETFL): what may change does."""
        self.flags = self.flags & ~O_CHANGEABLE | flags & O_CHANGEABLE

    # ------------------------------------------------------------ content

    def read(self, length: int) -> bytes:  # noqa: ARG002
        """At most `length` bytes from the position, b"" at the end. BlockingIOError when there are none yet."""
        raise SyscallError(errno.EINVAL)

    def write(self, data: bytes) -> int:  # noqa: ARG002
        """How many of the bytes were taken. BlockingIOError when none could be yet, BrokenPipeError when none ever will."""
        raise SyscallError(errno.EINVAL)

    async def read_for(self, task: Task, length: int) -> bytes:
        """As `read`, for a task that waits where it may. Some files look at who reads: signalfd, terminals."""
        while True:
            try:
                return self.read(length)
            except BlockingIOError:
                if self.nonblocking:
                    raise
            await task.wait(self.queue)

    def write_for(self, task: Task, data: bytes) -> int:  # noqa: ARG002
        """As `write`, by a task."""
        return self.write(data)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def seek(self, offset: int, whence: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def truncate(self, length: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def allocate(self, mode: int, offset: int, length: int) -> None:  # noqa: ARG002
        """fallocate(2)."""
        raise SyscallError(errno.ENODEV)

    def sync(self) -> None:
        """fsync(2)."""
        raise SyscallError(errno.EINVAL)

    def entries(self, capacity: int) -> bytes:  # noqa: ARG002
        """The next struct linux_dirent64 records that fit."""
        raise SyscallError(errno.ENOTDIR)

    # ------------------------------------------------------------ events

    def poll(self) -> int:
        """What would not block now (POLL*). A change of it wakes `queue`."""
        return READABLE | WRITABLE

    def poll_for(self, task: Task) -> int:  # noqa: ARG002
        """As `poll`, asked by a task."""
        return self.poll()

    def queue_for(self, task: Task) -> WaitQueue:  # noqa: ARG002
        """The queue that is woken when `poll_for` changes."""
        return self.queue

    @property
    def pollable(self) -> bool:
        """Whether it knows events at all: epoll refuses what does not, such as regular files and directories."""
        return not self.positioned

    # ------------------------------------------------------------ the rest

    def attributes(self) -> Attributes:
        """For fstat(2)."""
        raise SyscallError(errno.EBADF)

    def status(self) -> bytes:
        """The same as struct stat."""
        return self.attributes().status

    def describe(self) -> bytes:
        """What /proc/self/fd shows for it, such as b"pipe:[12]"."""
        return self.location.path if self.location is not None else b"anon_inode:[file]"

    def details(self) -> bytes:
        """Further lines of /proc/self/fdinfo."""
        return b""

    def ioctl(self, task: Task, request: int, argument: int) -> int:  # noqa: ARG002
        """ioctl(2); `argument` is the guest's word, often a pointer. The generic requests are answered before this."""
        raise SyscallError(errno.ENOTTY)

    def direct(self, files: DirectFiles) -> DirectFile | None:  # noqa: ARG002
        """The file for vCPUs to read by themselves, if nothing of it depends on who reads or when."""
        return None

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:  # noqa: ARG002
        """The file for mmap(2), with at least `length` bytes of it backed; `writable` when a shared mapping may store to it."""
        raise SyscallError(errno.ENODEV)
