"""TCP over loopback, and what TCP and UDP share, on the host's kernel and in the sandbox: the same answers."""

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
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
LOOPBACK = {V4: "127.0.0.1", V6: "::1"}
IN, OUT, HUP, ERR, RDHUP = select.POLLIN, select.POLLOUT, select.POLLHUP, select.POLLERR, 0x2000
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(params=[Host, Sandbox])
def world(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(params=[V4, V6], ids=["v4", "v6"])
def family(request: Any) -> int:
    number: int = request.param
    return number


def listening(world: Any, family: int, host: str | None = None, backlog: int = 8) -> Any:
    made = world.socket(family, TCP)
    made.bind((LOOPBACK[family] if host is None else host, 0))
    made.listen(backlog)
    return made


def connected(world: Any, family: int) -> tuple[Any, Any]:
    """(client, server)."""
    listener, client = listening(world, family), world.socket(family, TCP)
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    settled(listener, IN)
    server, _ = listener.accept()
    assert client.connect_ex(listener.getsockname()) == 0
    return client, server


# ---------------------------------------------------------------- making and options


def test_kinds_that_do_not_exist(world: Any, family: int) -> None:
    fails(errno.ESOCKTNOSUPPORT, world.socket, family, socket.SOCK_SEQPACKET)
    fails(errno.EPROTONOSUPPORT, world.socket, family, TCP, 17)
    fails(errno.EPROTONOSUPPORT, world.socket, family, UDP, 6)
    fails(errno.EOPNOTSUPP, world.socketpair, family, TCP)


def test_options(world: Any, family: int) -> None:
    stream, datagrams = world.socket(family, TCP), world.socket(family, UDP)
    for sock, kind, protocol in ((stream, TCP, 6), (datagrams, UDP, 17)):
        answers = [sock.getsockopt(socket.SOL_SOCKET, name) for name in (socket.SO_TYPE, socket.SO_PROTOCOL, socket.SO_DOMAIN)]
        assert answers == [kind, protocol, family]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)
        fails(errno.ENOPROTOOPT, sock.getsockopt, socket.SOL_SOCKET, 9999)
        fails(errno.ENOPROTOOPT, sock.setsockopt, socket.SOL_SOCKET, socket.SO_TYPE, 1)
        fails(errno.EINVAL, sock.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, b"\1")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 5)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64
    for name, default in (
        (socket.TCP_NODELAY, 0),
        (socket.TCP_KEEPIDLE, 7200),
        (socket.TCP_KEEPINTVL, 75),
        (socket.TCP_KEEPCNT, 9),
        (socket.TCP_USER_TIMEOUT, 0),
    ):
        assert stream.getsockopt(socket.IPPROTO_TCP, name) == default
        stream.setsockopt(socket.IPPROTO_TCP, name, 1)
        assert stream.getsockopt(socket.IPPROTO_TCP, name) == 1
    fails(errno.EINVAL, stream.setsockopt, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0)
    fails(errno.ENOPROTOOPT, stream.getsockopt, socket.IPPROTO_TCP, 999)
    no_level = errno.EOPNOTSUPP if family == V4 else errno.ENOPROTOOPT
    fails(no_level, datagrams.getsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY)
    fails(errno.ENOPROTOOPT, datagrams.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 100)[0] == 7


