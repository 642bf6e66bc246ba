"""The one network interface, lo, as ioctl(2) requests on any socket tell it. Source: netdevice(7)."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import AF_INET

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = b"lo"
INDEX: Final = 1
MTU: Final = 65536
# IFF_UP | IFF_LOOPBACK | IFF_RUNNING.
FLAGS: Final = 0x49
ARPHRD_LOOPBACK: Final = 772
QUEUE_LENGTH: Final = 1000

IFREQ_SIZE: Final = 40
_NAME_SIZE: Final = 16
SIOCGIFNAME: Final = 0x8910
SIOCGIFCONF: Final = 0x8912
IFCONF: Final = struct.Struct("<i4xQ")


def _inet(host: str) -> Callable[[], bytes]:
    return lambda: struct.pack("<H2x4s8x", AF_INET, socket.inet_aton(host))


_ANSWERS: Final[dict[int, Callable[[], bytes]]] = {
    0x8913: lambda: struct.pack("<h", FLAGS),  # SIOCGIFFLAGS
    0x8915: _inet("127.0.0.1"),  # SIOCGIFADDR
    0x8917: _inet("0.0.0.0"),  # SIOCGIFDSTADDR  # noqa: S104
    0x8919: _inet("0.0.0.0"),  # SIOCGIFBRDADDR  # noqa: S104
    0x891B: _inet("255.0.0.0"),  # SIOCGIFNETMASK
    0x891D: lambda: bytes(4),  # SIOCGIFMETRIC
    0x8921: lambda: struct.pack("<i", MTU),  # SIOCGIFMTU
    0x8927: lambda: struct.pack("<H14x", ARPHRD_LOOPBACK),  # SIOCGIFHWADDR
    0x8933: lambda: struct.pack("<i", INDEX),  # SIOCGIFINDEX
    0x8942: lambda: struct.pack("<i", QUEUE_LENGTH),  # SIOCGIFTXQLEN
    0x8970: lambda: bytes(24),  # SIOCGIFMAP
}
# What would change an interface: SIOCSIF* and SIOCADDRT.
_CHANGES: Final = frozenset({0x890B, 0x890C, 0x8914, 0x8916, 0x8918, 0x891A, 0x891C, 0x891E, 0x8922, 0x8923, 0x8924, 0x8943})


def is_request(request: int) -> bool:
    """Whether `answer` knows the request, which then comes with a struct ifreq."""
    return request in _ANSWERS or request in _CHANGES or request == SIOCGIFNAME


def answer(request: int, ifreq: bytes) -> bytes:
    """The struct ifreq with the answer in it: ENODEV for another interface, EPERM for what would change one."""
    if request == SIOCGIFNAME:
        if struct.unpack_from("<i", ifreq, _NAME_SIZE) != (INDEX,):
            raise SyscallError(errno.ENODEV)
        return NAME.ljust(_NAME_SIZE, b"\0") + ifreq[_NAME_SIZE:]
    if request in _CHANGES:
        raise SyscallError(errno.EPERM)
    if ifreq[:_NAME_SIZE].partition(b"\0")[0] != NAME:
        raise SyscallError(errno.ENODEV)
    value = _ANSWERS[request]()
    return ifreq[:_NAME_SIZE] + value + ifreq[_NAME_SIZE + len(value) :]


def configuration() -> bytes:
    """The records of SIOCGIFCONF: interfaces with an IPv4 address."""
    return (NAME.ljust(_NAME_SIZE, b"\0") + _inet("127.0.0.1")()).ljust(IFREQ_SIZE, b"\0")
