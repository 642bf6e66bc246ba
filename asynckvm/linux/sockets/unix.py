"""Unix sockets: names, connections through a listening socket, and the byte streams made of them.

What message-keeping kinds have of their own is in `unix_messages`. Errors and their order are those of net/unix/af_unix.c.
Source: unix(7), socketpair(2), listen(2), connect(2), shutdown(2).
"""

from __future__ import annotations

import collections
import errno
import weakref
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SO_PASSCRED,
    SOMAXCONN,
)
from asynckvm.linux.sockets.address import unix_address, unix_name
from asynckvm.linux.sockets.base import Socket, shutdown_bits
from asynckvm.linux.sockets.message import NOBODY, Incoming, Outgoing, Ucred
from asynckvm.linux.sockets.stream import Channel
from asynckvm.linux.wait import ANYTHING, POLLERR, POLLHUP, POLLRDHUP, POLLWRBAND, READABLE, WRITABLE

if TYPE_CHECKING:
    from typing import Self

    from asynckvm.linux.sockets.datagrams import Datagrams
    from asynckvm.linux.sockets.message import SocketCaller
    from asynckvm.linux.sockets.network import Network
    from asynckvm.linux.sockets.rights import Rights
    from asynckvm.linux.task import Task

_FAMILY_ONLY: Final = 2


class UnixSocket(Socket):
    """Names and queues, which all unix sockets have. `blocked` are sockets that wait for room in this one."""

    inbox: Channel | Datagrams
    peer: UnixSocket | None

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, AF_UNIX, kind, 0, owner)
        self.bound = b""
        self._place: object = None
        self.peer = None
        self.listener: UnixSocket | None = None  # in whose backlog it is
        # Weak, so that sockets which are closed meanwhile leave nothing behind.
        self.blocked: weakref.WeakKeyDictionary[UnixSocket, None] = weakref.WeakKeyDictionary()

    # ------------------------------------------------------------ names

    def bind(self, address: bytes, caller: SocketCaller) -> None:
        name = unix_name(address)
        if len(address) == _FAMILY_ONLY:
            self.autobind()
            return
        if self.bound:
            raise SyscallError(errno.EINVAL)
        if name.startswith(b"\0"):
            self.network.bind_name(self.kind, name, self)
        elif name:
            self._place = caller.make_node(name, self)
        else:
            raise SyscallError(errno.ENOENT)
        self.bound = name

    def autobind(self) -> None:
        if not self.bound:
            name = self.network.free_name(self.kind)
            self.network.bind_name(self.kind, name, self)
            self.bound = name

    def name(self) -> bytes:
        return unix_address(self.bound)

    def peer_name(self) -> bytes:
        if self.peer is None:
            raise SyscallError(errno.ENOTCONN)
        return self.peer.name()

    @property
    def sender_address(self) -> bytes:
        """What receivers are told: nothing for a socket without a name."""
        return self.name() if self.bound else b""

    def find(self, address: bytes, caller: SocketCaller | None) -> UnixSocket:
        """The socket with that name. ECONNREFUSED when there is none any more, EPROTOTYPE when it is of another kind."""
        name = unix_name(address)
        if len(address) <= _FAMILY_ONLY:
            raise SyscallError(errno.EINVAL)
        if name.startswith(b"\0"):
            found = self.network.find_name(self.kind, name)
        elif caller is not None and name:
            found = caller.find_node(name)
        else:
            raise SyscallError(errno.ENOENT)
        if not isinstance(found, UnixSocket) or found.closed:
            raise SyscallError(errno.ECONNREFUSED)
        if found.kind != self.kind:
            raise SyscallError(errno.EPROTOTYPE)
        return found

    def write_for(self, task: Task, data: bytes) -> int:
        """A write goes with the credentials of who writes, which need not be who made the socket."""
        return self.send(Outgoing(data, MSG_DONTWAIT if self.nonblocking else 0, credentials=Ucred.of(task)))

    # ------------------------------------------------------------ queues

    @property
    def keeper(self) -> UnixSocket:
        """Who must live for this socket to be read: a listener, as long as nobody accepted it."""
        return self.listener if self.listener is not None else self

    @property
    def outstanding(self) -> int:
        """What this socket has sent and nobody has read."""
        raise SyscallError(errno.EINVAL)

    @property
    def has_room(self) -> bool:
        """Whether poll(2) calls it writable: with three quarters of the buffer free."""
        return self.outstanding * 4 <= self.send_buffer

    def wake_blocked(self) -> None:
        """Room was made: whoever waited for it tries again."""
        if not self.blocked:
            return
        blocked = list(self.blocked)
        self.blocked.clear()
        for socket in blocked:
            socket.queue.wake(WRITABLE)

    def rights_for(self, message: Outgoing, receiver: UnixSocket) -> Rights | None:
        """The message's files, in flight to `receiver`."""
        if not message.files:
            return None
        return self.network.flight.send(message.files, receiver, message.files_limit)

    def credentials_for(self, message: Outgoing) -> Ucred:
        if message.credentials is not None:
            return message.credentials
        return message.caller.credentials if message.caller is not None else self.owner

    def passed(self, incoming: Incoming) -> Incoming:
        """Credentials are only told to who asked for them."""
        incoming.credentials = (incoming.credentials or NOBODY) if self.setting(SO_PASSCRED) else None
        return incoming

    # ------------------------------------------------------------ ends

    def shutdown(self, how: int) -> None:
        self.shut |= shutdown_bits(how)
        self.queue.wake(ANYTHING)

    def close(self) -> None:
        self.closed = True
        self.shut = SHUTDOWN_MASK
        self._place = None
        if self.bound.startswith(b"\0") and self.network.find_name(self.kind, self.bound) is self:
            self.network.unbind_name(self.kind, self.bound)
        self.inbox.clear()
        self.wake_blocked()

    def pending_output(self) -> int:
        return self.outstanding


