"""A TCP connection to the outside: a guest's socket, its peer inside, and a host socket, with bytes carried between the last two.

To the guest it is a connection like those within the sandbox, whose other end is kept here. So buffers are bounded as theirs are,
and the host socket is read only as far as the guest reads. Source: tcp(7), connect(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import SHUT_WR
from asynckvm.linux.sockets.message import Outgoing
from asynckvm.linux.streams import HostQueue
from asynckvm.linux.usercopy import NANOSECONDS
from asynckvm.linux.wait import wait

if TYPE_CHECKING:
    from asynckvm.linux.sockets.outside import Destination, Outside, Slot
    from asynckvm.linux.sockets.tcp import TcpSocket

# What is carried between two turns of the loop.
_PIECE: Final = 1 << 16
# How long what a guest sent before it closed may take to leave.
_LINGER_NS: Final = 60 * NANOSECONDS
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EINTR})
_RESET: Final = struct.pack("ii", 1, 0)


class Relay:
    """`guest` is connecting; `inner` becomes its peer when the host is connected."""

    def __init__(self, outside: Outside, slot: Slot, guest: TcpSocket, inner: TcpSocket) -> None:
        self._slot = slot
        self._guest = guest
        self._inner = inner
        self._host: socket.socket | None = None
        self._queue: HostQueue | None = None
        # Bytes on their way, and whether the last ones have come.
        self._leaving = self._coming = b""
        self._all_left = self._all_came = False
        # Why nothing can be sent to the host any more.
        self._broken: OSError | None = None
        self._task = outside.start(self._run(), self._close)

    def cancel(self) -> None:
        """The guest gives the attempt up."""
        self._task.cancel()

    def _close(self) -> None:
        if self._inner.peer is None:
            self._guest.break_off(self, errno.EACCES)  # also when a policy cancels itself
        self._inner.close()
        if self._queue is not None:
            self._queue.close()
        if self._host is not None:
            self._host.close()
        self._slot.close()

    async def _run(self) -> None:
        try:
            host, queue = await self._connect(await self._slot.resolve())
            self._guest.join(self._inner)
            await self._carry(host, queue)
        except SyscallError as error:
            self._guest.break_off(self, error.number)
        except OSError as error:
            self._guest.break_off(self, error.errno or errno.EIO)

    async def _connect(self, destination: Destination) -> tuple[socket.socket, HostQueue]:
        host = self._host = socket.socket(destination.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # What the guest wrote has waited already; an urgent byte is one like others here.
        host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        queue = self._queue = HostQueue(host.fileno())
        while (error := host.connect_ex(destination.address)) in _UNDER_WAY:
            await wait((queue,))
        if error not in (0, errno.EISCONN):
            raise SyscallError(error)
        return host, queue

    async def _carry(self, host: socket.socket, queue: HostQueue) -> None:
        """Until both sides have sent their last byte, or one of them has broken off. OSError of the host's side."""
        until: int | None = None
        while True:
            if self._inner.error or (until is not None and time.monotonic_ns() >= until):
                host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            moved = self._send(host) | self._receive(host)
            if self._all_came and not self._coming and self._broken is not None:
                raise self._broken
            if self._all_left and (self._all_came or self._guest.closed):
                return
            if moved or self._inner.error:
                await asyncio.sleep(0)
                continue
            if until is None and self._guest.closed:
                until = time.monotonic_ns() + _LINGER_NS
            await wait((self._inner.queue, queue), until=until)

    def _send(self, host: socket.socket) -> bool:
        """A piece from the guest to the host. Whether anything happened."""
        if self._all_left:
            return False
        if not self._leaving:
            try:
                self._leaving = self._inner.receive(_PIECE, 0).data
            except BlockingIOError:
                return False
            if not self._leaving:
                self._all_left = True
                with contextlib.suppress(OSError):  # the other side is gone already
                    host.shutdown(SHUT_WR)
                return True
        try:
            sent = host.send(self._leaving)
        except BlockingIOError:
            return False
        except OSError as error:
            # What the other side said before is still to be heard.
            self._broken, self._all_left, sent = error, True, len(self._leaving)
        self._leaving = self._leaving[sent:]
        return True

    def _receive(self, host: socket.socket) -> bool:
        """A piece from the host to the guest. Whether anything happened."""
        if self._all_came:
            return False
        if not self._coming:
            try:
                self._coming = host.recv(_PIECE)
            except BlockingIOError:
                return False
            if not self._coming:
                self._all_came = True
                if self._broken is None:
                    with contextlib.suppress(SyscallError):
                        self._inner.shutdown(SHUT_WR)
                return True
        try:
            taken = self._inner.send(Outgoing(self._coming))
        except (BlockingIOError, BrokenPipeError):
            return False
        self._coming = self._coming[taken:]
        return True
