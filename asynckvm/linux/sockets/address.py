"""Socket addresses: the bytes of struct sockaddr_un, _in, _in6 and _nl, checked as Linux checks them, and built.

Internet addresses are kept in one form, 16 bytes, IPv4 as ::ffff:a.b.c.d, so that dual-stack sockets compare them without cases.
Source: unix(7), ip(7), ipv6(7), netlink(7).
"""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_UNSPEC

# The longest address: struct sockaddr_storage.
ADDRESS_MAX: Final = 128

_FAMILY: Final = struct.Struct("<H")
_UN_MAX: Final = 110
_IN: Final = struct.Struct("<H2s4s8x")
_IN6: Final = struct.Struct("<H2sI16sI")
_IN6_SHORT: Final = 24  # RFC 2133, without the scope
_NL: Final = struct.Struct("<HHII")

_MAPPED: Final = bytes(10) + b"\xff\xff"
ANY: Final = bytes(16)
ANY4: Final = _MAPPED + bytes(4)
LOOPBACK: Final = bytes(15) + b"\x01"
LOOPBACK4: Final = _MAPPED + b"\x7f\0\0\x01"
# A socket's own address towards the outside (RFC 5737, RFC 3849): the host's addresses are none of a guest's business.
OUTWARD: Final = bytes.fromhex("20010db8") + bytes(11) + b"\x01"
OUTWARD4: Final = _MAPPED + bytes((192, 0, 2, 1))
_BROADCASTS: Final = frozenset({_MAPPED + b"\xff" * 4, _MAPPED + b"\x7f\xff\xff\xff"})


def family_of(address: bytes) -> int:
    """EINVAL when there is not even a family."""
    if len(address) < _FAMILY.size:
        raise SyscallError(errno.EINVAL)
    family: int = _FAMILY.unpack_from(address)[0]
    return family


# ---------------------------------------------------------------- unix


def unix_name(address: bytes) -> bytes:
    """The name in a sockaddr_un: a path, a null byte and an abstract name, or b"" when there is none (autobind)."""
    if not _FAMILY.size <= len(address) <= _UN_MAX or family_of(address) != AF_UNIX:
        raise SyscallError(errno.EINVAL)
    name = address[_FAMILY.size :]
    return name if name.startswith(b"\0") else name.partition(b"\0")[0]


def unix_address(name: bytes) -> bytes:
    """The sockaddr_un of a name; a path ends with a null byte, an unnamed socket has only a family."""
    if name and not name.startswith(b"\0"):
        name += b"\0"
    return _FAMILY.pack(AF_UNIX) + name


# ---------------------------------------------------------------- internet


class Endpoint(NamedTuple):
    """An internet address and a port."""

    host: bytes = ANY
    port: int = 0

    @property
    def is_v4(self) -> bool:
        return self.host.startswith(_MAPPED)

    @property
    def is_any(self) -> bool:
        return self.host in (ANY, ANY4)

    @property
    def is_loopback(self) -> bool:
        """Whether the address is one of this machine's, which has no interface but lo."""
        return self.host == LOOPBACK or self.host.startswith(_MAPPED + b"\x7f")

    @property
    def is_broadcast(self) -> bool:
        return self.host in _BROADCASTS

    @property
    def is_multicast(self) -> bool:
        return self.host[0] == 0xFF or (self.is_v4 and self.host[12] >> 4 == 0xE)

    def local(self) -> Endpoint:
        """Where a connection to this endpoint goes: to the wildcard means to the loopback address."""
        if not self.is_any:
            return self
        return Endpoint(LOOPBACK4 if self.is_v4 else LOOPBACK, self.port)


def parse_endpoint(family: int, address: bytes) -> Endpoint:
    """A sockaddr_in for AF_INET, a sockaddr_in6 for AF_INET6. EINVAL when too short, EAFNOSUPPORT for another family."""
    if family == AF_INET:
        if len(address) < _IN.size:
            raise SyscallError(errno.EINVAL)
        named, port, host = _IN.unpack_from(address)
        host = _MAPPED + host
    else:
        if len(address) < _IN6_SHORT:
            raise SyscallError(errno.EINVAL)
        named, port, _, host, _ = _IN6.unpack_from(address.ljust(_IN6.size, b"\0"))
    if named != family and not (family == AF_INET and named == AF_UNSPEC and host == ANY4):
        raise SyscallError(errno.EAFNOSUPPORT)
    return Endpoint(host, int.from_bytes(port, "big"))


def endpoint_address(family: int, endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if family == AF_INET:
        return _IN.pack(AF_INET, port, endpoint.host[12:] if endpoint.is_v4 else bytes(4))
    return _IN6.pack(AF_INET6, port, 0, endpoint.host, 0)


# ---------------------------------------------------------------- netlink


def parse_netlink(address: bytes) -> tuple[int, int]:
    """(port number, groups)."""
    if len(address) < _NL.size or family_of(address) != AF_NETLINK:
        raise SyscallError(errno.EINVAL)
    _, _, port, groups = _NL.unpack_from(address)
    return port, groups


def netlink_address(port: int, groups: int = 0) -> bytes:
    return _NL.pack(AF_NETLINK, 0, port, groups)
