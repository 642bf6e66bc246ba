"""Descriptors in flight: files that travel in messages (SCM_RIGHTS), who holds them, and the end of those nobody can receive.

A socket can be sent to itself, or two to each other, and then closed: such messages hold their sockets alive for ever. Linux
finds them with a mark and sweep over the sockets in flight (net/unix/garbage.c), and so does `InFlight.collect`.
Source: unix(7), "Ancillary messages".
"""

from __future__ import annotations

import collections
import errno
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.files.open_file import OpenFile

# The first sweep; the next one when twice as many are in flight as survived.
_FIRST_SWEEP: Final = 64


class Holder(Protocol):
    """A socket in whose queue messages lie. `keeper` is the file that must live for it to be read: itself, once accepted."""

    @property
    def keeper(self) -> OpenFile: ...


class Rights:
    """The files of one message, which lies in the queue of `holder`."""

    __slots__ = ("_flight", "files", "holder")

    def __init__(self, flight: InFlight, files: Sequence[OpenFile], holder: Holder) -> None:
        self._flight = flight
        self.files = tuple(files)
        self.holder = holder
        for file in self.files:
            file.hold()

    def drop(self) -> None:
        """No longer in flight: the message was received, by now with holders of its own, or thrown away. Twice is once."""
        files, self.files = self.files, ()
        if files:
            self._flight.landed(self, files)

    def copy(self) -> Rights:
        """For MSG_PEEK: the same files once more."""
        return self._flight.send(self.files, self.holder, limit=None)


class InFlight:
    """All rights of one network."""

    def __init__(self) -> None:
        self._rights: dict[Rights, None] = {}
        self._sweep_at = _FIRST_SWEEP
        self._landed: collections.deque[OpenFile] = collections.deque()
        self._releasing = False
        self.count = 0

    def send(self, files: Sequence[OpenFile], holder: Holder, limit: int | None) -> Rights:
        """ETOOMANYREFS when more than `limit` files are in flight already."""
        if self.count >= self._sweep_at:
            self.collect()
            self._sweep_at = max(_FIRST_SWEEP, 2 * self.count)
        if limit is not None and self.count > limit:
            raise SyscallError(errno.ETOOMANYREFS)
        rights = Rights(self, files, holder)
        if rights.files:
            self._rights[rights] = None
            self.count += len(rights.files)
        return rights

    def landed(self, rights: Rights, files: Sequence[OpenFile]) -> None:
        """Release the files, one after the other: closing one may drop the messages in its queue, and so on, ever deeper."""
        del self._rights[rights]
        self.count -= len(files)
        self._landed.extend(files)
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._landed:
                self._landed.popleft().release()
        finally:
            self._releasing = False

    def collect(self) -> None:
        """Drop the rights that lie in the queues of sockets which themselves can only be reached from such queues."""
        flying: collections.Counter[OpenFile] = collections.Counter()
        carried: dict[OpenFile, list[Rights]] = {}
        for rights in self._rights:
            flying.update(rights.files)
            carried.setdefault(rights.holder.keeper, []).append(rights)
        alive = [holder for holder in carried if flying[holder] < holder.references]
        reached = set(alive)
        while alive:
            for rights in carried.get(alive.pop(), ()):
                alive += (new := [file for file in rights.files if file not in reached])
                reached.update(new)
        for holder, garbage in carried.items():
            if holder not in reached:
                for rights in garbage:
                    rights.drop()

    def close(self) -> None:
        for rights in list(self._rights):
            rights.drop()
