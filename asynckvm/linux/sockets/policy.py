"""What is asked of a sandbox's network policy, and what it may answer. Values only.

A policy is a function, or a coroutine function, of whoever opens the sandbox. It is asked once for each attempt: a connect(2), or
the first message of a UDP socket to an address.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A program wants to reach `address`, which is never a loopback address, nor multicast, nor the broadcast address.

    An IPv4 address that came as IPv6 (::ffff:a.b.c.d) is an IPv4Address here, whatever socket it is for. `action` is "send" for a
    message of a UDP socket that is not connected; its answers come back too.
    """

    action: Literal["connect", "send"]
    protocol: Literal["tcp", "udp"]
    address: Address
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6


# Whether it may, or the address (no name) and port of the host's network where it really leads, which may be a loopback address.
Answer: TypeAlias = bool | tuple[str | Address, int]
Policy: TypeAlias = Callable[[NetworkRequest], Answer | Awaitable[Answer]]
