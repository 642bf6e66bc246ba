"""Which kinds of sockets exist: socket(2) and socketpair(2) by family, type and protocol, with Linux's refusals."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import (
    AF_INET,
    AF_INET6,
    AF_MAX,
    AF_NETLINK,
    AF_UNIX,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from asynckvm.linux.sockets.netlink import NETLINK_ROUTE, NetlinkSocket
from asynckvm.linux.sockets.tcp import TcpSocket
from asynckvm.linux.sockets.udp import UdpSocket
from asynckvm.linux.sockets.unix import UnixConnection, UnixSocket, UnixStream
from asynckvm.linux.sockets.unix_messages import UnixDatagram, UnixSeqpacket

if TYPE_CHECKING:
    from asynckvm.linux.sockets.base import Socket
    from asynckvm.linux.sockets.message import Ucred
    from asynckvm.linux.sockets.network import Network

_SOCK_MAX: Final = 11
_UNIX: Final[dict[int, type[UnixStream | UnixDatagram | UnixSeqpacket]]] = {
    SOCK_STREAM: UnixStream,
    SOCK_DGRAM: UnixDatagram,
    SOCK_SEQPACKET: UnixSeqpacket,
}


def create(network: Network, family: int, kind: int, protocol: int, owner: Ucred) -> Socket:
    """A new socket. EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT or EPERM when there is no such kind."""
    if not 0 <= family < AF_MAX:
        raise SyscallError(errno.EAFNOSUPPORT)
    if not 0 <= kind < _SOCK_MAX:
        raise SyscallError(errno.EINVAL)
    if family == AF_UNIX:
        return _unix(network, kind, protocol, owner)
    if family in (AF_INET, AF_INET6):
        return _inet(network, family, kind, protocol, owner)
    if family == AF_NETLINK:
        if kind not in (SOCK_RAW, SOCK_DGRAM):
            raise SyscallError(errno.ESOCKTNOSUPPORT)
        if protocol != NETLINK_ROUTE:
            raise SyscallError(errno.EPROTONOSUPPORT)
        return NetlinkSocket(network, kind, owner)
    raise SyscallError(errno.EAFNOSUPPORT)


def pair(network: Network, family: int, kind: int, protocol: int, owner: Ucred) -> tuple[Socket, Socket]:
    """Two sockets, connected to each other: EOPNOTSUPP for all families but AF_UNIX."""
    if family != AF_UNIX:
        create(network, family, kind, protocol, owner).close()
        raise SyscallError(errno.EOPNOTSUPP)
    first, second = (_unix(network, kind, protocol, owner) for _ in range(2))
    if isinstance(first, UnixDatagram) and isinstance(second, UnixDatagram):
        first.link(second)
    elif isinstance(first, UnixConnection) and isinstance(second, UnixConnection):
        first.link(second, owner, owner)
    return first, second


def _unix(network: Network, kind: int, protocol: int, owner: Ucred) -> UnixSocket:
    if protocol not in (0, AF_UNIX):
        raise SyscallError(errno.EPROTONOSUPPORT)
    made = _UNIX.get(SOCK_DGRAM if kind == SOCK_RAW else kind)
    if made is None:
        raise SyscallError(errno.ESOCKTNOSUPPORT)
    return made(network, SOCK_DGRAM if kind == SOCK_RAW else kind, owner)


def _inet(network: Network, family: int, kind: int, protocol: int, owner: Ucred) -> Socket:
    if kind == SOCK_RAW:
        # Only for who may administer the network, which nobody here may.
        raise SyscallError(errno.EPERM if protocol else errno.EPROTONOSUPPORT)
    if kind == SOCK_STREAM and protocol in (0, IPPROTO_TCP):
        return TcpSocket(network, family, owner)
    if kind == SOCK_DGRAM and protocol in (0, IPPROTO_UDP, IPPROTO_UDPLITE):
        return UdpSocket(network, family, protocol or IPPROTO_UDP, owner)
    raise SyscallError(errno.EPROTONOSUPPORT if kind in (SOCK_STREAM, SOCK_DGRAM) else errno.ESOCKTNOSUPPORT)