def test_options_of_v6(world: Any) -> None:
    sock = world.socket(V6, TCP)
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    sock.bind(("::1", 0))
    fails(errno.EINVAL, sock.setsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    fails(errno.EOPNOTSUPP, world.socket(V4, TCP).getsockopt, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


# ---------------------------------------------------------------- ports


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_binding(world: Any, family: int, kind: int) -> None:
    first, second, third = (world.socket(family, kind) for _ in range(3))
    assert first.getsockname()[1] == 0
    first.bind((LOOPBACK[family], 0))
    host, port = first.getsockname()[:2]
    assert host == LOOPBACK[family]
    assert 1024 < port < 65536
    fails(errno.EINVAL, first.bind, (LOOPBACK[family], 0))
    fails(errno.EADDRINUSE, second.bind, (LOOPBACK[family], port))
    fails(errno.EADDRINUSE, second.bind, ("", port))
    fails(errno.EADDRNOTAVAIL, second.bind, ("192.0.2.1" if family == V4 else "2001:db8::1", 0))
    first.close()
    second.bind(("", port))
    fails(errno.EADDRINUSE, third.bind, (LOOPBACK[family], port))


def test_short_and_foreign_addresses() -> None:
    """Python makes no wrong addresses for the host."""
    world = Sandbox()
    sock, six = world.socket(V4, TCP), world.socket(V6, UDP)
    good = sock._pack(("127.0.0.1", 0))
    fails(errno.EINVAL, sock.bind, good[:15])
    fails(errno.EAFNOSUPPORT, sock.bind, b"\x0a\0" + good[2:])
    fails(errno.EINVAL, sock.connect, b"\2")
    fails(errno.EAFNOSUPPORT, six.bind, good.ljust(28, b"\0"))
    fails(errno.EINVAL, six.bind, b"\x0a\0".ljust(23, b"\0"))
    six.bind(b"\x0a\0".ljust(24, b"\0"))
    world.close()


def test_reuse_of_addresses(world: Any) -> None:
    first, second, third = (world.socket(V4, TCP) for _ in range(3))
    for sock in (first, second, third):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    first.bind(("127.0.0.1", 0))
    second.bind(first.getsockname())
    first.listen()
    fails(errno.EADDRINUSE, second.listen)
    fails(errno.EADDRINUSE, third.bind, first.getsockname())


def test_reuse_of_ports(world: Any) -> None:
    first, second, third = (world.socket(V4, TCP) for _ in range(3))
    for sock in (first, second):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("127.0.0.1", 0))
    second.bind(first.getsockname())
    first.listen()
    second.listen()
    fails(errno.EADDRINUSE, third.bind, first.getsockname())


def test_both_stacks(world: Any) -> None:
    dual = world.socket(V6, TCP)
    dual.bind(("::", 0))
    port = dual.getsockname()[1]
    fails(errno.EADDRINUSE, world.socket(V4, TCP).bind, ("127.0.0.1", port))
    dual.listen()
    client = world.socket(V4, TCP)
    client.connect_ex(("127.0.0.1", port))
    settled(dual, IN)
    server, address = dual.accept()
    assert address[0] == "::ffff:127.0.0.1"
    assert server.getsockname()[0] == "::ffff:127.0.0.1"
    assert client.getpeername() == ("127.0.0.1", port)
    only = world.socket(V6, TCP)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    only.bind(("::", 0))
    fails(errno.EINVAL, world_v6only(world).bind, ("::ffff:127.0.0.1", 0))
    other = world.socket(V4, TCP)
    other.bind(("0.0.0.0", only.getsockname()[1]))


def world_v6only(world: Any) -> Any:
    sock = world.socket(V6, TCP)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def test_nothing_outside() -> None:
    world = Sandbox()
    for family, host in ((V4, "192.0.2.1"), (V6, "2001:db8::1"), (V4, "224.0.0.1")):
        fails(errno.ENETUNREACH, world.socket(family, TCP).connect, (host, 80))
        fails(errno.ENETUNREACH, world.socket(family, UDP).sendto, b"x", (host, 80))
    fails(errno.EACCES, world.socket(V4, UDP).sendto, b"x", ("255.255.255.255", 80))
    member = socket.inet_aton("224.0.0.1") + bytes(4)
    fails(errno.ENODEV, world.socket(V4, UDP).setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    world.close()


# ---------------------------------------------------------------- TCP


def test_connection(world: Any, family: int) -> None:
    listener, client = listening(world, family), world.socket(family, TCP)
    assert client.poll() & (OUT | HUP) == OUT | HUP
    fails(errno.EAGAIN, listener.accept)
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    settled(client, OUT)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert client.connect_ex(listener.getsockname()) == 0
    assert client.connect_ex(listener.getsockname()) == errno.EISCONN
    assert settled(listener, IN) & ~0x40 == IN
    server, address = listener.accept()
    assert address == client.getsockname()
    assert server.getpeername() == client.getsockname()
    assert client.getpeername() == server.getsockname() == listener.getsockname()
    client.send(b"hello")
    settled(server, IN)
    assert server.recv(3, socket.MSG_PEEK) == b"hel"
    assert server.recvfrom(10)[0] == b"hello"
    fails(errno.EAGAIN, server.recv, 1)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0] == 1
    fails(errno.EISCONN, listener.connect, client.getsockname())
    fails(errno.EINVAL, client.listen)
    fails(errno.EINVAL, client.accept)


def test_refused(world: Any, family: int) -> None:
    free, client = world.socket(family, TCP), world.socket(family, TCP)
    free.bind((LOOPBACK[family], 0))
    assert client.connect_ex(free.getsockname()) == errno.EINPROGRESS
    assert settled(client, ERR) & (IN | OUT | HUP) == IN | OUT | HUP
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert client.connect_ex(free.getsockname()) == errno.ECONNABORTED
    free.listen()
    assert client.connect_ex(free.getsockname()) == errno.EINPROGRESS
    settled(client, OUT)
    assert client.connect_ex(free.getsockname()) == 0


def test_unconnected_stream(world: Any, family: int) -> None:
    sock = world.socket(family, TCP)
    fails(errno.EPIPE, sock.send, b"x", socket.MSG_NOSIGNAL)
    fails(errno.ENOTCONN, sock.recv, 1)
    fails(errno.ENOTCONN, sock.getpeername)
    fails(errno.ENOTCONN, sock.shutdown, socket.SHUT_RDWR)
    fails(errno.EINVAL, sock.accept)
    listener = listening(world, family)
    fails(errno.ENOTCONN, listener.recv, 1)


def test_half_close(world: Any, family: int) -> None:
    client, server = connected(world, family)
    client.send(b"request")
    client.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, client.send, b"x", socket.MSG_NOSIGNAL)
    assert not settled(server, RDHUP) & HUP
    assert server.recv(100) == b"request"
    assert server.recv(100) == b""
    assert server.send(b"answer") == 6
    settled(client, IN)
    assert client.recv(100) == b"answer"
    server.close()
    settled(client, HUP)
    assert client.recv(100) == b""
    fails(errno.ENOTCONN, client.getpeername)


