"""Leases: who holds one on a file is told, by a signal, before another open or truncation gets through.

The other one waits until the holder gave the lease up or reduced it, or until its time is over. Only what happens through the
sandbox's own calls is seen. Source: fcntl(2) F_SETLEASE, fs/locks.c (generic_setlease, __break_lease).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux import busy
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.owner import MESSAGE, POLL_MSG, owner_of
from asynckvm.linux.wait import WaitQueue

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
# /proc/sys/fs/lease-break-time.
BREAK_NS: Final = 45_000_000_000


class Lease:
    """`kind` is F_RDLCK or F_WRLCK; `wanted` what others need it to become, by `until`."""

    def __init__(self, file: OpenFile, kind: int) -> None:
        self.file = file
        self.kind = kind
        self.wanted: int | None = None
        self.until = 0

    def forbids(self, *, writing: bool) -> bool:
        return writing or self.kind == F_WRLCK


class LeaseTable:
    """All leases of a sandbox, by the identity of files. False while there is none."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], dict[OpenFile, Lease]] = {}
        self._queue = WaitQueue()

    def __bool__(self) -> bool:
        return bool(self._files)

    # ------------------------------------------------------------ who holds

    def get(self, file: OpenFile) -> int:
        """F_GETLEASE: what it is, or is to become."""
        lease = self._files.get(file.attributes().identity, {}).get(file)
        if lease is None:
            return F_UNLCK
        return lease.kind if lease.wanted is None else lease.wanted

    def set(self, task: Task, file: OpenFile, kind: int) -> None:
        """F_SETLEASE. EAGAIN when the file is open in a way that the lease would have to be told of."""
        attributes = file.attributes()
        credentials = task.process.credentials
        if not credentials.is_root and attributes.user != credentials.euid:
            raise SyscallError(errno.EACCES)
        if not stat.S_ISREG(attributes.mode) or kind not in (F_RDLCK, F_WRLCK, F_UNLCK):
            raise SyscallError(errno.EINVAL)
        leases = self._files.get(attributes.identity, {})
        if kind == F_UNLCK:
            if file not in leases:
                raise SyscallError(errno.EAGAIN)
            self._end(file)
            return
        self._check(task, file, kind, leases)
        if (lease := leases.get(file)) is not None:
            lease.kind, lease.wanted = kind, None
            self._queue.wake()
        else:
            self._files.setdefault(attributes.identity, {})[file] = Lease(file, kind)
            file.watch_close(self._end)
        owner_of(task, file).claim(task)

    def _check(self, task: Task, file: OpenFile, kind: int, leases: dict[OpenFile, Lease]) -> None:
        mine = leases.get(file)
        opened = busy.opened(task.process.kernel, file.attributes().identity)
        refused = (
            # As long as it is being broken it can only shrink.
            mine is not None and mine.wanted is not None and (mine.wanted == F_UNLCK or kind == F_WRLCK),
            any(other.kind == F_WRLCK or kind == F_WRLCK for holder, other in leases.items() if holder is not file),
            any(other.writable if kind == F_RDLCK else other is not file for other in opened),
        )
        if any(refused):
            raise SyscallError(errno.EAGAIN)

    def _end(self, file: OpenFile) -> None:
        identity = file.attributes().identity
        leases = self._files.get(identity, {})
        if leases.pop(file, None) is not None:
            file.unwatch_close(self._end)
            self._queue.wake()
        if not leases:
            self._files.pop(identity, None)

    # ------------------------------------------------------------ who is in the way

    def hinders(self, identity: tuple[int, int], flags: int) -> bool:
        """Whether an open with these flags has to wait."""
        return any(lease.forbids(writing=_writes(flags)) for lease in self._files.get(identity, {}).values())

    async def broken(self, task: Task, identity: tuple[int, int], flags: int) -> None:
        """Tell the holders, and return when none is in the way any more. EWOULDBLOCK with O_NONBLOCK."""
        writing = _writes(flags)
        while found := [lease for lease in self._files.get(identity, {}).values() if lease.forbids(writing=writing)]:
            for lease in found:
                self._break(lease, F_UNLCK if writing else F_RDLCK)
            if flags & os.O_NONBLOCK:
                raise SyscallError(errno.EWOULDBLOCK)
            if not await task.wait(self._queue, until=min(lease.until for lease in found)):
                for lease in found:
                    self._take(identity, lease)

    @staticmethod
    def _break(lease: Lease, wanted: int) -> None:
        if lease.wanted is None or (lease.wanted == F_RDLCK and wanted == F_UNLCK):
            if lease.wanted is None:
                lease.until = time.monotonic_ns() + BREAK_NS
            lease.wanted = wanted
            if lease.file.signalled is not None:
                lease.file.signalled.tell(POLL_MSG, MESSAGE)

    def _take(self, identity: tuple[int, int], lease: Lease) -> None:
        """Its time is over."""
        if self._files.get(identity, {}).get(lease.file) is not lease or lease.until > time.monotonic_ns():
            return
        if lease.wanted == F_RDLCK:
            lease.kind, lease.wanted = F_RDLCK, None
        else:
            self._end(lease.file)


def _writes(flags: int) -> bool:
    return flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC) != 0
