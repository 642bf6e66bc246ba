"""UDP to the outside: for each remote address of a guest's socket a host socket that is connected to it.

So only who was granted can be sent to, and only they can answer. Source: udp(7).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.streams import HostQueue
from asynckvm.linux.wait import WaitQueue, wait

if TYPE_CHECKING:
    from asynckvm.linux.sockets.address import Endpoint
    from asynckvm.linux.sockets.outside import Destination, Outside, Slot
    from asynckvm.linux.sockets.udp import UdpSocket

_DATAGRAM_MAX: Final = 1 << 16


class Flow:
    """`decided` is woken when it is known whether and where it leads; `error` is why it does not."""

    def __init__(self, outside: Outside, slot: Slot, guest: UdpSocket, remote: Endpoint) -> None:
        self.decided = WaitQueue()
        self.error = 0
        self._slot = slot
        self._guest = guest
        self._remote = remote
        self._host: socket.socket | None = None
        self._queue: HostQueue | None = None
        if slot.destination is not None:
            self._open(slot.destination)
        self._task = outside.start(self._run(), self._close)

    @property
    def is_decided(self) -> bool:
        return bool(self.error) or self._host is not None

    def send(self, data: bytes) -> None:
        """OSError as the host has it. What it has no room for is lost, as on any way."""
        if self.error or self._host is None:
            raise SyscallError(self.error or errno.ENETUNREACH)
        try:
            self._host.send(data)
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            # The answer to an earlier message, which told it.
            self._tell(errno.ECONNREFUSED)

    def cancel(self) -> None:
        """The guest's socket is closed, or has another remote address."""
        self._task.cancel()

    def _close(self) -> None:
        self.error = self.error or errno.EACCES
        if self._queue is not None:
            self._queue.close()
        if self._host is not None:
            self._host.close()
        self._slot.close()
        self.decided.wake()

    async def _run(self) -> None:
        try:
            if not self.is_decided:
                self._open(await self._slot.resolve())
            self.decided.wake()
            if self._host is not None and self._queue is not None:
                await self._receive(self._host, self._queue)
        except SyscallError as error:
            self.error = error.number
        except OSError as error:  # the host has no descriptors left, for example
            self.error = error.errno or errno.EIO

    def _open(self, destination: Destination) -> None:
        try:
            self._host = socket.socket(destination.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._host.connect(destination.address)
        except OSError as error:
            self.error = error.errno or errno.EIO
        else:
            self._queue = HostQueue(self._host.fileno())

    async def _receive(self, host: socket.socket, queue: HostQueue) -> None:
        while True:
            try:
                data = host.recv(_DATAGRAM_MAX)
            except BlockingIOError:
                await wait((queue,))
            except OSError as error:
                self._tell(error.errno or errno.EIO)
            else:
                self._guest.arrive_from(self._remote, data)
                await asyncio.sleep(0)

    def _tell(self, error: int) -> None:
        """What came as an ICMP message: only a connected socket is told."""
        if self._guest.remote == self._remote:
            self._guest.fail(error)
