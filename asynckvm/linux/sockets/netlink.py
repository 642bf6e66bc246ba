"""Route netlink sockets: enough for getifaddrs(3), if_nameindex(3) and getaddrinfo(3) to find lo, and nothing to change.

A request is answered at once, into the socket's own queue. Source: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets import interfaces, options
from asynckvm.linux.sockets.abi import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNSPEC,
    MSG_OOB,
    SHUTDOWN_MASK,
    SO_PASSCRED,
    SOL_SOCKET,
)
from asynckvm.linux.sockets.address import LOOPBACK, LOOPBACK4, family_of, netlink_address, parse_netlink
from asynckvm.linux.sockets.base import Socket
from asynckvm.linux.sockets.datagrams import Datagram, Datagrams
from asynckvm.linux.sockets.message import NOBODY, Incoming, Ucred
from asynckvm.linux.wait import POLLERR, POLLWRBAND, READABLE, WRITABLE

if TYPE_CHECKING:
    from asynckvm.linux.sockets.message import Outgoing, SocketCaller
    from asynckvm.linux.sockets.network import Network

NETLINK_ROUTE: Final = 0
SOL_NETLINK: Final = 270
_NLMSGHDR: Final = struct.Struct("<IHHII")
_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_MIN_TYPE = 2, 3, 16
_NLM_F_REQUEST, _NLM_F_MULTI, _NLM_F_ACK, _NLM_F_DUMP = 1, 2, 4, 0x300
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_RTM_GETROUTE: Final = 26
# The kinds of a noun are new, delete, get, set.
_GET: Final = 2
_IFINFOMSG: Final = struct.Struct("<BxHiII")
_IFADDRMSG: Final = struct.Struct("<BBBBI")
_IFA_F_PERMANENT: Final = 0x80
_HOST_SCOPE: Final = 254
# Attributes: IFLA_* and IFA_*.
_IFLA_ADDRESS, _IFLA_BROADCAST, _IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_OPERSTATE = 1, 2, 3, 4, 13, 16
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL = 1, 2, 3
_OPERSTATE_UNKNOWN: Final = 0
_REQUESTS_MAX: Final = 64


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _link() -> bytes:
    """struct ifinfomsg of lo, and its attributes."""
    attributes = (
        (_IFLA_IFNAME, interfaces.NAME + b"\0"),
        (_IFLA_TXQLEN, struct.pack("<I", interfaces.QUEUE_LENGTH)),
        (_IFLA_OPERSTATE, bytes([_OPERSTATE_UNKNOWN])),
        (_IFLA_MTU, struct.pack("<I", interfaces.MTU)),
        (_IFLA_ADDRESS, bytes(6)),
        (_IFLA_BROADCAST, bytes(6)),
    )
    lower_up = 0x10000
    head = _IFINFOMSG.pack(AF_UNSPEC, interfaces.ARPHRD_LOOPBACK, interfaces.INDEX, interfaces.FLAGS | lower_up, 0)
    return head + b"".join(_attribute(kind, data) for kind, data in attributes)


def _addresses(family: int) -> list[bytes]:
    """struct ifaddrmsg of lo's addresses, of one family or of all."""
    found = []
    if family in (AF_UNSPEC, AF_INET):
        host = LOOPBACK4[12:]
        four = ((_IFA_ADDRESS, host), (_IFA_LOCAL, host), (_IFA_LABEL, interfaces.NAME + b"\0"))
        head = _IFADDRMSG.pack(AF_INET, 8, _IFA_F_PERMANENT, _HOST_SCOPE, interfaces.INDEX)
        found.append(head + b"".join(_attribute(kind, data) for kind, data in four))
    if family in (AF_UNSPEC, AF_INET6):
        head = _IFADDRMSG.pack(AF_INET6, 128, _IFA_F_PERMANENT, _HOST_SCOPE, interfaces.INDEX)
        found.append(head + _attribute(_IFA_ADDRESS, LOOPBACK))
    return found


