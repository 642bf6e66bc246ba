"""/proc/PID/net: the network of the sandbox as the files that libraries look into. Source: proc_pid_net(5), unix(7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.linux.vfs.synthetic import FixedDirectory, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asynckvm.linux.vfs.synthetic import SyntheticFileSystem

_INET: Final = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    b"                                                     \n"
)
_INET6: Final = (
    b"  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when"
    b" retrnsmt   uid  timeout inode\n"
)
_DEVICES: Final = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast"
    b"|bytes    packets errs drop fifo colls carrier compressed\n"
    b"    lo:       0       0    0    0    0     0          0         0"
    b"        0       0    0    0    0     0       0          0\n"
)
# What is there before the first socket: titles of the tables, and the loopback device with its addresses.
_TEXTS: Final[Mapping[bytes, bytes]] = {
    b"arp": b"IP address       HW type     Flags       HW address            Mask     Device\n",
    b"dev": _DEVICES,
    b"if_inet6": b"00000000000000000000000000000001 01 80 10 80       lo\n",
    b"route": b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT" + b" " * 55 + b"\n",
    b"tcp": _INET,
    b"tcp6": _INET6,
    b"udp": _INET,
    b"udp6": _INET6,
    b"unix": b"Num       RefCount Protocol Flags    Type St Inode Path\n",
}


def directory(fs: SyntheticFileSystem) -> FixedDirectory:
    """One for all processes: they share one network."""
    found = FixedDirectory(fs, b"net")
    for name, text in _TEXTS.items():
        found.add(name, Text(fs, b"net/" + name, lambda text=text: (text,)))  # type: ignore[misc]
    return found
