"""Pipes and FIFOs: a bounded buffer of bytes between open files. Source: pipe(7), pipe(2), fifo(7), fcntl(2) F_SETPIPE_SZ.

The buffer keeps what was written in the pieces in which it came, so that bytes are copied once on their way in and once on
their way out at most; small pieces are joined, so that a guest which writes byte by byte costs no more than one that does not.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import would_block
from asynckvm.linux.files.open_file import FIONREAD, O_ACCESS, OpenFile
from asynckvm.linux.wait import POLLERR, POLLHUP, READABLE, WRITABLE, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.task import Task

# A write of at most this much is one piece or none.
PIPE_BUF: Final = 4096
CAPACITY: Final = 16 * PIPE_BUF
CAPACITY_MAX: Final = 1 << 20
# Linux's pipe-user-pages-soft; beyond it a new pipe is this small and none may grow.
_PAGES_SOFT: Final = 16384
_CAPACITY_MIN: Final = 2 * PIPE_BUF
_SIZE_MAX: Final = 1 << 31
# Device number of the file system that anonymous pipes seem to live in.
_PIPEFS: Final = 14
_inodes = itertools.count(1)


class PipePages:
    """How much the pipes of one sandbox may hold altogether, counted by their capacities."""

    def __init__(self, limit: int = _PAGES_SOFT) -> None:
        self.limit = limit
        self.used = 0

    def open(self) -> int:
        """A new pipe's capacity."""
        capacity = CAPACITY if self.used + CAPACITY // PIPE_BUF <= self.limit else _CAPACITY_MIN
        self.used += capacity // PIPE_BUF
        return capacity

    def change(self, old: int, new: int) -> None:
        """A pipe becomes larger or smaller, or goes away (`new` is 0). EPERM when there is no more to have."""
        pages = (new - old) // PIPE_BUF
        if pages > 0 and self.used + pages > self.limit:
            raise SyscallError(errno.EPERM)
        self.used += pages


class _Packet(bytes):
    """What one write in packet mode (O_DIRECT) left: it is read at once, and what does not fit is lost."""

    __slots__ = ()


class Pipe:
    """The buffer. An anonymous pipe has no `attributes`; a FIFO's are those of its inode."""

    def __init__(
        self,
        pages: PipePages,
        attributes: Callable[[], Attributes] | None = None,
        *,
        user: int = 0,
        group: int = 0,
    ) -> None:
        self.anonymous = attributes is None
        self.inode = next(_inodes)
        self.capacity = 0
        # Bytes in it.
        self.size = 0
        # How often an end was opened for reading and for writing, and who waits for that to happen.
        self.readers_ever = 0
        self.writers_ever = 0
        self.opened = WaitQueue()
        self._attributes = attributes
        self._owner = user, group
        self._born = time.time_ns()
        self._pages = pages
        self._reading: dict[PipeEnd, None] = {}
        self._writing: dict[PipeEnd, None] = {}
        # A bytearray takes further small pieces; of the first one `_skip` bytes are read already.
        self._pieces: deque[bytes | bytearray] = deque()
        self._skip = 0

    # ------------------------------------------------------------ ends

    @property
    def readers(self) -> int:
        """Open files that can read."""
        return len(self._reading)

    @property
    def writers(self) -> int:
        return len(self._writing)

    def attach(self, end: PipeEnd) -> None:
        """An end was opened. Only for `PipeEnd`."""
        if not self._reading and not self._writing:
            self.capacity = self._pages.open()
        if end.readable:
            self._reading[end] = None
            self.readers_ever += 1
        if end.writable:
            self._writing[end] = None
            self.writers_ever += 1
        self.opened.wake()

    def detach(self, end: PipeEnd) -> None:
        """An end was closed: the other side may have to know that nobody is there any more."""
        self._reading.pop(end, None)
        self._writing.pop(end, None)
        if not self._reading and not self._writing:
            self._pages.change(self.capacity, 0)
            self._pieces.clear()
            self.size = self._skip = self.capacity = 0
        elif not self._writing:
            self._wake(self._reading, READABLE | POLLHUP)
        elif not self._reading:
            self._wake(self._writing, WRITABLE | POLLERR)

    @staticmethod
    def _wake(ends: dict[PipeEnd, None], events: int) -> None:
        for end in ends:
            end.queue.wake(events)

    # ------------------------------------------------------------ bytes

    @property
    def room(self) -> int:
        return self.capacity - self.size

    def writable(self, *, packets: bool) -> bool:
        """Whether a write of PIPE_BUF bytes would not wait."""
        return self.room >= PIPE_BUF and not (packets and len(self._pieces) >= self.capacity // PIPE_BUF)

    def put(self, data: bytes, *, packets: bool = False) -> int:
        """Take as much of `data` as fits, up to PIPE_BUF bytes all or nothing; how much that was."""
        if packets:
            taken = self._put_packets(data)
        elif len(data) <= PIPE_BUF:
            taken = len(data) if len(data) <= self.room else 0
            if taken:
                self._put_small(data)
        else:
            taken = min(len(data), self.room) if self.room >= PIPE_BUF else 0
            if taken:
                self._pieces.append(bytes(data[:taken]))
        if taken:
            self.size += taken
            self._wake(self._reading, READABLE)
        return taken

    def _put_small(self, data: bytes) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) + len(data) <= PIPE_BUF:
            last += data
        elif len(data) < PIPE_BUF:
            self._pieces.append(bytearray(data))
        else:
            self._pieces.append(bytes(data))

    def _put_packets(self, data: bytes) -> int:
        taken = 0
        while taken < len(data) and len(self._pieces) < self.capacity // PIPE_BUF:
            packet = _Packet(data[taken : taken + PIPE_BUF])
            if len(packet) > self.room - taken:
                break
            self._pieces.append(packet)
            taken += len(packet)
        return taken

    def take(self, length: int) -> bytes:
        """The first bytes, at most `length`; b"" when there are none. A packet ends what one call gives."""
        found: list[bytes | bytearray] = []
        left = length
        while left and self._pieces:
            piece = self._pieces[0]
            part = piece[self._skip : self._skip + left] if self._skip or len(piece) > left else piece
            found.append(part)
            left -= len(part)
            self._skip += len(part)
            self.size -= len(part)
            packet = isinstance(piece, _Packet)
            if packet or self._skip == len(piece):
                self.size -= len(piece) - self._skip
                self._skip = 0
                self._pieces.popleft()
            if packet:
                break
        if found:
            self._wake(self._writing, WRITABLE)
        return bytes(found[0]) if len(found) == 1 else b"".join(found)

    def peek(self, length: int) -> bytes:
        """What `take` would give, which stays; for tee(2)."""
        found: list[bytes | bytearray] = []
        left, skip = length, self._skip
        for piece in self._pieces:
            if not left:
                break
            part = piece[skip : skip + left]
            found.append(part)
            left, skip = left - len(part), 0
            if isinstance(piece, _Packet):
                break
        return b"".join(found)

    def resize(self, size: int) -> int:
        """F_SETPIPE_SZ: the next power of two. EPERM beyond the bounds, EBUSY when what is in it would not fit."""
        if not 0 <= size <= _SIZE_MAX:
            raise SyscallError(errno.EINVAL)
        capacity = max(PIPE_BUF, 1 << (size - 1).bit_length() if size else 0)
        if capacity > CAPACITY_MAX:
            raise SyscallError(errno.EPERM)
        if capacity < self.size or len(self._pieces) > 2 * capacity // PIPE_BUF:
            raise SyscallError(errno.EBUSY)
        self._pages.change(self.capacity, capacity)
        grown, self.capacity = capacity > self.capacity, capacity
        if grown:
            self._wake(self._writing, WRITABLE)
        return capacity

    def attributes(self) -> Attributes:
        if self._attributes is not None:
            return self._attributes()
        user, group = self._owner
        return Attributes(
            device=_PIPEFS, inode=self.inode, mode=stat.S_IFIFO | 0o600, user=user, group=group,
            accessed=self._born, modified=self._born, changed=self._born,
        )  # fmt: skip


