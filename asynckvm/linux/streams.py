"""The standard streams of a guest: host descriptors of any kind, bytes to read, buffers to write into.

A guest that waits for input or for room must not hold up the event loop, and this process must not change how others use the
descriptor it shares with them (O_NONBLOCK belongs to the open file, not to the descriptor). So a pipe or terminal is opened
once more, non-blocking, under a description of its own; a socket is used with MSG_DONTWAIT; what can be neither is asked for
readiness first and then used in pieces a ready pipe takes. Regular files and devices such as /dev/null never block.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK, O_ACCESS, OpenFile
from asynckvm.linux.files.host import HostDescriptor
from asynckvm.linux.wait import POLLHUP, POLLIN, POLLOUT, READABLE, WRITABLE, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

# A pipe that polls as writable takes this much at once (PIPE_BUF, pipe(7)).
_READY_PIECE: Final = 4096
# /dev/ptmx: each open(2) of it makes a terminal.
_PTMX: Final = os.makedev(5, 2)
_EVENTS: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP
CAPTURE_BYTES_MAX: Final = 64 << 20


def host_stream(fd: int) -> OpenFile:
    """The host descriptor `fd`, which stays the caller's, as a guest's open file. Raises OSError when it is closed."""
    mode = os.fstat(fd).st_mode
    flags = _flags(fd)
    own = os.dup(fd)
    try:
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode) or not _pollable(own):
            return HostDescriptor(own, flags)
        if stat.S_ISSOCK(mode):
            return SocketStream(own, flags)
        private = _reopen(own, flags)
        if private is None:
            return ReadyStream(own, flags)
        os.close(own)
        return NonBlockingStream(private, flags)
    except BaseException:
        os.close(own)
        raise


def _flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK


def _pollable(fd: int) -> bool:
    with select.epoll() as poll:
        try:
            poll.register(fd)
        except PermissionError:
            return False
    return True


def _reopen(fd: int, flags: int) -> int | None:
    """The same pipe or terminal, opened once more. None where that is not possible, or would be another terminal."""
    if os.fstat(fd).st_rdev == _PTMX:
        return None
    access = flags & (O_ACCESS | os.O_APPEND)
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


class HostQueue(WaitQueue):
    """The wait queue of a host descriptor, which the event loop watches only while somebody waits."""

    __slots__ = ("_fd", "_loop", "_poll")

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._poll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, watcher: Callable[[int], None]) -> None:
        if self._loop is None:
            if self._poll is None:
                # The loop gets a poll instance to watch, not the descriptor: uvloop sets O_NONBLOCK on what it watches, and a
                # loop knows only one waiter for each descriptor. Edges only: who waits for input is not woken for ever by room
                # for output.
                self._poll = select.epoll()
                self._poll.register(self._fd, _EVENTS | select.EPOLLET)
            loop = asyncio.get_running_loop()
            loop.add_reader(self._poll.fileno(), self._ready)
            self._loop = loop
        super().watch(watcher)

    def unwatch(self, watcher: Callable[[int], None]) -> None:
        super().unwatch(watcher)
        if not len(self):
            self._leave_loop()

    def close(self) -> None:
        """The descriptor is about to be closed."""
        self._leave_loop()
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _leave_loop(self) -> None:
        if self._loop is not None and self._poll is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._poll.fileno())
            self._loop = None

    def _ready(self) -> None:
        if self._poll is not None:
            for _, events in self._poll.poll(0):
                self.wake(_as_guest(events))


def _as_guest(events: int) -> int:
    """A host's POLLIN and POLLOUT stand for POLLRDNORM and POLLWRNORM too."""
    return events | (READABLE if events & POLLIN else 0) | (WRITABLE if events & POLLOUT else 0)


class NonBlockingStream(HostDescriptor):
    """A descriptor in non-blocking mode that can be polled. Owns `fd`."""

    def __init__(self, fd: int, flags: int) -> None:
        super().__init__(fd, flags)
        self.queue: HostQueue = HostQueue(fd)

    def poll(self) -> int:
        poll = select.poll()
        poll.register(self.fd, _EVENTS)
        return next((_as_guest(events) for _, events in poll.poll(0)), 0)

    @property
    def pollable(self) -> bool:
        return True

    def close(self) -> None:
        self.queue.close()
        super().close()

    # A pipe or terminal has no positions, but terminals answer pread(2) on the host.
    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def pwrite(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)


class SocketStream(NonBlockingStream):
    """A socket: each operation by itself is non-blocking."""

    def __init__(self, fd: int, flags: int) -> None:
        super().__init__(fd, flags)
        self._socket = socket.socket(fileno=fd)

    def read(self, length: int) -> bytes:
        return self._socket.recv(min(length, CHUNK), socket.MSG_DONTWAIT)

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self.queue.close()
        self.fd = -1
        self._socket.close()


class ReadyStream(NonBlockingStream):
    """A descriptor left in blocking mode: used only when it is ready, and only for what it then takes without waiting.

    Another process that uses the same pipe at that moment can still make one of these calls wait.
    """

    def read(self, length: int) -> bytes:
        self._check(select.POLLIN)
        return os.read(self.fd, min(length, CHUNK))

    def write(self, data: bytes) -> int:
        self._check(select.POLLOUT)
        return os.write(self.fd, data[:_READY_PIECE])

    def _check(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.fd, event)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class _PipeLike(OpenFile):
    """What no host descriptor stands behind looks like a pipe to fstat(2)."""

    def attributes(self) -> Attributes:
        now = time.time_ns()
        return Attributes(
            13, 1, stat.S_IFIFO | 0o600, user=os.getuid(), group=os.getgid(), accessed=now, modified=now, changed=now
        )  # fmt: skip

    def describe(self) -> bytes:
        return b"pipe:[1]"


class Source(_PipeLike):
    """Bytes to read, then the end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(os.O_RDONLY)
        self._left = memoryview(data)

    def read(self, length: int) -> bytes:
        piece, self._left = self._left[: min(length, CHUNK)], self._left[min(length, CHUNK) :]
        return bytes(piece)

    def poll(self) -> int:
        return READABLE | POLLHUP if self._left else POLLHUP


class Capture(_PipeLike):
    """A buffer to write into: `data`. Beyond `limit` bytes writes fail with ENOSPC; the first such calls `on_overflow`."""

    def __init__(self, limit: int = CAPTURE_BYTES_MAX) -> None:
        super().__init__(os.O_WRONLY)
        self.data = bytearray()
        self.limit = limit
        self.overflowed = False
        self.on_overflow: Callable[[], None] = _nothing

    def write(self, data: bytes) -> int:
        room = self.limit - len(self.data)
        if len(data) > room and not self.overflowed:
            self.overflowed = True
            self.on_overflow()
        if data and room <= 0:
            raise SyscallError(errno.ENOSPC)
        self.data += data[:room]
        return min(len(data), room)

    def poll(self) -> int:
        return WRITABLE


def _nothing() -> None:
    pass
