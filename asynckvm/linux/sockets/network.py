"""The network of one sandbox: names, ports and memory that all its sockets share.

There is one interface, lo; what leads out is `outside`'s. Bounds: the memory of all queues, connections nobody accepted, and the
descriptors in flight.
Source: unix(7), ip(7); bind conflicts: inet_csk_bind_conflict() of net/ipv4/inet_connection_sock.c.
"""

from __future__ import annotations

import collections
import errno
import itertools
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.quota import Quota
from asynckvm.linux.sockets.address import ANY, Endpoint
from asynckvm.linux.sockets.outside import Outside
from asynckvm.linux.sockets.rights import InFlight

if TYPE_CHECKING:
    from collections.abc import Iterator

# net.ipv4.ip_local_port_range.
_EPHEMERAL: Final = range(32768, 61000)
# Names that autobind gives: five hexadecimal digits.
_AUTOBIND: Final = 1 << 20
_BUFFERS: Final = 64 << 20
_PENDING: Final = 16384


class Bound(Protocol):
    """A socket as far as the ports must know it: what it is bound to, and what decides whether others may be too."""

    local: Endpoint
    remote: Endpoint | None

    @property
    def is_listening(self) -> bool: ...
    @property
    def dual_stack(self) -> bool:
        """A v6 wildcard that means IPv4 as well."""

    @property
    def reuse_address(self) -> bool: ...
    @property
    def reuse_port(self) -> bool: ...
    @property
    def user(self) -> int: ...


class Ports:
    """The port numbers of one protocol."""

    def __init__(self, *, listens: bool) -> None:
        # Of TCP, a listening socket excludes others even with SO_REUSEADDR.
        self._listens = listens
        self._bound: dict[int, dict[Bound, None]] = collections.defaultdict(dict)
        self._next = itertools.count(_EPHEMERAL.start + 1)

    def at(self, port: int) -> Iterator[Bound]:
        """Who is bound to `port`, the latest first."""
        return reversed(self._bound.get(port, {}))

    def bind(self, socket: Bound, endpoint: Endpoint) -> None:
        """Give `socket` that address, with a free port if it is 0. EADDRINUSE when another socket has it."""
        port = endpoint.port or self._free(socket, endpoint.host)
        endpoint = Endpoint(endpoint.host, port)
        if any(self._conflict(socket, endpoint, other) for other in self._bound.get(port, ())):
            raise SyscallError(errno.EADDRINUSE)
        self.add(socket, endpoint)

    def add(self, socket: Bound, endpoint: Endpoint) -> None:
        """As `bind`, without a question: an accepted connection has the address of its listener."""
        socket.local = endpoint
        self._bound[endpoint.port][socket] = None

    def remove(self, socket: Bound) -> None:
        """Not to be there is fine."""
        port = socket.local.port
        here = self._bound.get(port)
        if here is not None and socket in here:
            del here[socket]
            if not here:
                del self._bound[port]

    def check_listen(self, socket: Bound) -> None:
        """EADDRINUSE when another socket listens at the same address."""
        for other in self._bound.get(socket.local.port, ()):
            shared = socket.reuse_port and other.reuse_port and socket.user == other.user
            if other is not socket and other.is_listening and not shared and _overlap(socket, socket.local, other):
                raise SyscallError(errno.EADDRINUSE)

    def _free(self, socket: Bound, host: bytes) -> int:
        """A port that nobody has at an overlapping address. EADDRINUSE when there is none."""
        for _ in _EPHEMERAL:
            port = _EPHEMERAL[next(self._next) % len(_EPHEMERAL)]
            if not any(_overlap(socket, Endpoint(host, port), other) for other in self._bound.get(port, ())):
                return port
        raise SyscallError(errno.EADDRINUSE)

    def _conflict(self, socket: Bound, endpoint: Endpoint, other: Bound) -> bool:
        if other is socket or not _overlap(socket, endpoint, other):
            return False
        if socket.reuse_port and other.reuse_port and socket.user == other.user:
            return False
        return not (socket.reuse_address and other.reuse_address and not (self._listens and other.is_listening))


def _overlap(socket: Bound, endpoint: Endpoint, other: Bound) -> bool:
    """Whether one packet could be meant for both."""
    host, there = endpoint.host, other.local.host
    if host == there:
        return True
    if endpoint.is_v4 == other.local.is_v4:
        return endpoint.is_any or other.local.is_any
    return (host == ANY and socket.dual_stack) or (there == ANY and other.dual_stack)


class Network:
    """What the sockets of one kernel share."""

    def __init__(self, outside: Outside | None = None, *, buffers: int = _BUFFERS) -> None:
        self.outside = outside if outside is not None else Outside()
        # Bytes that the queues of all sockets hold.
        self.buffers = Quota(buffers, errno.ENOBUFS)
        self.flight = InFlight()
        self.tcp = Ports(listens=True)
        self.udp = Ports(listens=False)
        self.udplite = Ports(listens=False)
        self.netlink: dict[int, object] = {}
        # Connections that nobody has accepted yet: no open files, but as much memory.
        self.pending = 0
        # By kind too: a stream and a datagram socket may have the same name.
        self._abstract: dict[tuple[int, bytes], object] = {}
        self._inodes = itertools.count(10000)
        self._names = itertools.count()

    @property
    def is_full(self) -> bool:
        """Whether there are too many connections that wait to be accepted, whatever the backlogs."""
        return self.pending >= _PENDING

    def next_inode(self) -> int:
        return next(self._inodes)

    # ------------------------------------------------------------ abstract names of unix sockets

    def bind_name(self, kind: int, name: bytes, socket: object) -> None:
        if (kind, name) in self._abstract:
            raise SyscallError(errno.EADDRINUSE)
        self._abstract[kind, name] = socket

    def free_name(self, kind: int) -> bytes:
        """For autobind. ENOSPC when all are taken."""
        for _ in range(_AUTOBIND):
            name = b"\0%05x" % (next(self._names) % _AUTOBIND)
            if (kind, name) not in self._abstract:
                return name
        raise SyscallError(errno.ENOSPC)

    def find_name(self, kind: int, name: bytes) -> object | None:
        return self._abstract.get((kind, name))

    def unbind_name(self, kind: int, name: bytes) -> None:
        self._abstract.pop((kind, name), None)

    async def close(self) -> None:
        """The kernel ends, every socket is closed: what is still in flight is released, and what leads out ends."""
        self.flight.close()
        await self.outside.close()
