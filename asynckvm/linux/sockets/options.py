"""Socket options as tables: level and name to how the value is read, checked, kept and told.

An option that only has to be remembered is one line. What an option does is in the socket that looks at its setting.
Source: socket(7), tcp(7), ip(7), ipv6(7), udp(7); sk_setsockopt() of net/core/sock.c.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets import abi
from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from asynckvm.linux.sockets.message import Ucred

Value: TypeAlias = int | bytes
Key: TypeAlias = tuple[int, int]

_INT: Final = struct.Struct("<i")
_LINGER: Final = struct.Struct("<ii")
_TIMEVAL: Final = struct.Struct("<qq")
_UCRED: Final = struct.Struct("<III")
_INT_MAX: Final = 0x7FFF_FFFF
# Buffers hold at least this much, SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF; what is set counts twice, for the overhead.
_SNDBUF_MIN: Final = 4608
_RCVBUF_MIN: Final = 2304
_TIMEOUT_MAX: Final = 1 << 31
_NAME_MAX: Final = 16


class Subject(Protocol):
    """The socket, as far as options must know it."""

    settings: dict[Key, Value]
    family: int
    kind: int
    protocol: int
    inode: int

    @property
    def is_listening(self) -> bool: ...
    @property
    def peer_credentials(self) -> Ucred: ...
    def take_error(self) -> int: ...
    def peer_name(self) -> bytes: ...
    def option_changed(self, level: int, name: int) -> None: ...


Getter: TypeAlias = Callable[[Subject, Key], bytes]
Setter: TypeAlias = Callable[[Subject, Key, bytes], None]


@dataclass(frozen=True, slots=True)
class Option:
    """How an option is read and written; `default` is what it is before it was set."""

    get: Getter
    set: Setter
    default: Value = 0


Table: TypeAlias = Mapping[int, Option]


def _refuse(error: int) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise SyscallError(error)

    return refuse


def read_only(*_: object) -> None:
    raise SyscallError(errno.ENOPROTOOPT)


def _read_int(value: bytes, *, byte: bool = False) -> int:
    if byte and 1 <= len(value) < _INT.size:
        return value[0]
    if len(value) < _INT.size:
        raise SyscallError(errno.EINVAL)
    number: int = _INT.unpack_from(value)[0]
    return number


def _number(
    default: int, low: int = -_INT_MAX - 1, high: int = _INT_MAX, *, byte: bool = False, means: Callable[[int], int] = int
) -> Option:
    """A number from `low` to `high`, EINVAL for others. `means`: what becomes of it; `byte`: it may be set by one."""

    def get(socket: Subject, key: Key) -> bytes:
        value = socket.settings.get(key, default)
        return _INT.pack(value) if isinstance(value, int) else value

    def set_(socket: Subject, key: Key, value: bytes) -> None:
        number = _read_int(value, byte=byte)
        if not low <= number <= high:
            raise SyscallError(errno.EINVAL)
        socket.settings[key] = means(number)
        socket.option_changed(*key)

    return Option(get, set_, default)


def _flag(default: int = 0, *, byte: bool = False) -> Option:
    return _number(default, byte=byte, means=bool)


def _told(get: Callable[[Subject], int]) -> Option:
    """A number that can only be asked for."""
    return Option(lambda socket, _: _INT.pack(get(socket)), read_only)


def _text(default: bytes) -> Option:
    """A short string, padded as Linux tells it."""

    def set_(socket: Subject, key: Key, value: bytes) -> None:
        text = value[: _NAME_MAX - 1].partition(b"\0")[0]
        if text != default:
            raise SyscallError(errno.ENOENT)
        socket.settings[key] = text

    return Option(lambda socket, key: default.ljust(_NAME_MAX, b"\0"), set_, default)  # noqa: ARG005


def buffer(name: int, default: int = abi.BUFFER_DEFAULT) -> Option:
    """SO_SNDBUF or SO_RCVBUF."""
    least = _SNDBUF_MIN if name == abi.SO_SNDBUF else _RCVBUF_MIN
    return _number(default, means=lambda value: max(min(value & 0xFFFF_FFFF, abi.BUFFER_MAX) * 2, least))


def _timeout() -> Option:
    """A struct timeval, kept as nanoseconds; 0 means for ever."""

    def get(socket: Subject, key: Key) -> bytes:
        value = socket.settings.get(key, 0)
        seconds, nanoseconds = divmod(value if isinstance(value, int) else 0, NANOSECONDS)
        return _TIMEVAL.pack(seconds, nanoseconds // 1000)

    def set_(socket: Subject, key: Key, value: bytes) -> None:
        if len(value) < _TIMEVAL.size:
            raise SyscallError(errno.EINVAL)
        seconds, microseconds = _TIMEVAL.unpack_from(value)
        if not 0 <= microseconds < 1_000_000:
            raise SyscallError(errno.EDOM)
        # A negative time is over at once: the shortest that there is.
        duration = min(seconds, _TIMEOUT_MAX) * NANOSECONDS + microseconds * 1000 if seconds >= 0 else 1
        socket.settings[key] = duration

    return Option(get, set_)


def _linger() -> Option:
    def get(socket: Subject, key: Key) -> bytes:
        value = socket.settings.get(key, b"")
        return value if isinstance(value, bytes) and value else _LINGER.pack(0, 0)

    def set_(socket: Subject, key: Key, value: bytes) -> None:
        if len(value) < _LINGER.size:
            raise SyscallError(errno.EINVAL)
        on, seconds = _LINGER.unpack_from(value)
        socket.settings[key] = _LINGER.pack(bool(on), seconds)

    return Option(get, set_, b"")


def lingers(value: Value | None) -> bool:
    """Whether SO_LINGER is on with no time at all: then close(2) resets the connection."""
    return isinstance(value, bytes) and len(value) == _LINGER.size and _LINGER.unpack(value) == (1, 0)


SOCKET: Final[Table] = {
    1: _flag(),  # SO_DEBUG
    abi.SO_REUSEADDR: _flag(),
    abi.SO_TYPE: _told(lambda socket: socket.kind),
    abi.SO_ERROR: _told(lambda socket: socket.take_error()),
    5: _flag(),  # SO_DONTROUTE
    abi.SO_BROADCAST: _flag(),
    abi.SO_SNDBUF: buffer(abi.SO_SNDBUF),
    abi.SO_RCVBUF: buffer(abi.SO_RCVBUF),
    9: _flag(),  # SO_KEEPALIVE
    abi.SO_OOBINLINE: _flag(),
    11: _flag(),  # SO_NO_CHECK
    12: _number(0, 0, 6),  # SO_PRIORITY
    abi.SO_LINGER: _linger(),
    abi.SO_REUSEPORT: _flag(),
    abi.SO_PASSCRED: _flag(),
    abi.SO_PEERCRED: Option(lambda socket, _: _UCRED.pack(*socket.peer_credentials), read_only),
    abi.SO_RCVLOWAT: _number(1, means=lambda value: (value if value >= 0 else _INT_MAX) or 1),
    19: _told(lambda _: 1),  # SO_SNDLOWAT
    abi.SO_RCVTIMEO: _timeout(),
    abi.SO_SNDTIMEO: _timeout(),
    28: Option(lambda socket, _: socket.peer_name(), read_only),  # SO_PEERNAME
    abi.SO_TIMESTAMP: _flag(),
    abi.SO_ACCEPTCONN: _told(lambda socket: int(socket.is_listening)),
    32: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.EPERM)),  # SO_SNDBUFFORCE
    33: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.EPERM)),  # SO_RCVBUFFORCE
    34: _flag(),  # SO_PASSSEC
    35: _flag(),  # SO_TIMESTAMPNS
    abi.SO_PROTOCOL: _told(lambda socket: socket.protocol),
    abi.SO_DOMAIN: _told(lambda socket: socket.family),
    40: _flag(),  # SO_RXQ_OVFL
    46: _number(0, 0),  # SO_BUSY_POLL
    47: _number(-1),  # SO_MAX_PACING_RATE
    49: _number(-1),  # SO_INCOMING_CPU
    57: Option(lambda socket, _: struct.pack("<Q", socket.inode), read_only),  # SO_COOKIE
    60: _flag(),  # SO_ZEROCOPY
}

# What SO_SNDBUF and SO_RCVBUF are before TCP tunes them: the middle values of net.ipv4.tcp_[rw]mem.
TCP_SOCKET: Final[Table] = {
    **SOCKET,
    abi.SO_SNDBUF: buffer(abi.SO_SNDBUF, 16384),
    abi.SO_RCVBUF: buffer(abi.SO_RCVBUF, 131072),
}

TCP: Final[Table] = {
    1: _flag(),  # TCP_NODELAY
    2: _number(536, 0, 32767),  # TCP_MAXSEG
    3: _flag(),  # TCP_CORK
    4: _number(7200, 1, 32767),  # TCP_KEEPIDLE
    5: _number(75, 1, 32767),  # TCP_KEEPINTVL
    6: _number(9, 1, 127),  # TCP_KEEPCNT
    7: _number(6, 1, 127),  # TCP_SYNCNT
    8: _number(60),  # TCP_LINGER2
    9: _number(0),  # TCP_DEFER_ACCEPT
    10: _number(0),  # TCP_WINDOW_CLAMP
    12: _flag(1),  # TCP_QUICKACK
    13: _text(b"cubic"),  # TCP_CONGESTION
    18: _number(0, 0),  # TCP_USER_TIMEOUT
    23: _number(0, 0),  # TCP_FASTOPEN
    24: _number(0),  # TCP_TIMESTAMP
    25: _number(0),  # TCP_NOTSENT_LOWAT
    30: _flag(),  # TCP_FASTOPEN_CONNECT
    36: _flag(),  # TCP_INQ
}

UDP: Final[Table] = {
    1: _flag(),  # UDP_CORK
    101: _flag(),  # UDP_NO_CHECK6_TX
    102: _flag(),  # UDP_NO_CHECK6_RX
    103: _number(0, 0, 65535),  # UDP_SEGMENT
    104: _flag(),  # UDP_GRO
}

UDPLITE: Final[Table] = {
    **UDP,
    10: _number(0, 0, 65535),  # UDPLITE_SEND_CSCOV: nothing is damaged on the way
    11: _number(0, 0, 65535),  # UDPLITE_RECV_CSCOV
}

IP: Final[Table] = {
    abi.IP_TOS: _number(0, byte=True, means=lambda value: value & 0xFF),
    abi.IP_TTL: _number(64, -1, 255, byte=True, means=lambda value: 64 if value == -1 else value),
    4: Option(lambda *_: b"", lambda *_: None),  # IP_OPTIONS
    6: _flag(byte=True),  # IP_RECVOPTS
    7: _flag(byte=True),  # IP_RETOPTS
    abi.IP_PKTINFO: _flag(byte=True),
    10: _number(1, 0, 5, byte=True),  # IP_MTU_DISCOVER
    11: _flag(byte=True),  # IP_RECVERR
    abi.IP_RECVTTL: _flag(byte=True),
    abi.IP_RECVTOS: _flag(byte=True),
    15: _flag(byte=True),  # IP_FREEBIND
    19: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.EPERM)),  # IP_TRANSPARENT
    20: _flag(byte=True),  # IP_RECVORIGDSTADDR
    24: _flag(byte=True),  # IP_BIND_ADDRESS_NO_PORT
    33: _number(1, -1, 255, byte=True, means=lambda value: 1 if value == -1 else value),  # IP_MULTICAST_TTL
    34: _flag(1, byte=True),  # IP_MULTICAST_LOOP
    # No interface can carry multicast.
    32: Option(lambda *_: bytes(4), _refuse(errno.EADDRNOTAVAIL)),  # IP_MULTICAST_IF
    35: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.ENODEV)),  # IP_ADD_MEMBERSHIP
    36: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.EADDRNOTAVAIL)),  # IP_DROP_MEMBERSHIP
    42: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.ENODEV)),  # MCAST_JOIN_GROUP
    49: _flag(1, byte=True),  # IP_MULTICAST_ALL
}

IPV6: Final[Table] = {
    abi.IPV6_UNICAST_HOPS: _number(64, -1, 255, means=lambda value: 64 if value == -1 else value),
    17: _number(0, 0, 0),  # IPV6_MULTICAST_IF
    18: _number(1, -1, 255, means=lambda value: 1 if value == -1 else value),  # IPV6_MULTICAST_HOPS
    19: _number(1, 0, 1),  # IPV6_MULTICAST_LOOP
    20: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.ENODEV)),  # IPV6_JOIN_GROUP
    21: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.EADDRNOTAVAIL)),  # IPV6_LEAVE_GROUP
    23: _number(1, 0, 5),  # IPV6_MTU_DISCOVER
    25: _flag(),  # IPV6_RECVERR
    abi.IPV6_V6ONLY: _flag(),
    42: Option(_refuse(errno.ENOPROTOOPT), _refuse(errno.ENODEV)),  # MCAST_JOIN_GROUP
    abi.IPV6_RECVPKTINFO: _flag(),
    abi.IPV6_RECVHOPLIMIT: _flag(),
    53: _flag(),  # IPV6_RECVHOPOPTS
    56: _flag(),  # IPV6_RECVRTHDR
    58: _flag(),  # IPV6_RECVDSTOPTS
    60: _flag(),  # IPV6_RECVPATHMTU
    62: _flag(),  # IPV6_DONTFRAG
    abi.IPV6_RECVTCLASS: _flag(),
    abi.IPV6_TCLASS: _number(0, -1, 255, means=lambda value: max(value, 0)),
    70: _flag(1),  # IPV6_AUTOFLOWLABEL
    78: _flag(),  # IPV6_FREEBIND
}

NETLINK: Final[Table] = {
    1: _number(0),  # NETLINK_ADD_MEMBERSHIP: nothing is ever announced
    2: _number(0),  # NETLINK_DROP_MEMBERSHIP
    3: _flag(),  # NETLINK_PKTINFO
    10: _flag(),  # NETLINK_CAP_ACK
    11: _flag(),  # NETLINK_EXT_ACK
    12: _flag(),  # NETLINK_GET_STRICT_CHK
}