class NetlinkSocket(Socket):
    """An AF_NETLINK socket of NETLINK_ROUTE. Its name is a number, by default the process's."""

    levels = {SOL_SOCKET: options.SOCKET, SOL_NETLINK: options.NETLINK}  # noqa: RUF012
    no_level = errno.ENOPROTOOPT

    def __init__(self, network: Network, kind: int, owner: Ucred = NOBODY) -> None:
        super().__init__(network, AF_NETLINK, kind, NETLINK_ROUTE, owner)
        self.inbox = Datagrams(network.buffers)
        self.port = 0

    def bind(self, address: bytes, caller: SocketCaller) -> None:
        port, _ = parse_netlink(address)
        if self.port:
            if port != self.port:
                raise SyscallError(errno.EINVAL)
            return
        self._take(port, caller.credentials.pid)

    def _take(self, port: int, preferred: int) -> None:
        taken = self.network.netlink
        if port and port in taken:
            raise SyscallError(errno.EADDRINUSE)
        port = port or preferred
        while port in taken or not port:
            port = (port - 1 if port > 1 << 31 else 0xFFFF_F000) & 0xFFFF_FFFF
        taken[port] = self
        self.port = port

    def connect(self, address: bytes, caller: SocketCaller) -> None:
        if family_of(address) != AF_UNSPEC:
            parse_netlink(address)
            if not self.port:
                self._take(0, caller.credentials.pid)

    def name(self) -> bytes:
        return netlink_address(self.port)

    def peer_name(self) -> bytes:
        return netlink_address(0)

    def close(self) -> None:
        self.closed = True
        self.shut = SHUTDOWN_MASK
        if self.port:
            self.network.netlink.pop(self.port, None)
        self.inbox.clear()

    # ------------------------------------------------------------ requests and answers

    def send(self, message: Outgoing) -> int:
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if message.address:
            port, groups = parse_netlink(message.address)
            if port or groups:
                raise SyscallError(errno.ECONNREFUSED if port else errno.EPERM)
        if len(message.data) > self.send_buffer - 32:
            raise SyscallError(errno.EMSGSIZE)
        if not self.port:
            self._take(0, message.caller.credentials.pid if message.caller is not None else self.owner.pid)
        at = 0
        for _ in range(_REQUESTS_MAX):
            if at + _NLMSGHDR.size > len(message.data):
                break
            length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(message.data, at)
            if not _NLMSGHDR.size <= length <= len(message.data) - at:
                break
            if flags & _NLM_F_REQUEST and kind >= _NLMSG_MIN_TYPE:
                self._answer(message.data[at : at + length], kind, flags, sequence)
            at += (length + 3) & ~3
        return len(message.data)

    def _answer(self, request: bytes, kind: int, flags: int, sequence: int) -> None:
        body = request[_NLMSGHDR.size :]
        family = body[0] if body else AF_UNSPEC
        dump = flags & _NLM_F_DUMP == _NLM_F_DUMP
        if kind == _RTM_GETLINK and dump:
            self._reply([(_RTM_NEWLINK, _link())], sequence)
        elif kind == _RTM_GETADDR and dump:
            self._reply([(_RTM_NEWADDR, address) for address in _addresses(family)], sequence)
        elif kind % 4 == _GET and dump:
            self._reply([], sequence)
        elif kind == _RTM_GETLINK:
            if _names_lo(body):
                self._put(self._message(_RTM_NEWLINK, 0, sequence, _link()))
            else:
                self._error(errno.ENODEV, request, sequence)
        elif kind == _RTM_GETROUTE:
            self._error(errno.ENETUNREACH, request, sequence)
        else:
            self._error(errno.EOPNOTSUPP if kind % 4 == _GET else errno.EPERM, request, sequence)
            return
        if flags & _NLM_F_ACK and not dump:
            self._error(0, request, sequence)

    def _reply(self, entries: list[tuple[int, bytes]], sequence: int) -> None:
        """The answer to a dump: its entries in one datagram, and the end of them in another."""
        if entries:
            self._put(b"".join(self._message(kind, _NLM_F_MULTI, sequence, body) for kind, body in entries))
        self._put(self._message(_NLMSG_DONE, _NLM_F_MULTI, sequence, bytes(4)))

    def _error(self, number: int, request: bytes, sequence: int) -> None:
        told = request if number else request[: _NLMSGHDR.size]
        self._put(self._message(_NLMSG_ERROR, 0, sequence, struct.pack("<i", -number) + told))

    def _message(self, kind: int, flags: int, sequence: int, body: bytes) -> bytes:
        head = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, sequence, self.port)
        return head + body + bytes(-len(body) % 4)

    def _put(self, data: bytes) -> None:
        datagram = Datagram(data, netlink_address(0), Ucred(0, 0, 0))
        if self.inbox.charge + datagram.cost > self.receive_buffer:
            self.fail(errno.ENOBUFS)
            return
        self.inbox.put(datagram)
        self.queue.wake(READABLE)

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        self.raise_error()
        if not self.inbox:
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        incoming = self.inbox.get(length, flags)
        incoming.credentials = incoming.credentials if self.setting(SO_PASSCRED) else None
        return incoming

    def poll(self) -> int:
        mask = WRITABLE | POLLWRBAND | (POLLERR if self.error else 0)
        return mask | READABLE if self.inbox else mask

    def pending_input(self) -> int:
        return self.inbox.next_size


def _names_lo(body: bytes) -> bool:
    """Whether an RTM_GETLINK asks for lo, by index or by name."""
    if len(body) < _IFINFOMSG.size:
        return False
    _, _, index, _, _ = _IFINFOMSG.unpack_from(body)
    if index:
        return bool(index == interfaces.INDEX)
    return _attribute(_IFLA_IFNAME, interfaces.NAME + b"\0")[:7] in body[_IFINFOMSG.size :]
