"""UDP over loopback, on the host's kernel and in the sandbox: one test, two worlds, the same answers."""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from support.socket_worlds import Host, Sandbox, fails, settled

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = socket.AF_INET, socket.AF_INET6
UDP = socket.SOCK_DGRAM
LOOPBACK = {V4: "127.0.0.1", V6: "::1"}
IN, OUT, HUP, ERR = select.POLLIN, select.POLLOUT, select.POLLHUP, select.POLLERR


@pytest.fixture(params=[Host, Sandbox])
def world(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def family(request: Any) -> int:
    number: int = request.param
    return number


def test_datagrams(world: Any, family: int) -> None:
    receiver, sender = world.socket(family, UDP), world.socket(family, UDP)
    receiver.bind((LOOPBACK[family], 0))
    fails(errno.EDESTADDRREQ, sender.send, b"x")
    fails(errno.EAGAIN, receiver.recv, 1)
    assert sender.sendto(b"hello", receiver.getsockname()) == 5
    settled(receiver, IN)
    data, address = receiver.recvfrom(100)
    assert (data, address[1]) == (b"hello", sender.getsockname()[1])
    assert address[0] == LOOPBACK[family]
    receiver.sendto(b"back to you", address)
    settled(sender, IN)
    assert sender.recvmsg(4)[:3] == (b"back", [], socket.MSG_TRUNC)
    fails(errno.EMSGSIZE, sender.sendto, bytes(65536), receiver.getsockname())
    fails(errno.EINVAL, sender.sendto, b"x", (LOOPBACK[family], 0))
    fails(errno.EOPNOTSUPP, sender.listen)
    fails(errno.EOPNOTSUPP, sender.accept)


def test_connected_datagrams(world: Any, family: int) -> None:
    first, second, third = (world.socket(family, UDP) for _ in range(3))
    first.bind((LOOPBACK[family], 0))
    second.connect(first.getsockname())
    assert second.getpeername() == first.getsockname()
    assert second.getsockname()[0] == LOOPBACK[family]
    first.connect(second.getsockname())
    third.sendto(b"not for you", first.getsockname())
    second.send(b"for you")
    settled(first, IN)
    assert first.recv(100) == b"for you"
    fails(errno.EAGAIN, first.recv, 1)
    first.close()
    second.send(b"x")
    settled(second, ERR)
    fails(errno.ECONNREFUSED, second.send, b"x")
    fails(errno.ENOTCONN, third.getpeername)
    fails(errno.ENOTCONN, third.shutdown, socket.SHUT_RDWR)


def test_wildcards_and_specific_addresses(world: Any) -> None:
    wild, specific, sender = (world.socket(V4, UDP) for _ in range(3))
    for sock in (wild, specific):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wild.bind(("", 0))
    port = wild.getsockname()[1]
    specific.bind(("127.0.0.1", port))
    sender.sendto(b"one", ("127.0.0.1", port))
    sender.sendto(b"two", ("127.0.0.2", port))
    settled(specific, IN)
    settled(wild, IN)
    assert specific.recv(10) == b"one"
    assert wild.recv(10) == b"two"


def test_datagrams_without_room_are_lost(world: Any) -> None:
    receiver, sender = world.socket(V4, UDP), world.socket(V4, UDP)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receiver.bind(("127.0.0.1", 0))
    for _ in range(100):
        assert sender.sendto(bytes(1000), receiver.getsockname()) == 1000
    settled(receiver, IN)
    received = 0
    with pytest.raises(BlockingIOError):
        while receiver.recv(1000):
            received += 1
    assert 1 <= received < 20


def test_what_is_told_with_datagrams(world: Any) -> None:
    receiver, sender = world.socket(V6, UDP), world.socket(V6, UDP)
    receiver.bind(("::1", 0))
    for name in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
        receiver.setsockopt(socket.IPPROTO_IPV6, name, 1)
    sender.connect(receiver.getsockname())
    numbers = ((socket.IPV6_TCLASS, 3), (socket.IPV6_HOPLIMIT, 7))
    sender.sendmsg([b"x"], [(socket.IPPROTO_IPV6, name, struct.pack("i", number)) for name, number in numbers])
    settled(receiver, IN)
    _, told, flags, _ = receiver.recvmsg(10, 200)
    assert flags == 0
    assert {kind: data for _, kind, data in told} == {
        socket.IPV6_PKTINFO: socket.inet_pton(V6, "::1") + struct.pack("i", 1),
        socket.IPV6_HOPLIMIT: struct.pack("i", 7),
        socket.IPV6_TCLASS: struct.pack("i", 3),
    }
    wrong = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, b"12345")]
    fails(errno.EINVAL, sender.sendmsg, [b"x"], wrong)


def test_events_of_datagrams(world: Any) -> None:
    sock = world.socket(V4, UDP)
    assert sock.poll() & (IN | OUT | HUP) == OUT
    sock.connect(("127.0.0.1", 9))
    sock.shutdown(socket.SHUT_RDWR)
    assert sock.poll() & (IN | HUP) == IN | HUP
    fails(errno.EPIPE, sock.send, b"x")
