"""TCP: two sockets and a byte stream each way, with the states and errors that programs can see.

No segments, windows or timers: what one side sends the other has at once, as over lo. A connection is made when there is room in
the listener's backlog, and until then is on its way. The other end of a connection to the outside is a `Relay`'s. Errors are
those of tcp_reset() and inet_stream_connect(). Source: tcp(7), connect(2), listen(2), shutdown(2).
"""

from __future__ import annotations

import collections
import errno
import struct
import weakref
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets import options
from asynckvm.linux.sockets.abi import (
    AF_UNSPEC,
    IPPROTO_TCP,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SO_LINGER,
    SO_OOBINLINE,
    SO_SNDBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    SOMAXCONN,
)
from asynckvm.linux.sockets.address import Endpoint, endpoint_address, family_of
from asynckvm.linux.sockets.base import shutdown_bits
from asynckvm.linux.sockets.inet import InetSocket, best_match
from asynckvm.linux.sockets.message import NOBODY, Incoming
from asynckvm.linux.sockets.relay import Relay
from asynckvm.linux.sockets.stream import Channel
from asynckvm.linux.wait import ANYTHING, POLLERR, POLLHUP, POLLPRI, POLLRDHUP, READABLE, WRITABLE

if TYPE_CHECKING:
    from asynckvm.linux.sockets.message import Outgoing, SocketCaller, Ucred
    from asynckvm.linux.sockets.network import Network

# <netinet/tcp.h>.
TCP_ESTABLISHED, TCP_SYN_SENT, TCP_FIN_WAIT2, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LISTEN = 1, 2, 5, 7, 8, 10
_TCP_INFO: Final = 11
_TCP_INFO_SIZE: Final = 232
# A send buffer whose size nobody set: what tuning makes of it.
_SEND_TUNED: Final = 256 << 10


def _info(socket: options.Subject, key: options.Key) -> bytes:  # noqa: ARG001
    state = socket.state if isinstance(socket, TcpSocket) else TCP_CLOSE
    return struct.pack("<B7xIIII", state, 204000, 0, 65483, 536).ljust(_TCP_INFO_SIZE, b"\0")


_LEVELS: Final = {
    SOL_SOCKET: options.TCP_SOCKET,
    IPPROTO_TCP: {**options.TCP, _TCP_INFO: options.Option(_info, options.read_only)},
}