class PipeEnd(OpenFile):
    """An open pipe or FIFO, for reading, writing or both."""

    def __init__(self, pipe: Pipe, flags: int) -> None:
        super().__init__(flags)
        self.pipe = pipe
        # A FIFO opened for reading before anybody writes does not report a hang-up until a writer has come and gone.
        early = self.nonblocking and not self.writable and not pipe.writers and not pipe.anonymous
        self._expected = pipe.writers_ever if early else -1
        pipe.attach(self)

    def read(self, length: int) -> bytes:
        if not length:
            return b""
        if not self.pipe.size and self.pipe.writers:
            raise would_block()
        return self.pipe.take(length)

    def write(self, data: bytes) -> int:
        if not data:
            return 0
        if not self.pipe.readers:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        taken = self.pipe.put(data, packets=bool(self.flags & os.O_DIRECT))
        if not taken:
            raise would_block()
        return taken

    def poll(self) -> int:
        pipe, mask = self.pipe, 0
        if self.readable:
            mask |= READABLE if pipe.size else 0
            mask |= POLLHUP if not pipe.writers and pipe.writers_ever != self._expected else 0
        if self.writable:
            mask |= WRITABLE if pipe.writable(packets=bool(self.flags & os.O_DIRECT)) else 0
            mask |= POLLERR if not pipe.readers else 0
        return mask

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if request != FIONREAD:
            raise SyscallError(errno.ENOTTY)
        task.space.write(argument, self.pipe.size.to_bytes(4, "little"))
        return 0

    def attributes(self) -> Attributes:
        return self.pipe.attributes()

    def describe(self) -> bytes:
        return super().describe() if self.location is not None else b"pipe:[%d]" % self.pipe.inode

    def close(self) -> None:
        self.pipe.detach(self)


def pipe_ends(pages: PipePages, flags: int = 0, *, user: int = 0, group: int = 0) -> tuple[PipeEnd, PipeEnd]:
    """The two ends that pipe(2) gives: to read from, and to write to."""
    pipe = Pipe(pages, user=user, group=group)
    return PipeEnd(pipe, os.O_RDONLY | flags & os.O_NONBLOCK), PipeEnd(pipe, os.O_WRONLY | flags)


async def open_fifo(task: Task, pipe: Pipe, flags: int) -> PipeEnd:
    """open(2) of a FIFO, or of an anonymous pipe through /proc: waits until somebody opens the other side."""
    access = flags & O_ACCESS
    if access == os.O_WRONLY and flags & os.O_NONBLOCK and not pipe.readers and not pipe.anonymous:
        raise SyscallError(errno.ENXIO)
    end = PipeEnd(pipe, flags)
    if pipe.anonymous or flags & os.O_NONBLOCK or access == os.O_RDWR:
        return end
    try:
        # Somebody who came and went again has been there too.
        if access == os.O_RDONLY and not pipe.writers:
            seen = pipe.writers_ever
            while pipe.writers_ever == seen:
                await task.wait(pipe.opened)
        elif access == os.O_WRONLY and not pipe.readers:
            seen = pipe.readers_ever
            while pipe.readers_ever == seen:
                await task.wait(pipe.opened)
    except BaseException:
        end.close()
        raise
    return end
