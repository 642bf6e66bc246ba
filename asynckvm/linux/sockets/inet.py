"""What TCP and UDP sockets have in common: addresses, ports, and the options of IP.

A packet to this machine's own addresses is handed to the socket it is meant for and never leaves the sandbox; about every other
address the network's policy is asked. Source: ip(7), ipv6(7); inet_bind() of net/ipv4/af_inet.c.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets import options
from asynckvm.linux.sockets.abi import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SO_REUSEPORT,
)
from asynckvm.linux.sockets.address import (
    ANY,
    ANY4,
    LOOPBACK,
    LOOPBACK4,
    OUTWARD,
    OUTWARD4,
    Endpoint,
    endpoint_address,
    parse_endpoint,
)
from asynckvm.linux.sockets.base import Socket
from asynckvm.linux.sockets.message import NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from asynckvm.linux.sockets.message import SocketCaller, Ucred
    from asynckvm.linux.sockets.network import Bound, Network, Ports

_INT: Final = struct.Struct("<i")
_UNPRIVILEGED_PORT: Final = 1024
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_MTU_OF_LO: Final = 65536


def _mtu(socket: options.Subject, key: options.Key) -> bytes:  # noqa: ARG001
    socket.peer_name()  # ENOTCONN without a route
    return _INT.pack(_MTU_OF_LO)


_IP: Final = {**options.IP, _IP_MTU: options.Option(_mtu, options.read_only)}
_IPV6: Final = {**options.IPV6, _IPV6_MTU: options.Option(_mtu, options.read_only)}


class InetSocket(Socket):
    """A socket with a local endpoint, and a remote one when it is connected."""

    no_level = errno.ENOPROTOOPT

    def __init__(
        self,
        network: Network,
        family: int,
        kind: int,
        protocol: int,
        owner: Ucred = NOBODY,
        *,
        ports: Ports,
        levels: Mapping[int, options.Table],
    ) -> None:
        super().__init__(network, family, kind, protocol, owner)
        self.levels = {**levels, IPPROTO_IP: _IP}
        if family == AF_INET6:
            self.levels[IPPROTO_IPV6] = _IPV6
        self.ports = ports
        self.unbound = Endpoint(ANY4 if family == AF_INET else ANY)
        self.local = self.unbound
        self.remote: Endpoint | None = None

    # ------------------------------------------------------------ what the ports ask

    @property
    def dual_stack(self) -> bool:
        return self.family == AF_INET6 and not self.setting(IPV6_V6ONLY, IPPROTO_IPV6)

    @property
    def reuse_address(self) -> bool:
        return bool(self.setting(SO_REUSEADDR))

    @property
    def reuse_port(self) -> bool:
        return bool(self.setting(SO_REUSEPORT))

    @property
    def user(self) -> int:
        return self.owner.user

    # ------------------------------------------------------------ names

    def bind(self, address: bytes, caller: SocketCaller) -> None:
        endpoint = parse_endpoint(self.family, address)
        if self.family == AF_INET6 and endpoint.is_v4 and not self.dual_stack:
            raise SyscallError(errno.EINVAL)
        if not self.may_bind(endpoint):
            raise SyscallError(errno.EADDRNOTAVAIL)
        if 0 < endpoint.port < _UNPRIVILEGED_PORT and caller.credentials.user != 0:
            raise SyscallError(errno.EACCES)
        if self.local.port or self.remote is not None:
            raise SyscallError(errno.EINVAL)
        self.ports.bind(self, endpoint)

    def may_bind(self, endpoint: Endpoint) -> bool:
        return endpoint.is_any or endpoint.is_loopback

    def autobind(self) -> None:
        """Take a free port, if there is none yet."""
        if not self.local.port:
            self.ports.bind(self, self.local)

    def unbind(self) -> None:
        self.ports.remove(self)
        self.local = self.unbound

    def name(self) -> bytes:
        return endpoint_address(self.family, self.local)

    def peer_name(self) -> bytes:
        if self.remote is None:
            raise SyscallError(errno.ENOTCONN)
        return endpoint_address(self.family, self.remote)

    # ------------------------------------------------------------ ways

    def parse(self, address: bytes) -> Endpoint:
        """The endpoint of a connect(2) or a sendto(2)."""
        return parse_endpoint(self.family, address)

    def route(self, address: bytes) -> Endpoint:
        """Where a packet to `address` goes, outside unless that is a loopback address. ENETUNREACH when to several, or no way."""
        endpoint = self.parse(address).local()
        several = endpoint.is_multicast or (endpoint.is_broadcast and not endpoint.is_loopback)
        if several or (self.family == AF_INET6 and endpoint.is_v4 and not self.dual_stack):
            raise SyscallError(errno.ENETUNREACH)
        return endpoint

    def source_for(self, remote: Endpoint) -> Endpoint:
        """The local endpoint as `remote` sees it."""
        if not self.local.is_any:
            return self.local
        if remote.is_loopback:
            return Endpoint(LOOPBACK4 if remote.is_v4 else LOOPBACK, self.local.port)
        return Endpoint(OUTWARD4 if remote.is_v4 else OUTWARD, self.local.port)

    # ------------------------------------------------------------ options

    def get_option(self, level: int, name: int) -> bytes:
        if level not in self.levels and self.family == AF_INET:
            # Unlike setsockopt(2), and unlike IPv6.
            raise SyscallError(errno.EOPNOTSUPP)
        return super().get_option(level, name)

    def set_option(self, level: int, name: int, value: bytes) -> None:
        if (level, name) == (IPPROTO_IPV6, IPV6_V6ONLY) and self.local.port:
            raise SyscallError(errno.EINVAL)
        super().set_option(level, name, value)

    def close(self) -> None:
        self.closed = True
        self.ports.remove(self)


def best_match(candidates: Iterable[Bound], destination: Endpoint, source: Endpoint) -> Bound | None:
    """Who a packet is for: the connected one, then the one bound to that address, then a wildcard of the same family.

    Among equal ones, which share the port by SO_REUSEPORT, the source decides.
    """
    best: list[Bound] = []
    score = 0
    for candidate in candidates:
        points = _points(candidate, destination, source)
        if points > score:
            best, score = [candidate], points
        elif points and points == score and candidate.reuse_port and best[0].reuse_port:
            best.append(candidate)
    return best[source.port % len(best)] if best else None


def _points(candidate: Bound, destination: Endpoint, source: Endpoint) -> int:
    host = candidate.local.host
    if candidate.remote is not None:
        if candidate.remote != source or host != destination.host:
            return 0
        return 8
    if host == destination.host:
        return 4
    if host == (ANY4 if destination.is_v4 else ANY):
        return 2
    return 1 if host == ANY and destination.is_v4 and candidate.dual_stack else 0
