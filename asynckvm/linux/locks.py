"""Advisory locks on files: flock(2), and the record locks of fcntl(2), those of processes and those of open file descriptions.

A lock belongs to a file, by device and inode, so it is seen through every name and descriptor of it within the sandbox; the
host's own programs neither see it nor are seen. The two families do not know of each other, as on Linux's local file systems.
Source: flock(2), fcntl_locking(2), fs/locks.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import DescriptorTable, OpenFile
from asynckvm.linux.wait import WaitQueue

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

# To the end of the file, wherever that will be.
END: Final = 1 << 63
# Of one file; a hostile guest could lock every second byte.
RANGES_MAX: Final = 1024
# Who a record lock belongs to: with F_SETLK those who share a descriptor table, with F_OFD_SETLK an open file.
Owner: TypeAlias = "DescriptorTable | OpenFile"


class Range(NamedTuple):
    """Bytes [start, end) locked by `owner`; `pid` is who F_GETLK names, -1 for an open file description."""

    owner: Owner
    start: int
    end: int
    exclusive: bool
    pid: int

    def conflicts(self, other: Range) -> bool:
        return (
            self.owner is not other.owner
            and (self.exclusive or other.exclusive)
            and self.start < other.end
            and other.start < self.end
        )


class _FileLocks:
    """The locks of one file. `queue` is woken when some are given back."""

    def __init__(self) -> None:
        self.whole: dict[OpenFile, bool] = {}  # flock(2): exclusive?
        self.ranges: list[Range] = []
        self.queue = WaitQueue()
        self.waiting = 0

    @property
    def unused(self) -> bool:
        return not (self.whole or self.ranges or self.waiting)

    def conflict(self, wanted: Range) -> Range | None:
        return next((held for held in self.ranges if held.conflicts(wanted)), None)

    def cut(self, owner: Owner, start: int, end: int) -> bool:
        """Take [start, end) from what `owner` has. False when it had nothing there."""
        left: list[Range] = []
        for held in self.ranges:
            if held.owner is not owner or held.end <= start or end <= held.start:
                left.append(held)
                continue
            if held.start < start:
                left.append(held._replace(end=start))
            if end < held.end:
                left.append(held._replace(start=end))
        if len(left) > RANGES_MAX:
            raise SyscallError(errno.ENOLCK)
        changed = left != self.ranges
        self.ranges = left
        return changed

    def put(self, wanted: Range) -> None:
        """Replace what the owner has there; ranges of one kind that touch become one."""
        if len(self.ranges) >= RANGES_MAX:
            raise SyscallError(errno.ENOLCK)
        self.cut(wanted.owner, wanted.start, wanted.end)
        start, end, left = wanted.start, wanted.end, []
        for held in self.ranges:
            if held.owner is wanted.owner and held.exclusive == wanted.exclusive and held.start <= end and start <= held.end:
                start, end = min(start, held.start), max(end, held.end)
            else:
                left.append(held)
        left.append(wanted._replace(start=start, end=end))
        # As F_GETLK finds them: those of one owner together and by their start, owners as they came.
        order = {owner: index for index, owner in enumerate(dict.fromkeys(held.owner for held in self.ranges))}
        left.sort(key=lambda held: (order.get(held.owner, len(order)), held.start))
        self.ranges = left


class LockTable:
    """All locks of a sandbox."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], _FileLocks] = {}
        # Owners that wait, and whom each one waits for: F_SETLKW must not close a ring.
        self._waits: dict[Owner, Owner] = {}

    def __len__(self) -> int:
        """Files with locks."""
        return len(self._files)

    # ------------------------------------------------------------ flock(2)

    async def lock_file(self, task: Task, file: OpenFile, *, exclusive: bool, waiting: bool) -> None:
        """EAGAIN when it is not to wait. A change of kind gives the old lock up first."""
        identity, locks = self._find(file)
        try:
            with file.held():
                if locks.whole.get(file) == exclusive:
                    return
                if locks.whole.pop(file, None) is not None:
                    locks.queue.wake()
                while any(exclusive or held for held in locks.whole.values()):
                    if not waiting:
                        raise SyscallError(errno.EAGAIN)
                    await self._wait(task, locks)
                locks.whole[file] = exclusive
                file.watch_close(self._file_closed)
        finally:
            self._tidy(identity, locks)

    def unlock_file(self, file: OpenFile) -> None:
        identity, locks = self._find(file)
        if locks.whole.pop(file, None) is not None:
            locks.queue.wake()
        self._tidy(identity, locks)

    # ------------------------------------------------------------ records

    def find_conflict(self, file: OpenFile, wanted: Range) -> Range | None:
        """F_GETLK."""
        locks = self._files.get(_identity(file))
        return locks.conflict(wanted) if locks is not None else None

    async def lock_range(self, task: Task, file: OpenFile, wanted: Range, *, waiting: bool) -> None:
        """F_SETLK and F_SETLKW. EAGAIN, EDEADLK, ENOLCK."""
        identity, locks = self._find(file)
        owner = wanted.owner
        try:
            with file.held():
                while (held := locks.conflict(wanted)) is not None:
                    if not waiting:
                        raise SyscallError(errno.EAGAIN)
                    self._check_ring(owner, held.owner)
                    self._waits[owner] = held.owner
                    try:
                        await self._wait(task, locks)
                    finally:
                        self._waits.pop(owner, None)
                before = len(locks.ranges)
                locks.put(wanted)
                if isinstance(owner, OpenFile):
                    owner.watch_close(self._file_closed)
                else:
                    owner.closing = self._descriptor_closed
                if before:
                    locks.queue.wake()  # an exclusive lock may have become a shared one
        finally:
            self._tidy(identity, locks)

    def unlock_range(self, file: OpenFile, owner: Owner, start: int, end: int) -> None:
        identity, locks = self._find(file)
        try:
            if locks.cut(owner, start, end):
                locks.queue.wake()
        finally:
            self._tidy(identity, locks)

    def _check_ring(self, owner: Owner, holder: Owner) -> None:
        """Whether `holder` waits, by way of others, for `owner`. Locks of open files are not looked at, as in Linux."""
        waits: Owner | None = holder
        for _ in range(len(self._waits) + 1):
            if waits is owner and isinstance(owner, DescriptorTable):
                raise SyscallError(errno.EDEADLK)
            waits = self._waits.get(waits) if waits is not None else None

    # ------------------------------------------------------------ closing

    def _descriptor_closed(self, table: DescriptorTable, file: OpenFile) -> None:
        """A process loses all its locks of a file with the first descriptor of it that it closes, whichever that is."""
        if not self._files:
            return
        try:
            identity = _identity(file)
        except (SyscallError, OSError):
            return  # what has no attributes has no locks
        locks = self._files.get(identity)
        if locks is not None and locks.cut(table, 0, END):
            locks.queue.wake()
            self._tidy(identity, locks)

    def _file_closed(self, file: OpenFile) -> None:
        identity = _identity(file)
        locks = self._files.get(identity)
        if locks is not None:
            had = locks.whole.pop(file, None) is not None
            if locks.cut(file, 0, END) or had:
                locks.queue.wake()
            self._tidy(identity, locks)

    # ------------------------------------------------------------ helpers

    def _find(self, file: OpenFile) -> tuple[tuple[int, int], _FileLocks]:
        identity = _identity(file)
        return identity, self._files.setdefault(identity, _FileLocks())

    def _tidy(self, identity: tuple[int, int], locks: _FileLocks) -> None:
        if locks.unused and self._files.get(identity) is locks:
            del self._files[identity]

    @staticmethod
    async def _wait(task: Task, locks: _FileLocks) -> None:
        locks.waiting += 1
        try:
            await task.wait(locks.queue)
        finally:
            locks.waiting -= 1


def _identity(file: OpenFile) -> tuple[int, int]:
    return file.attributes().identity
