"""A ready-made network policy: a list of what may be reached, as on a command line."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Literal

from asynckvm.errors import UsageError

if TYPE_CHECKING:
    from asynckvm.linux.sockets.policy import Answer, NetworkRequest

_PORT_MAX = 0xFFFF


@dataclass(frozen=True, slots=True)
class Grant:
    """Addresses of `network` at `port` (None: any) may be reached; with a `target`, that is where it really leads."""

    network: IPv4Network | IPv6Network
    port: int | None
    protocol: Literal["tcp", "udp"] = "tcp"
    target: tuple[IPv4Address | IPv6Address, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Grant:
        """ADDRESS[/BITS]:PORT[/udp][=ADDRESS:PORT], where PORT may be `*`; IPv6 addresses stand in brackets, [ADDRESS]/BITS."""
        try:
            source, redirected, target = text.partition("=")
            host, _, port = source.rpartition(":")
            protocol: Literal["tcp", "udp"] = "tcp"
            if port.endswith(("/udp", "/tcp")):
                protocol = "udp" if port.endswith("/udp") else "tcp"
                port = port[:-4]
            if ":" in host and not host.startswith("["):
                raise ValueError(host)
            network = ip_network(host.replace("[", "").replace("]", ""))
            return cls(network, None if port == "*" else _port(port), protocol, _endpoint(target) if redirected else None)
        except ValueError:
            raise UsageError(f"not a grant: {text!r}; write ADDRESS[/BITS]:PORT[/udp][=ADDRESS:PORT]") from None

    def covers(self, request: NetworkRequest) -> bool:
        return (
            request.protocol == self.protocol and self.port in (None, request.port) and request.address in self.network
        )  # fmt: skip


class AllowConnect:
    """Grants what the first grant that covers it says, and nothing else: `Sandbox(network=AllowConnect("192.0.2.0/24:443"))`.

    An address of the host itself is as any other and leads to the host's services. Its loopback is reached only by a grant that
    leads there: "192.0.2.1:80=127.0.0.1:8080".
    """

    def __init__(self, *grants: Grant | str) -> None:
        """UsageError for what is none."""
        self.grants = tuple(Grant.parse(grant) if isinstance(grant, str) else grant for grant in grants)

    def __call__(self, request: NetworkRequest) -> Answer:
        for grant in self.grants:
            if grant.covers(request):
                return grant.target if grant.target is not None else True
        return False


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number <= _PORT_MAX:
        raise ValueError(text)
    return number


def _endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    host, _, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(text)
    return ip_address(host.strip("[]")), _port(port)
