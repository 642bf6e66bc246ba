"""UDP: messages from socket to socket, by port, lost when a receiver has no room; to the outside by a `Flow` for each address.

Source: udp(7), ip(7), ipv6(7), RFC 3542 for what is told along with a message.
"""

from __future__ import annotations

import errno
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets import abi, options
from asynckvm.linux.sockets.abi import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SO_BROADCAST,
    SO_TIMESTAMP,
    SOCK_DGRAM,
    SOL_SOCKET,
)
from asynckvm.linux.sockets.address import Endpoint, endpoint_address, family_of, parse_endpoint
from asynckvm.linux.sockets.base import shutdown_bits
from asynckvm.linux.sockets.datagrams import Datagram, Datagrams
from asynckvm.linux.sockets.flow import Flow
from asynckvm.linux.sockets.inet import InetSocket, best_match
from asynckvm.linux.sockets.message import NOBODY, Control, Incoming
from asynckvm.linux.usercopy import NANOSECONDS
from asynckvm.linux.wait import ANYTHING, POLLERR, POLLHUP, POLLRDHUP, POLLWRBAND, READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from asynckvm.linux.sockets.message import Outgoing, SocketCaller, Ucred
    from asynckvm.linux.sockets.network import Network
    from asynckvm.linux.wait import WaitQueue

_LEVELS: Final = {
    IPPROTO_UDP: {SOL_SOCKET: options.SOCKET, IPPROTO_UDP: options.UDP},
    IPPROTO_UDPLITE: {SOL_SOCKET: options.SOCKET, IPPROTO_UDPLITE: options.UDPLITE},
}
# What an IP packet holds beside the headers of IPv4, IPv6 (which does not count its own) and UDP.
_MAX: Final = {AF_INET: 65507, AF_INET6: 65527}
_INT: Final = struct.Struct("<i")
_NOWHERE: Final = Endpoint()
_LO: Final = 1  # the index of the only interface
# Control messages that may go out with a message, and the setting each replaces.
_SENT_WITH: Final = {
    (IPPROTO_IP, abi.IP_TTL): "hops",
    (IPPROTO_IP, abi.IP_TOS): "traffic",
    (IPPROTO_IPV6, abi.IPV6_HOPLIMIT): "hops",
    (IPPROTO_IPV6, abi.IPV6_TCLASS): "traffic",
}
_IGNORED: Final = frozenset({(IPPROTO_IP, abi.IP_PKTINFO), (IPPROTO_IPV6, abi.IPV6_PKTINFO)})


@dataclass(slots=True)
class _Packet(Datagram):
    """A message with what its headers tell."""

    destination: Endpoint = _NOWHERE
    hops: int = 64
    traffic: int = 0
    time: int = 0