class UnixConnection(UnixSocket):
    """A socket that is connected through a listening one. `backlog` are connections that nobody accepted yet."""

    peer: UnixConnection | None

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, kind, owner)
        self._listening = False
        self._limit = 0
        self._backlog: collections.deque[Self] = collections.deque()
        self._peer_credentials = NOBODY

    def link(self, other: Self, mine: Ucred, others: Ucred) -> None:
        """Connect two sockets; each side is told the other's credentials."""
        self.peer, other.peer = other, self
        self._peer_credentials, other._peer_credentials = others, mine

    @property
    def is_listening(self) -> bool:
        return self._listening

    @property
    def peer_credentials(self) -> Ucred:
        return self._peer_credentials

    def listen(self, backlog: int, caller: SocketCaller) -> None:
        if not self.bound or self.peer is not None:
            raise SyscallError(errno.EINVAL)
        self._listening = True
        self._limit = min(backlog & 0xFFFF_FFFF, SOMAXCONN)
        self._peer_credentials = caller.credentials
        self.wake_blocked()

    def connect(self, address: bytes, caller: SocketCaller) -> None:
        listener = self.find(address, caller)
        if self.setting(SO_PASSCRED):
            self.autobind()
        if not isinstance(listener, type(self)) or not listener._listening or listener.shut & RCV_SHUTDOWN:
            raise SyscallError(errno.ECONNREFUSED)
        if len(listener._backlog) > listener._limit:
            listener.blocked[self] = None
            raise BlockingIOError(errno.EAGAIN, "the backlog is full")
        if self.peer is not None:
            raise SyscallError(errno.EISCONN)
        if self._listening:
            raise SyscallError(errno.EINVAL)
        if self.network.is_full:
            raise SyscallError(errno.ENFILE)
        server = type(self)(self.network, self.kind, listener.owner)
        server.bound = listener.bound
        server.listener = listener
        server.settings = {key: value for key, value in listener.settings.items() if key[1] == SO_PASSCRED}
        self.link(server, caller.credentials, listener._peer_credentials)
        listener._backlog.append(server)
        self.network.pending += 1
        self.queue.wake(ANYTHING)
        listener.queue.wake(READABLE)

    def accept(self) -> Socket:
        if not self._listening or (self.shut & RCV_SHUTDOWN and not self._backlog):
            raise SyscallError(errno.EINVAL)
        if not self._backlog:
            raise BlockingIOError(errno.EAGAIN, "no connection")
        server = self._backlog.popleft()
        self.network.pending -= 1
        server.listener = None
        self.wake_blocked()
        return server

    def shutdown(self, how: int) -> None:
        bits = shutdown_bits(how)
        super().shutdown(how)
        if self.peer is not None:
            # What one side does not read the other cannot write.
            mirrored = (SEND_SHUTDOWN if bits & RCV_SHUTDOWN else 0) | (RCV_SHUTDOWN if bits & SEND_SHUTDOWN else 0)
            self.peer.shut |= mirrored
            self.peer.queue.wake(ANYTHING)

    def close(self) -> None:
        lost = self.unread or self.listener is not None
        super().close()
        backlog, self._backlog = self._backlog, collections.deque()
        self.network.pending -= len(backlog)
        for server in backlog:
            server.close()
        if self.peer is not None and not self.peer.closed:
            self.peer.shut = SHUTDOWN_MASK
            if lost:
                self.peer.error = errno.ECONNRESET
            self.peer.queue.wake(ANYTHING)

    @property
    def unread(self) -> bool:
        """Whether something was received that nobody read."""
        raise SyscallError(errno.EINVAL)

    @property
    def outstanding(self) -> int:
        return self.peer.inbox.charge if self.peer is not None else 0

    def after_read(self) -> None:
        """The peer may have room to send again."""
        if self.peer is not None and self.peer.has_room:
            self.peer.queue.wake(WRITABLE)

    def poll(self) -> int:
        mask = POLLERR if self.error else 0
        if self.shut == SHUTDOWN_MASK or (self.peer is None and not self._listening):
            mask |= POLLHUP
        if self.shut & RCV_SHUTDOWN:
            mask |= POLLRDHUP | READABLE
        if self._backlog or self.unread:
            mask |= READABLE
        if not self._listening and self.has_room:
            mask |= WRITABLE | POLLWRBAND
        return mask


