"""The one interface, lo, as netlink sockets and ioctl(2) tell it, and what sockets tell of themselves."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any

import pytest

from support.socket_worlds import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

FIONREAD, SIOCOUTQ, SIOCATMARK = 0x541B, 0x5411, 0x8905
DUMP = 0x301
NOWHERE = struct.pack("<HHII", socket.AF_NETLINK, 0, 0, 0)


@pytest.fixture
def world() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


class Route:
    """A route netlink socket."""

    def __init__(self, world: Sandbox) -> None:
        self.sock = world.socket(socket.AF_NETLINK, socket.SOCK_RAW)

    def ask(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        """(type, body) of all answers."""
        self.sock.send(struct.pack("<IHHII", 16 + len(body), kind, flags, 77, 0) + body)
        found = []
        while self.sock.poll() & 1:
            data = self.sock.recv(8192)
            while data:
                length, answered, _, sequence, port = struct.unpack_from("<IHHII", data)
                assert sequence == 77
                assert port
                found.append((answered, data[16:length]))
                data = data[(length + 3) & ~3 :]
        return found


def attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = struct.unpack_from("<HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def error_of(answers: list[tuple[int, bytes]]) -> int:
    ((kind, body),) = answers
    assert kind == 2
    number: int = struct.unpack_from("<i", body)[0]
    return -number


def test_links(world: Sandbox) -> None:
    (kind, link), (end, _) = Route(world).ask(18, DUMP, struct.pack("<B15x", 0))
    assert (kind, end) == (16, 3)
    assert struct.unpack_from("<BxHiI", link) == (0, 772, 1, 0x10049)
    assert attributes(link[16:])[3] == b"lo\0"


def test_addresses(world: Sandbox) -> None:
    route = Route(world)
    *found, (end, _) = route.ask(22, DUMP, struct.pack("<B7x", 0))
    assert end == 3
    assert [(kind, body[0], body[1], attributes(body[8:])[1]) for kind, body in found] == [
        (20, socket.AF_INET, 8, socket.inet_aton("127.0.0.1")),
        (20, socket.AF_INET6, 128, socket.inet_pton(socket.AF_INET6, "::1")),
    ]
    assert len(route.ask(22, DUMP, struct.pack("<B7x", socket.AF_INET))) == 2


def test_one_link(world: Sandbox) -> None:
    route = Route(world)
    name = struct.pack("<HH", 7, 3) + b"lo\0\0"
    for body in (struct.pack("<BxHiII", 0, 0, 1, 0, 0), bytes(16) + name):
        ((kind, link),) = route.ask(18, 1, body)
        assert kind == 16
        assert struct.unpack_from("<i", link, 4) == (1,)
    assert error_of(route.ask(18, 1, struct.pack("<BxHiII", 0, 0, 9, 0, 0))) == errno.ENODEV


def test_nothing_can_be_changed(world: Sandbox) -> None:
    route = Route(world)
    for kind in (16, 17, 19, 20, 24, 32):
        assert error_of(route.ask(kind, 5, bytes(16))) == errno.EPERM
    assert route.ask(26, DUMP, bytes(12)) == [(3, bytes(4))]


def test_garbage_is_ignored(world: Sandbox) -> None:
    route = Route(world)
    for data in (b"", b"short", struct.pack("<IHHII", 5, 18, DUMP, 0, 0), struct.pack("<IHHII", 999, 18, DUMP, 0, 0)):
        assert route.sock.send(data) == len(data)
        assert not route.sock.poll() & 1


def test_names(world: Sandbox) -> None:
    first, second = (world.socket(socket.AF_NETLINK, socket.SOCK_RAW) for _ in range(2))
    from asynckvm.linux.syscalls import sockets

    for sock in (first, second):
        world.call(sockets.bind, sock.fd, world.task.space.place(NOWHERE), 12)
    ports = [struct.unpack("<HHII", sock._named(sockets.getsockname)[1])[2] for sock in (first, second)]
    assert ports[0] == world.task.process.pid
    assert ports[0] != ports[1]
    with pytest.raises(OSError, match=os.strerror(errno.EPROTONOSUPPORT)):
        world.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)


# ---------------------------------------------------------------- ioctl


def asked(world: Sandbox, sock: Any, request: int, argument: bytes) -> bytes:
    pointer = world.task.space.place(argument)
    world.call(lambda task, _: sock.file.ioctl(task, request, pointer), 0)
    return world.task.space.read(pointer, len(argument))


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_interface(world: Sandbox, family: int) -> None:
    sock = world.socket(family, socket.SOCK_DGRAM)
    lo = b"lo".ljust(40, b"\0")
    assert struct.unpack_from("<i", asked(world, sock, 0x8933, lo), 16) == (1,)
    assert asked(world, sock, 0x8910, struct.pack("<16xi20x", 1))[:3] == b"lo\0"
    assert struct.unpack_from("<h", asked(world, sock, 0x8913, lo), 16) == (0x49,)
    assert asked(world, sock, 0x8915, lo)[20:24] == socket.inet_aton("127.0.0.1")
    for request, argument, number in (
        (0x8933, b"eth0".ljust(40, b"\0"), errno.ENODEV),
        (0x8910, struct.pack("<16xi20x", 2), errno.ENODEV),
        (0x8914, lo, errno.EPERM),
        (0x1234, lo, errno.ENOTTY),
    ):
        with pytest.raises(OSError, match=os.strerror(number)):
            asked(world, sock, request, argument)


def test_configuration(world: Sandbox) -> None:
    sock = world.socket(socket.AF_INET, socket.SOCK_DGRAM)
    buffer = world.task.space.place(100)
    assert struct.unpack_from("<i", asked(world, sock, 0x8912, struct.pack("<i4xQ", 100, buffer))) == (40,)
    assert world.task.space.read(buffer, 24)[:3] == b"lo\0"
    assert struct.unpack_from("<i", asked(world, sock, 0x8912, struct.pack("<i4xQ", 39, buffer))) == (0,)
    assert struct.unpack_from("<i", asked(world, sock, 0x8912, struct.pack("<i4xQ", 0, 0))) == (40,)


def test_pending_bytes(world: Sandbox) -> None:
    first, second = world.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    first.send(b"12345")
    assert asked(world, second, FIONREAD, bytes(4)) == struct.pack("<i", 5)
    assert struct.unpack("<i", asked(world, first, SIOCOUTQ, bytes(4)))[0] >= 5
    first, second = world.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.send(b"123")
    first.send(b"12345")
    assert asked(world, second, FIONREAD, bytes(4)) == struct.pack("<i", 3)
    listener, client = (world.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(2))
    listener.listen()
    client.connect_ex(("127.0.0.1", listener.getsockname()[1]))
    server, _ = listener.accept()
    client.send(b"ab!", socket.MSG_OOB)
    assert asked(world, server, FIONREAD, bytes(4)) == struct.pack("<i", 2)
    assert asked(world, server, SIOCATMARK, bytes(4)) == bytes(4)
    server.recv(10)
    assert asked(world, server, SIOCATMARK, bytes(4)) == struct.pack("<i", 1)
    for request in (FIONREAD, SIOCOUTQ):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            asked(world, listener, request, bytes(4))


def test_status(world: Sandbox) -> None:
    first, second = world.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one, other = first.file.attributes(), second.file.attributes()
    assert stat.S_ISSOCK(one.mode)
    assert one.inode != other.inode
    assert first.file.describe() == b"socket:[%d]" % one.inode