class UdpSocket(InetSocket):
    """A UDP socket, or of UDP-Lite with ports of its own; connected, it hears only `remote`."""

    def __init__(self, network: Network, family: int, protocol: int, owner: Ucred = NOBODY) -> None:
        ports = network.udp if protocol == IPPROTO_UDP else network.udplite
        super().__init__(network, family, SOCK_DGRAM, protocol, owner, ports=ports, levels=_LEVELS[protocol])
        self.inbox = Datagrams(network.buffers)
        self._asked = self.unbound  # what bind(2) gave
        self._flows: dict[Endpoint, Flow] = {}

    # ------------------------------------------------------------ names

    def bind(self, address: bytes, caller: SocketCaller) -> None:
        super().bind(address, caller)
        self._asked = self.local

    def may_bind(self, endpoint: Endpoint) -> bool:
        return super().may_bind(endpoint) or endpoint.is_broadcast or (endpoint.is_multicast and endpoint.is_v4)

    def parse(self, address: bytes) -> Endpoint:
        return parse_endpoint(AF_INET if family_of(address) == AF_INET else self.family, address)

    def route(self, address: bytes) -> Endpoint:
        if self.parse(address).is_broadcast and not self.setting(SO_BROADCAST):
            raise SyscallError(errno.EACCES)
        return super().route(address)

    def deciding(self, address: bytes, action: Literal["connect", "send"]) -> WaitQueue | None:
        if family_of(address) == AF_UNSPEC:
            return None
        remote = self.route(address)
        if remote.is_loopback or not remote.port:
            return None
        flow = self._flows.get(remote)
        if flow is None:
            outside = self.network.outside
            flow = self._flows[remote] = Flow(outside, outside.ask(action, "udp", remote), self, remote)
        if flow.error:
            del self._flows[remote]
            raise SyscallError(flow.error)
        return None if flow.is_decided else flow.decided

    def _keep_flows(self, kept: Endpoint | None) -> None:
        """The others are nobody's any more."""
        for remote in [remote for remote in self._flows if remote != kept]:
            self._flows.pop(remote).cancel()

    def connect(self, address: bytes, caller: SocketCaller) -> None:  # noqa: ARG002
        if family_of(address) == AF_UNSPEC:
            self.remote = None
            if self._asked.port:
                self.local = self._asked
            else:
                self.unbind()
            return
        remote = self.route(address)
        self.autobind()
        self.local = self.source_for(remote)
        self.remote = remote
        self._keep_flows(remote)
        self.queue.wake(WRITABLE)

    # ------------------------------------------------------------ messages

    def send(self, message: Outgoing) -> int:
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if message.address is None and self.remote is None:
            raise SyscallError(errno.EDESTADDRREQ)
        if len(message.data) > _MAX[self.family]:
            raise SyscallError(errno.EMSGSIZE)
        remote = self.route(message.address) if message.address else self.remote
        if remote is None or not remote.port:
            raise SyscallError(errno.EINVAL)
        packet = self._packet(message, remote)
        self.raise_error()
        if self.shut & SEND_SHUTDOWN:
            raise SyscallError(errno.EPIPE)
        self.autobind()
        if not remote.is_loopback:
            if (flow := self._flows.get(remote)) is None:
                raise SyscallError(errno.ENETUNREACH)
            flow.send(message.data)
            return len(message.data)
        source = self.source_for(remote)
        receiver = best_match(self.ports.at(remote.port), remote, source)
        if isinstance(receiver, UdpSocket):
            packet.address = endpoint_address(receiver.family, source)
            receiver.arrive(packet)
        elif remote == self.remote:
            # The answer is an ICMP message, which only a connected socket is told of.
            self.fail(errno.ECONNREFUSED)
        return len(message.data)

    def _packet(self, message: Outgoing, remote: Endpoint) -> _Packet:
        if remote.is_v4:
            hops, traffic = self.setting(abi.IP_TTL, IPPROTO_IP), self.setting(abi.IP_TOS, IPPROTO_IP)
        else:
            hops = self.setting(abi.IPV6_UNICAST_HOPS, IPPROTO_IPV6)
            traffic = self.setting(abi.IPV6_TCLASS, IPPROTO_IPV6)
        packet = _Packet(message.data, destination=remote, hops=hops, traffic=traffic, time=time.time_ns())
        level = IPPROTO_IP if self.family == AF_INET else IPPROTO_IPV6
        for control in message.control:
            key = (control.level, control.type)
            if control.level != level:
                continue
            if key in _SENT_WITH:
                if len(control.data) != _INT.size:
                    raise SyscallError(errno.EINVAL)
                (value,) = _INT.unpack(control.data)
                if not -1 <= value <= 255:
                    raise SyscallError(errno.EINVAL)
                if value >= 0:
                    setattr(packet, _SENT_WITH[key], value)
            elif key not in _IGNORED:
                raise SyscallError(errno.EINVAL)
        return packet

    def arrive(self, packet: Datagram) -> None:
        """A message for this socket; without room it is lost."""
        if self.inbox.charge + packet.cost <= self.receive_buffer and not self.shut & RCV_SHUTDOWN:
            try:
                self.inbox.put(packet)
            except SyscallError:
                return
            self.queue.wake(READABLE)

    def arrive_from(self, remote: Endpoint, data: bytes) -> None:
        """A message from the outside."""
        address = endpoint_address(self.family, remote)
        self.arrive(_Packet(data, address, destination=self.source_for(remote), time=time.time_ns()))

    def receive(self, length: int, flags: int) -> Incoming:
        if flags & MSG_ERRQUEUE:
            raise SyscallError(errno.EAGAIN)
        if not self.inbox:
            self.raise_error()
            if self.shut & RCV_SHUTDOWN:
                return Incoming(b"")
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        packet = self.inbox.first
        incoming = self.inbox.get(length, flags & MSG_PEEK)
        if isinstance(packet, _Packet):
            incoming.control = list(self._told(packet))
        return incoming

    def _told(self, packet: _Packet) -> Iterator[Control]:
        """What the options ask to be told along with a message."""
        if self.setting(SO_TIMESTAMP):
            seconds, nanoseconds = divmod(packet.time, NANOSECONDS)
            yield Control(SOL_SOCKET, SO_TIMESTAMP, struct.pack("<qq", seconds, nanoseconds // 1000))
        if packet.destination.is_v4:
            host = packet.destination.host[12:]
            if self.setting(abi.IP_PKTINFO, IPPROTO_IP):
                yield Control(IPPROTO_IP, abi.IP_PKTINFO, struct.pack("<i4s4s", _LO, host, host))
            if self.setting(abi.IP_RECVTTL, IPPROTO_IP):
                yield Control(IPPROTO_IP, abi.IP_TTL, _INT.pack(packet.hops))
            if self.setting(abi.IP_RECVTOS, IPPROTO_IP):
                yield Control(IPPROTO_IP, abi.IP_TOS, bytes([packet.traffic]))
        if self.family == AF_INET6:
            if self.setting(abi.IPV6_RECVPKTINFO, IPPROTO_IPV6):
                yield Control(IPPROTO_IPV6, abi.IPV6_PKTINFO, struct.pack("<16si", packet.destination.host, _LO))
            if self.setting(abi.IPV6_RECVHOPLIMIT, IPPROTO_IPV6):
                yield Control(IPPROTO_IPV6, abi.IPV6_HOPLIMIT, _INT.pack(packet.hops))
            if self.setting(abi.IPV6_RECVTCLASS, IPPROTO_IPV6):
                yield Control(IPPROTO_IPV6, abi.IPV6_TCLASS, _INT.pack(packet.traffic))

    # ------------------------------------------------------------ the rest

    def shutdown(self, how: int) -> None:
        self.shut |= shutdown_bits(how)
        self.queue.wake(ANYTHING)
        if self.remote is None:
            raise SyscallError(errno.ENOTCONN)

    def close(self) -> None:
        super().close()
        self.shut = SHUTDOWN_MASK
        self._keep_flows(None)
        self.inbox.clear()

    def poll(self) -> int:
        mask = WRITABLE | POLLWRBAND
        if self.error:
            mask |= POLLERR
        if self.shut == SHUTDOWN_MASK:
            mask |= POLLHUP
        if self.shut & RCV_SHUTDOWN:
            mask |= POLLRDHUP | READABLE
        if self.inbox:
            mask |= READABLE
        return mask

    def pending_input(self) -> int:
        return self.inbox.next_size

    def pending_output(self) -> int:
        return 0
