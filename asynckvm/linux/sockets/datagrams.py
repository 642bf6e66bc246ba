"""A queue of messages with their boundaries: what datagram and sequenced-packet sockets receive from."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import MESSAGE_COST, MSG_PEEK, MSG_TRUNC
from asynckvm.linux.sockets.message import Incoming

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.quota import Quota
    from asynckvm.linux.sockets.message import Control, Ucred
    from asynckvm.linux.sockets.rights import Rights


@dataclass(slots=True)
class Datagram:
    """A message on its way. `received` is called with its cost when it has left the queue, read or not."""

    data: bytes
    address: bytes = b""
    credentials: Ucred | None = None
    rights: Rights | None = None
    control: list[Control] = field(default_factory=list)
    received: Callable[[int], None] | None = None

    @property
    def cost(self) -> int:
        return len(self.data) + MESSAGE_COST


class Datagrams:
    """Messages in the order in which they came."""

    def __init__(self, quota: Quota) -> None:
        self.charge = 0
        self._queue: collections.deque[Datagram] = collections.deque()
        self._quota = quota

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> Datagram:
        return self._queue[0]

    @property
    def next_size(self) -> int:
        return len(self._queue[0].data) if self._queue else 0

    def put(self, datagram: Datagram) -> None:
        """ENOBUFS when the sandbox has no more memory; its rights are dropped then."""
        try:
            self._quota.charge(datagram.cost)
        except SyscallError:
            if datagram.rights is not None:
                datagram.rights.drop()
            raise
        self.charge += datagram.cost
        self._queue.append(datagram)

    def get(self, length: int, flags: int) -> Incoming:
        """The first message, of which what is longer than `length` is lost; it stays for MSG_PEEK. There must be one."""
        datagram = self._queue[0]
        incoming = Incoming(
            datagram.data[:length],
            len(datagram.data),
            MSG_TRUNC if length < len(datagram.data) else 0,
            datagram.address,
            datagram.rights,
            datagram.credentials,
            list(datagram.control),
        )
        if flags & MSG_PEEK:
            incoming.rights = datagram.rights.copy() if datagram.rights is not None else None
        else:
            datagram.rights = None
            self._remove()
        return incoming

    def clear(self) -> None:
        while self._queue:
            rights = self._queue[0].rights
            self._remove()
            if rights is not None:
                rights.drop()

    def _remove(self) -> None:
        datagram = self._queue.popleft()
        self.charge -= datagram.cost
        self._quota.refund(datagram.cost)
        if datagram.received is not None:
            datagram.received(datagram.cost)