class TcpSocket(InetSocket):
    """A TCP socket. `peer` is the other end, also after one of them closed; `on_way` wait for room in the backlog."""

    def __init__(self, network: Network, family: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, family, SOCK_STREAM, IPPROTO_TCP, owner, ports=network.tcp, levels=_LEVELS)
        self.inbox = Channel(network.buffers)
        self.peer: TcpSocket | None = None
        # Weak, so that sockets which are closed meanwhile leave nothing behind.
        self.relay: Relay | None = None
        self.on_way: weakref.WeakKeyDictionary[TcpSocket, None] = weakref.WeakKeyDictionary()
        self._listening = False
        self._connecting = False  # connect(2) has not told its outcome yet
        self._ended = False  # the other side has sent its last byte
        self._dead = False  # the connection was reset
        self._limit = 0
        self._backlog: collections.deque[TcpSocket] = collections.deque()

    @property
    def is_listening(self) -> bool:
        return self._listening

    @property
    def state(self) -> int:
        """TCP_*, as far as programs can tell one from another."""
        if self._listening:
            return TCP_LISTEN
        if self.peer is None:
            return TCP_SYN_SENT if self._connecting and not self._dead else TCP_CLOSE
        sent = bool(self.shut & SEND_SHUTDOWN)
        if self._dead or (sent and self._ended):
            return TCP_CLOSE
        if sent:
            return TCP_FIN_WAIT2
        return TCP_CLOSE_WAIT if self._ended else TCP_ESTABLISHED

    # ------------------------------------------------------------ listening

    def listen(self, backlog: int, caller: SocketCaller) -> None:  # noqa: ARG002
        if self.state not in (TCP_CLOSE, TCP_LISTEN) or self.peer is not None:
            raise SyscallError(errno.EINVAL)
        if not self._listening:
            self.autobind()
            self.ports.check_listen(self)
        self._listening = True
        self.shut = 0
        self._limit = min(backlog & 0xFFFF_FFFF, SOMAXCONN)
        self._admit()

    def accept(self) -> TcpSocket:
        if not self._listening:
            raise SyscallError(errno.EINVAL)
        if not self._backlog:
            raise BlockingIOError(errno.EAGAIN, "no connection")
        server = self._backlog.popleft()
        self.network.pending -= 1
        self._admit()
        return server

    def accepted_from(self) -> bytes:
        return endpoint_address(self.family, self.remote if self.remote is not None else self.unbound)

    def _admit(self) -> None:
        """There may be room for connections that are on their way."""
        waiting = list(self.on_way)
        self.on_way.clear()
        for client in waiting:
            if not client.closed and client.state == TCP_SYN_SENT:
                client.knock()

    def _stop_listening(self) -> None:
        self._listening = False
        backlog, self._backlog = self._backlog, collections.deque()
        self.network.pending -= len(backlog)
        for server in backlog:
            server.inbox.clear()
            server.reset_peer()
            server.close()
        self._admit()

    # ------------------------------------------------------------ connecting

    def connect(self, address: bytes, caller: SocketCaller) -> None:  # noqa: ARG002
        if family_of(address) == AF_UNSPEC:
            self._disconnect()
            return
        if self._connecting:
            self._tell_outcome()
            return
        if self._listening or self.peer is not None:
            raise SyscallError(errno.EISCONN)
        remote = self.route(address)
        slot = None if remote.is_loopback else self.network.outside.ask("connect", "tcp", remote)
        fresh = not self.local.port
        local = self.local if not self.local.is_any else Endpoint(self.source_for(remote).host, self.local.port)
        if fresh:
            try:
                self.ports.bind(self, local)
            except SyscallError:
                if slot is not None:
                    slot.close()
                raise SyscallError(errno.EADDRNOTAVAIL) from None
        else:
            self.local = local
        self.remote = remote
        self._connecting, self._dead, self._ended, self.shut = True, False, False, 0
        if slot is None:
            self.knock()
        else:
            self.relay = Relay(self.network.outside, slot, self, TcpSocket(self.network, self.family))
        raise SyscallError(errno.EINPROGRESS)

    def knock(self) -> None:
        """The connection request reaches the other side: refused, taken into the backlog, or kept waiting for room in it."""
        remote = self.remote
        assert remote is not None
        listeners = [bound for bound in self.ports.at(remote.port) if bound.is_listening]
        listener = best_match(listeners, remote, self.local)
        if not isinstance(listener, TcpSocket) or self.network.is_full:
            self.reset(errno.ECONNREFUSED)
        elif len(listener._backlog) > listener._limit:
            listener.on_way[self] = None
        else:
            server = TcpSocket(self.network, listener.family, listener.owner)
            server.settings = dict(listener.settings)
            server.inbox.inline = listener.inbox.inline
            server.remote = self.local
            self.ports.add(server, remote)
            server.peer, self.peer = self, server
            listener._backlog.append(server)
            self.network.pending += 1
            listener.queue.wake(READABLE)
            self.queue.wake(WRITABLE)

    def join(self, peer: TcpSocket) -> None:
        """The outside has answered; `peer` stands for it."""
        peer.peer, self.peer = self, peer
        peer.inbox.inline = True
        self.queue.wake(WRITABLE)

    def break_off(self, relay: Relay, error: int) -> None:
        """The way to the outside is broken, or never was; an earlier one may be no concern any more."""
        if self.relay is relay:
            self.reset(errno.EPIPE if self.state == TCP_CLOSE_WAIT else error)

    def _give_up(self) -> None:
        """An attempt to reach the outside, if there is one under way."""
        relay, self.relay = self.relay, None
        if relay is not None and self.peer is None:
            relay.cancel()

    def _tell_outcome(self) -> None:
        """A connect(2) after the one that began: done, still on the way, or failed; then another attempt may be made."""
        if self.state == TCP_SYN_SENT:
            raise SyscallError(errno.EALREADY)
        self._connecting = False
        if self.peer is None:
            error = self.take_error() or errno.ECONNABORTED
            self.remote, self.shut, self._dead = None, 0, False
            raise SyscallError(error)

    def _disconnect(self) -> None:
        """connect(2) to AF_UNSPEC: as a new socket, with its port if that was asked for."""
        if self._listening:
            self._stop_listening()
        self._give_up()
        self.reset_peer()
        self.inbox.clear()
        self.peer = self.remote = None
        self._connecting = self._dead = self._ended = False
        self.shut = self.error = 0
        self.queue.wake(ANYTHING)

    # ------------------------------------------------------------ ends

    def reset(self, error: int) -> None:
        """A reset arrives."""
        if self.state == TCP_CLOSE:
            return
        self._dead = True
        self.shut = SHUTDOWN_MASK
        self.fail(error)

    def reset_peer(self) -> None:
        if self.peer is not None and not self.peer.closed and self.state != TCP_CLOSE:
            self.peer.reset(errno.EPIPE if self.peer.state == TCP_CLOSE_WAIT else errno.ECONNRESET)

    def end(self) -> None:
        """The other side has sent its last byte; after a reset that means nothing."""
        if self._dead:
            return
        self._ended = True
        self.shut |= RCV_SHUTDOWN
        self.queue.wake(ANYTHING)

    def shutdown(self, how: int) -> None:
        bits = shutdown_bits(how)
        state = self.state
        if state == TCP_CLOSE:
            raise SyscallError(errno.ENOTCONN)
        if state == TCP_LISTEN:
            if bits & RCV_SHUTDOWN:
                self._stop_listening()
        elif state == TCP_SYN_SENT:
            self._disconnect()
        else:
            sends = bits & SEND_SHUTDOWN and not self.shut & SEND_SHUTDOWN
            self.shut |= bits
            if sends and self.peer is not None and not self.peer.closed:
                self.peer.end()
        self.queue.wake(ANYTHING)

    def close(self) -> None:
        if self._listening:
            self._stop_listening()
        if self.peer is not None and not self.peer.closed and self.state != TCP_CLOSE:
            if self.inbox.readable or options.lingers(self.settings.get((SOL_SOCKET, SO_LINGER))):
                self.reset_peer()
            elif not self.shut & SEND_SHUTDOWN:
                self.peer.end()
        self._give_up()
        self.inbox.clear()
        self.shut = SHUTDOWN_MASK
        super().close()
        if self.peer is not None:
            self.peer.queue.wake()

    # ------------------------------------------------------------ bytes

    def send(self, message: Outgoing) -> int:
        peer = self.peer
        if self.state == TCP_SYN_SENT:
            raise BlockingIOError(errno.EAGAIN, "not connected yet")
        if self.error or self.shut & SEND_SHUTDOWN or peer is None:
            error = self.take_error() or errno.EPIPE
            raise BrokenPipeError(error, "closed") if error == errno.EPIPE else SyscallError(error)
        if not message.data:
            return 0
        if peer.closed:
            # What the buffers hold is sent, and answered with a reset.
            self.reset(errno.EPIPE)
            return min(len(message.data), self._send_limit)
        limit = self._send_limit
        if peer.inbox.charge >= limit:
            raise BlockingIOError(errno.EAGAIN, "the buffers are full")
        if message.flags & MSG_OOB:
            taken = peer.inbox.put(message.data[:-1], limit)
            if taken == len(message.data) - 1:
                taken += peer.inbox.put_urgent(message.data[-1:], limit)
            peer.queue.wake(READABLE | POLLPRI)
            return taken
        taken = peer.inbox.put(message.data, limit)
        peer.queue.wake(READABLE)
        return taken

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_ERRQUEUE:
            raise SyscallError(errno.EAGAIN)
        if self._listening:
            raise SyscallError(errno.ENOTCONN)
        if flags & MSG_OOB:
            return self._receive_urgent(flags)
        if self.inbox.readable:
            incoming = self.inbox.get(length, peek=bool(flags & MSG_PEEK))
            if self.peer is not None and self.peer.has_room:
                self.peer.queue.wake(WRITABLE)
            return incoming
        if self._ended:
            return Incoming(b"")
        self.raise_error()
        if self.shut & RCV_SHUTDOWN:
            return Incoming(b"")
        if self.state == TCP_CLOSE:
            raise SyscallError(errno.ENOTCONN)
        raise BlockingIOError(errno.EAGAIN, "nothing to read")

    def _receive_urgent(self, flags: int) -> Incoming:
        urgent = self.inbox.urgent
        if not urgent or self.inbox.inline:
            raise SyscallError(errno.EINVAL)
        if not flags & MSG_PEEK:
            self.inbox.urgent = b""
        return Incoming(urgent, flags=MSG_OOB)

    @property
    def _send_limit(self) -> int:
        """The send buffer here and the receive buffer there, which are one queue."""
        assert self.peer is not None
        set_ = (SOL_SOCKET, SO_SNDBUF) in self.settings
        return (self.send_buffer if set_ else _SEND_TUNED) + self.peer.receive_buffer

    @property
    def has_room(self) -> bool:
        """Whether poll(2) calls it writable: with a third of the buffers free."""
        return self.peer is not None and self.peer.inbox.charge * 3 <= self._send_limit * 2

    def option_changed(self, level: int, name: int) -> None:
        if (level, name) == (SOL_SOCKET, SO_OOBINLINE):
            self.inbox.inline = bool(self.setting(SO_OOBINLINE))

    # ------------------------------------------------------------ events

    def poll(self) -> int:
        if self._listening:
            return READABLE if self._backlog else 0
        state = self.state
        mask = POLLERR if self.error else 0
        if self.shut == SHUTDOWN_MASK or state == TCP_CLOSE:
            mask |= POLLHUP
        if self.shut & RCV_SHUTDOWN:
            mask |= READABLE | POLLRDHUP
        if state != TCP_SYN_SENT:
            if self.inbox.readable:
                mask |= READABLE
            if self.shut & SEND_SHUTDOWN or self.peer is None or self.has_room:
                mask |= WRITABLE
            if self.inbox.urgent:
                mask |= POLLPRI
        return mask

    def peer_name(self) -> bytes:
        if self.state in (TCP_CLOSE, TCP_SYN_SENT, TCP_LISTEN):
            raise SyscallError(errno.ENOTCONN)
        return super().peer_name()

    def pending_input(self) -> int:
        if self._listening:
            raise SyscallError(errno.EINVAL)
        return self.inbox.readable

    def pending_output(self) -> int:
        if self._listening:
            raise SyscallError(errno.EINVAL)
        return max(self.peer.inbox.charge - self.peer.receive_buffer, 0) if self.peer is not None else 0

    @property
    def at_mark(self) -> bool:
        return self.inbox.at_mark