def test_much_is_not_written_to_a_closed_connection(world: Any) -> None:
    client, server = connected(world, V4)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server.close()
    settled(client, RDHUP)
    assert 0 < client.send(bytes(4 << 20), socket.MSG_NOSIGNAL) < 4 << 20
    settled(client, HUP)
    fails(errno.EPIPE, client.send, b"x", socket.MSG_NOSIGNAL)


def test_writing_to_a_closed_connection(world: Any) -> None:
    client, server = connected(world, V4)
    server.close()
    settled(client, RDHUP)
    assert client.getpeername()
    assert client.send(b"x") == 1
    settled(client, HUP)
    fails(errno.EPIPE, client.send, b"x", socket.MSG_NOSIGNAL)
    assert client.recv(1) == b""


@pytest.mark.parametrize("how", ["unread", "linger"])
def test_reset(world: Any, how: str) -> None:
    client, server = connected(world, V4)
    server.send(b"still there")
    settled(client, IN)
    if how == "unread":
        client.send(b"unread")
        settled(server, IN)
    else:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    server.close()
    settled(client, HUP | ERR)
    fails(errno.ECONNRESET, client.recv, 1) if client.poll() & ERR and not _reads(client) else None
    assert client.recv(1) == b""
    fails(errno.ENOTCONN, client.getpeername)


def _reads(client: Any) -> bool:
    """What came before the reset can be read, and then the reset is told."""
    assert client.recv(100) == b"still there"
    return False


def test_connections_nobody_accepted_are_reset(world: Any) -> None:
    listener, client = listening(world, V4), world.socket(V4, TCP)
    client.connect_ex(listener.getsockname())
    settled(client, OUT)
    settled(listener, IN)
    listener.close()
    settled(client, ERR)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def test_a_closed_connection_can_be_accepted(world: Any) -> None:
    listener, client = listening(world, V4), world.socket(V4, TCP)
    client.connect_ex(listener.getsockname())
    settled(listener, IN)
    name = client.getsockname()
    client.close()
    server, address = listener.accept()
    assert address == name
    settled(server, RDHUP)
    assert server.recv(1) == b""


def test_shutdown_of_a_listener(world: Any) -> None:
    listener = listening(world, V4)
    listener.shutdown(socket.SHUT_RD)
    fails(errno.EINVAL, listener.accept)
    assert listener.poll() & HUP
    client = world.socket(V4, TCP)
    client.connect_ex(listener.getsockname())
    settled(client, ERR)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_backpressure_of_streams(world: Any) -> None:
    client, server = connected(world, V4)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += client.send(bytes(1 << 16))
    assert sent > 100_000
    assert not client.poll() & OUT
    if isinstance(world, Sandbox):
        assert sent < 600_000
        received = 0
        while received < sent:
            received += len(server.recv(1 << 20))
        assert received == sent
        assert client.poll() & OUT


def test_urgent_data(world: Any) -> None:
    client, server = connected(world, V4)
    client.send(b"abc")
    client.send(b"de!", socket.MSG_OOB)
    client.send(b"fg")
    settled(server, IN | select.POLLPRI)
    assert server.recv(100) == b"abcde"
    assert server.recv(10, socket.MSG_OOB) == b"!"
    fails(errno.EINVAL, server.recv, 1, socket.MSG_OOB)
    assert not server.poll() & select.POLLPRI
    assert server.recv(100) == b"fg"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    client.send(b"x", socket.MSG_OOB)
    settled(server, IN)
    fails(errno.EINVAL, server.recv, 1, socket.MSG_OOB)
    assert server.recv(100) == b"x"


def test_full_backlog_keeps_connections_on_their_way() -> None:
    world = Sandbox()
    listener = listening(world, V4, backlog=0)
    first, second, third = (world.socket(V4, TCP) for _ in range(3))
    for client in (first, second, third):
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    assert second.poll() == 0
    assert second.connect_ex(listener.getsockname()) == errno.EALREADY
    fails(errno.EAGAIN, second.send, b"x")
    third.close()
    listener.accept()
    assert second.poll() & OUT
    assert second.connect_ex(listener.getsockname()) == 0
    third = world.socket(V4, TCP)
    third.connect_ex(listener.getsockname())
    listener.close()
    assert third.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    world.close()
