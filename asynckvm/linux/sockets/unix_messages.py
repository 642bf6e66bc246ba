"""Unix sockets that keep messages whole: datagrams to whoever has the name, and sequenced packets over a connection.

Source: unix(7); unix_dgram_sendmsg() and unix_dgram_recvmsg() of net/unix/af_unix.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import (
    AF_UNSPEC,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SO_PASSCRED,
)
from asynckvm.linux.sockets.address import family_of
from asynckvm.linux.sockets.datagrams import Datagram, Datagrams
from asynckvm.linux.sockets.message import NOBODY, Incoming
from asynckvm.linux.sockets.unix import UnixConnection, UnixSocket
from asynckvm.linux.wait import ANYTHING, POLLERR, POLLHUP, POLLRDHUP, POLLWRBAND, READABLE, WRITABLE

if TYPE_CHECKING:
    from asynckvm.linux.sockets.message import Outgoing, SocketCaller, Ucred
    from asynckvm.linux.sockets.network import Network

# net.unix.max_dgram_qlen: a queue is full with one more, unless it is that of a pair.
_QUEUE_MAX: Final = 10
# Of the send buffer a single message cannot use this much.
_RESERVED: Final = 32


def _check_size(socket: UnixSocket, message: Outgoing) -> None:
    """The refusals of a message that do not depend on who gets it."""
    if len(message.data) > socket.send_buffer - _RESERVED:
        raise SyscallError(errno.EMSGSIZE)
    socket.raise_error()
    if socket.shut & SEND_SHUTDOWN:
        # No SIGPIPE: that belongs to streams.
        raise SyscallError(errno.EPIPE)
    if socket.outstanding >= socket.send_buffer:
        raise BlockingIOError(errno.EAGAIN, "the buffer is full")


def _empty(socket: UnixSocket, flags: int) -> Incoming:
    """What a read of an empty queue answers."""
    socket.raise_error()
    if socket.shut & RCV_SHUTDOWN and not (flags & MSG_DONTWAIT and isinstance(socket, UnixDatagram)):
        return Incoming(b"")
    raise BlockingIOError(errno.EAGAIN, "nothing to read")


class UnixDatagram(UnixSocket):
    """SOCK_DGRAM (and SOCK_RAW, which is the same). `peer` is where messages without an address go."""

    peer: UnixDatagram | None

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, kind, owner)
        self.inbox: Datagrams = Datagrams(network.buffers)
        self._outstanding = 0

    def link(self, other: UnixDatagram) -> None:
        """For socketpair(2)."""
        self.peer, other.peer = other, self

    @property
    def outstanding(self) -> int:
        return self._outstanding

    def connect(self, address: bytes, caller: SocketCaller) -> None:
        peer: UnixDatagram | None = None
        if family_of(address) != AF_UNSPEC:
            if self.setting(SO_PASSCRED):
                self.autobind()
            peer = self._find_peer(address, caller)
        old, self.peer = self.peer, peer
        if old is not None and old is not peer:
            # What came from the old peer is no longer wanted, nor is what it would send.
            self.inbox.clear()
            self.wake_blocked()
            if old.peer is self and not old.closed:
                old.fail(errno.ECONNRESET)
        self.queue.wake(ANYTHING)

    def send(self, message: Outgoing) -> int:
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        target = self._find_peer(message.address, message.caller) if message.address else self.peer
        if target is None:
            raise SyscallError(errno.ENOTCONN)
        if self.setting(SO_PASSCRED):
            self.autobind()
        _check_size(self, message)
        if target.closed:
            self.peer = None
            raise SyscallError(errno.ECONNREFUSED)
        if target.shut & RCV_SHUTDOWN:
            raise SyscallError(errno.EPIPE)
        if target.is_full_for(self):
            target.blocked[self] = None
            raise BlockingIOError(errno.EAGAIN, "the receiver's queue is full")
        rights = self.rights_for(message, target)
        datagram = Datagram(message.data, self.sender_address, self.credentials_for(message), rights, received=self._received)
        target.inbox.put(datagram)
        self._outstanding += datagram.cost
        target.queue.wake(READABLE)
        return len(message.data)

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if not self.inbox:
            return _empty(self, flags)
        incoming = self.inbox.get(length, flags)
        if not flags & MSG_PEEK:
            self.wake_blocked()
        return self.passed(incoming)

    def is_full_for(self, sender: UnixDatagram) -> bool:
        return sender is not self and self.peer is not sender and len(self.inbox) > _QUEUE_MAX

    def poll(self) -> int:
        mask = POLLERR if self.error else 0
        if self.shut == SHUTDOWN_MASK:
            mask |= POLLHUP
        if self.shut & RCV_SHUTDOWN:
            mask |= POLLRDHUP | READABLE
        if self.inbox:
            mask |= READABLE
        if self.has_room:
            if self.peer is not None and self.peer.is_full_for(self):
                self.peer.blocked[self] = None
            else:
                mask |= WRITABLE | POLLWRBAND
        return mask

    def pending_input(self) -> int:
        return self.inbox.next_size

    def _find_peer(self, address: bytes, caller: SocketCaller | None) -> UnixDatagram:
        peer = self.find(address, caller)
        if not isinstance(peer, UnixDatagram):
            raise SyscallError(errno.EPROTOTYPE)
        if peer.peer is not None and peer.peer is not self:
            raise SyscallError(errno.EPERM)
        return peer

    def _received(self, cost: int) -> None:
        self._outstanding -= cost
        if self.has_room:
            self.queue.wake(WRITABLE)


class UnixSeqpacket(UnixConnection):
    """SOCK_SEQPACKET: a connection, with message boundaries."""

    peer: UnixSeqpacket | None

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, kind, owner)
        self.inbox: Datagrams = Datagrams(network.buffers)

    @property
    def unread(self) -> bool:
        return len(self.inbox) > 0

    def send(self, message: Outgoing) -> int:
        peer = self.peer
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if peer is None:
            raise SyscallError(errno.ENOTCONN)
        _check_size(self, message)
        if peer.shut & RCV_SHUTDOWN:
            raise SyscallError(errno.EPIPE)
        rights = self.rights_for(message, peer)
        peer.inbox.put(Datagram(message.data, self.sender_address, self.credentials_for(message), rights))
        peer.queue.wake(READABLE)
        return len(message.data)

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if self.peer is None:
            raise SyscallError(errno.ENOTCONN)
        if not self.inbox:
            return _empty(self, flags)
        incoming = self.inbox.get(length, flags)
        if not flags & MSG_PEEK:
            self.after_read()
        return self.passed(incoming)

    def pending_input(self) -> int:
        if self.is_listening:
            raise SyscallError(errno.EINVAL)
        return self.inbox.next_size