class UnixStream(UnixConnection):
    """SOCK_STREAM."""

    peer: UnixStream | None

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, kind, owner)
        self.inbox: Channel = Channel(network.buffers)

    @property
    def unread(self) -> bool:
        return self.inbox.size > 0

    def send(self, message: Outgoing) -> int:
        peer = self.peer
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if message.address:
            raise SyscallError(errno.EOPNOTSUPP if peer is None else errno.EISCONN)
        if peer is None:
            raise SyscallError(errno.ENOTCONN)
        if self.shut & SEND_SHUTDOWN or peer.shut & RCV_SHUTDOWN:
            raise BrokenPipeError(errno.EPIPE, "nobody will read it")
        if not message.data:
            return 0
        if peer.inbox.charge >= self.send_buffer:
            raise BlockingIOError(errno.EAGAIN, "the buffer is full")
        rights = self.rights_for(message, peer)
        try:
            taken = peer.inbox.put(message.data, self.send_buffer, self.credentials_for(message), rights)
        except SyscallError:
            if rights is not None:
                rights.drop()
            raise
        peer.queue.wake(READABLE)
        return taken

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_OOB or self.peer is None:
            raise SyscallError(errno.EINVAL)
        if not self.inbox.size:
            self.raise_error()
            if self.shut & RCV_SHUTDOWN:
                return Incoming(b"")
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        incoming = self.inbox.get(length, peek=bool(flags & MSG_PEEK), separate=bool(self.setting(SO_PASSCRED)))
        incoming.address = self.peer.sender_address
        if not flags & MSG_PEEK:
            self.after_read()
        return self.passed(incoming)

    def pending_input(self) -> int:
        if self._listening:
            raise SyscallError(errno.EINVAL)
        return self.inbox.size
