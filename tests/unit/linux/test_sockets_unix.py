"""Unix sockets, on the host's kernel and in the sandbox: one test, two worlds, the same answers."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.linux.syscalls import messages
from support.socket_worlds import Host, Sandbox, fails

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNIX = socket.AF_UNIX
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]
CONNECTED = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]
NONE = 0, 2**32 - 1, 2**32 - 1


@pytest.fixture(params=[Host, Sandbox])
def world(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def name() -> bytes:
    return b"\0" + uuid.uuid4().hex.encode()


def connected(world: Any, name: bytes, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any, Any]:
    """(listener, client, server)."""
    listener, client = world.socket(UNIX, kind), world.socket(UNIX, kind)
    listener.bind(name)
    listener.listen(5)
    client.connect(name)
    server, _ = listener.accept()
    return listener, client, server


# ---------------------------------------------------------------- making


def test_kinds_that_do_not_exist(world: Any) -> None:
    fails(errno.EAFNOSUPPORT, world.socket, 45, socket.SOCK_STREAM)
    fails(errno.EAFNOSUPPORT, world.socket, 99, socket.SOCK_STREAM)
    fails(errno.ESOCKTNOSUPPORT, world.socket, UNIX, socket.SOCK_RDM)
    fails(errno.EPROTONOSUPPORT, world.socket, UNIX, socket.SOCK_STREAM, 6)
    fails(errno.EINVAL, world.socket, UNIX, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_pair(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    assert first.send(b"one") == 3
    assert second.recv(10) == b"one"
    assert second.send(b"two") == 3
    assert first.recvmsg(10)[:1] == (b"two",)
    fails(errno.EAGAIN, first.recv, 1)
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == UNIX
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 0
    assert first.getsockname() == ""
    assert first.getpeername() == ""


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("kind", KINDS)
def test_names(world: Any, name: bytes, kind: int) -> None:
    first, second = world.socket(UNIX, kind), world.socket(UNIX, kind)
    first.bind(name)
    assert first.getsockname() == name
    fails(errno.EINVAL, first.bind, name + b"2")
    fails(errno.EADDRINUSE, second.bind, name)
    first.close()
    second.bind(name)


def test_autobind(world: Any) -> None:
    first, second = world.socket(UNIX, socket.SOCK_STREAM), world.socket(UNIX, socket.SOCK_STREAM)
    first.bind("")
    second.bind("")
    assert first.getsockname()[:1] == b"\0"
    assert len(first.getsockname()) == 6
    assert first.getsockname() != second.getsockname()
    bound = first.getsockname()
    first.bind("")
    assert first.getsockname() == bound


def test_path(world: Any, tmp_path: Path) -> None:
    path = world.path(tmp_path)
    first, second, third = (world.socket(UNIX, socket.SOCK_STREAM) for _ in range(3))
    fails(errno.ENOENT, second.connect, path)
    first.bind(path)
    assert first.getsockname() == path
    fails(errno.ECONNREFUSED, second.connect, path)
    fails(errno.EADDRINUSE, second.bind, path)
    first.listen()
    second.connect(path)
    server, address = first.accept()
    assert address == ""
    assert server.getsockname() == path
    assert second.getpeername() == path
    first.close()
    fails(errno.ECONNREFUSED, third.connect, path)


# ---------------------------------------------------------------- connections


@pytest.mark.parametrize("kind", CONNECTED)
def test_connection(world: Any, name: bytes, kind: int) -> None:
    listener, client = world.socket(UNIX, kind), world.socket(UNIX, kind)
    fails(errno.EINVAL, listener.listen)
    listener.bind(name)
    fails(errno.ECONNREFUSED, client.connect, name)
    fails(errno.EINVAL, listener.accept)
    listener.listen()
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    fails(errno.EAGAIN, listener.accept)
    fails(errno.ENOTCONN, client.getpeername)
    assert listener.poll() == 0
    client.connect(name)
    assert listener.poll() == select.POLLIN | select.POLLRDNORM
    fails(errno.EISCONN, client.connect, name)
    client.send(b"early")
    server, address = listener.accept()
    assert address in ("", b"")
    assert server.recv(10) == b"early"
    assert server.getsockname() == name
    assert client.getpeername() == name
    assert listener.poll() == 0


def test_wrong_kind(world: Any, name: bytes, tmp_path: Path) -> None:
    listener, client = world.socket(UNIX, socket.SOCK_STREAM), world.socket(UNIX, socket.SOCK_DGRAM)
    path = world.path(tmp_path)
    listener.bind(path)
    listener.listen()
    fails(errno.EPROTOTYPE, client.connect, path)
    fails(errno.EPROTOTYPE, client.sendto, b"x", path)
    client.bind(name)
    world.socket(UNIX, socket.SOCK_STREAM).bind(name)
    fails(errno.EOPNOTSUPP, client.listen)
    fails(errno.EOPNOTSUPP, client.accept)


def test_full_backlog(world: Any, name: bytes) -> None:
    listener = world.socket(UNIX, socket.SOCK_STREAM)
    listener.bind(name)
    listener.listen(1)
    clients = [world.socket(UNIX, socket.SOCK_STREAM) for _ in range(3)]
    clients[0].connect(name)
    clients[1].connect(name)
    fails(errno.EAGAIN, clients[2].connect, name)
    listener.accept()
    clients[2].connect(name)


@pytest.mark.parametrize("kind", CONNECTED)
def test_unaccepted_connections_are_reset(world: Any, name: bytes, kind: int) -> None:
    listener, client = world.socket(UNIX, kind), world.socket(UNIX, kind)
    listener.bind(name)
    listener.listen()
    client.connect(name)
    listener.close()
    assert client.poll() & (select.POLLERR | select.POLLHUP) == select.POLLERR | select.POLLHUP
    fails(errno.ECONNRESET, client.recv, 1)
    assert client.recv(1) == b""


def test_peer_credentials(world: Any, name: bytes) -> None:
    fresh = world.socket(UNIX, socket.SOCK_STREAM)
    assert struct.unpack("3I", fresh.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)) == NONE
    _, client, server = connected(world, name)
    for one in (client, server, *world.socketpair(UNIX, socket.SOCK_STREAM)):
        pid, user, group = struct.unpack("3I", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert pid > 1
        assert (user, group) == (os.getuid(), os.getgid())


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("kind", CONNECTED)
def test_close(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    second.send(b"last")
    second.close()
    assert first.recv(10) == b"last"
    assert first.recv(10) == b""
    assert first.poll() & 0x2011 == 0x2011
    fails(errno.EPIPE, first.send, b"x", socket.MSG_NOSIGNAL)


@pytest.mark.parametrize("kind", CONNECTED)
def test_close_with_unread_data(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    first.send(b"unread")
    second.close()
    assert first.poll() & select.POLLERR
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert first.recv(1) == b""


@pytest.mark.parametrize("kind", CONNECTED)
def test_shutdown(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    first.send(b"last")
    first.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, first.send, b"x", socket.MSG_NOSIGNAL)
    assert second.poll() & 0x2000
    assert second.recv(10) == b"last"
    assert second.recv(10) == b""
    second.send(b"back")
    assert first.recv(10) == b"back"
    second.shutdown(socket.SHUT_WR)
    assert first.recv(10) == b""
    assert first.poll() & select.POLLHUP
    fails(errno.EINVAL, first.shutdown, 3)


def test_shutdown_of_reading(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    second.send(b"before")
    first.shutdown(socket.SHUT_RD)
    fails(errno.EPIPE, second.send, b"x", socket.MSG_NOSIGNAL)
    assert first.recv(10) == b"before"
    assert first.recv(10) == b""


def test_unconnected(world: Any) -> None:
    stream, packets, datagrams = (world.socket(UNIX, kind) for kind in (1, 5, 2))
    fails(errno.EINVAL, stream.recv, 1)
    fails(errno.ENOTCONN, packets.recv, 1)
    fails(errno.EAGAIN, datagrams.recv, 1)
    for one in (stream, packets, datagrams):
        fails(errno.ENOTCONN, one.send, b"x")
        fails(errno.ENOTCONN, one.getpeername)
    assert stream.poll() & 0x15 == select.POLLHUP | select.POLLOUT
    assert datagrams.poll() & 0x15 == select.POLLOUT


def test_signal_of_a_broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    world, told = Sandbox(), []
    monkeypatch.setattr(messages, "broken_pipe", told.append)
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    second.close()
    fails(errno.EPIPE, first.send, b"x")
    assert told == [world.task]
    packets, other = world.socketpair(UNIX, socket.SOCK_SEQPACKET)
    other.close()
    fails(errno.EPIPE, packets.send, b"x")
    assert told == [world.task]
    world.close()


# ---------------------------------------------------------------- messages


def test_stream_has_no_boundaries(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    for piece in (b"ab", b"cd", b"", b"efg"):
        first.send(piece)
    assert second.recv(3, socket.MSG_PEEK) == b"abc"
    assert second.recv(3) == b"abc"
    assert second.recv(10) == b"defg"
    fails(errno.EISCONN, first.sendto, b"x", b"\0nobody")


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_messages_have_boundaries(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    first.send(b"first")
    first.send(b"")
    first.send(b"second")
    assert second.recvmsg(3, 0, socket.MSG_PEEK)[:3] == (b"fir", [], socket.MSG_TRUNC)
    assert second.recvmsg(3)[:3] == (b"fir", [], socket.MSG_TRUNC)
    assert second.recvmsg(3)[:3] == (b"", [], 0)
    assert second.recvmsg(6)[:3] == (b"second", [], 0)
    fails(errno.EMSGSIZE, first.send, bytes(212992))


def test_length_of_a_cut_message(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_DGRAM)
    first.send(b"whole message")
    buffer = bytearray(4)
    if isinstance(world, Host):
        assert second.recv_into(buffer, 4, socket.MSG_TRUNC) == 13
    else:
        place = world.task.space.place(4)
        assert world.call(messages.recvfrom, second.fd, place, 4, socket.MSG_TRUNC, 0, 0) == 13


def test_datagrams_by_name(world: Any, name: bytes) -> None:
    receiver, sender = world.socket(UNIX, socket.SOCK_DGRAM), world.socket(UNIX, socket.SOCK_DGRAM)
    fails(errno.ECONNREFUSED, sender.sendto, b"x", name)
    receiver.bind(name)
    sender.sendto(b"unnamed", name)
    assert receiver.recvfrom(20) in ((b"unnamed", None), (b"unnamed", ""))
    sender.bind(name + b"2")
    sender.sendto(b"named", name)
    assert receiver.recvfrom(20) == (b"named", name + b"2")
    sender.connect(name)
    sender.send(b"connected")
    assert receiver.recv(20) == b"connected"
    receiver.connect(name + b"2")
    third = world.socket(UNIX, socket.SOCK_DGRAM)
    fails(errno.EPERM, third.connect, name)
    fails(errno.EPERM, third.sendto, b"x", name)
    receiver.close()
    fails(errno.ECONNREFUSED, sender.send, b"x")
    fails(errno.ENOTCONN, sender.send, b"x")


def test_full_queue_of_datagrams(world: Any, name: bytes) -> None:
    receiver, sender = world.socket(UNIX, socket.SOCK_DGRAM), world.socket(UNIX, socket.SOCK_DGRAM)
    receiver.bind(name)
    sender.connect(name)
    sent = 0
    while sender.poll() & select.POLLOUT:
        sender.send(b"x")
        sent += 1
    fails(errno.EAGAIN, sender.send, b"x")
    assert 0 < sent <= 600
    if isinstance(world, Sandbox):
        assert sent == 11
    for _ in range(sent):
        receiver.recv(1)
    assert sender.poll() & select.POLLOUT


@pytest.mark.parametrize("kind", KINDS)
def test_backpressure(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += first.send(bytes(1000))
    assert 50_000 < sent <= 212_992
    assert not first.poll() & select.POLLOUT
    while sent:
        sent -= len(second.recv(1000))
    assert first.poll() & select.POLLOUT


def test_small_buffers(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 4608
    second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 3000)
    assert second.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 6000
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 425984
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
    assert 0 < first.send(bytes(100_000)) < 100_000


# ---------------------------------------------------------------- what goes along


def rights(*files: int) -> list[Any]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files).tobytes())]


def numbers(ancillary: list[Any]) -> list[int]:
    return [fd for level, kind, data in ancillary for fd in struct.unpack(f"{len(data) // 4}i", data)]


def passed_end(world: Any) -> tuple[Any, Any]:
    """A socket to send away, and its peer."""
    kept, sent = world.socketpair(UNIX, socket.SOCK_STREAM)
    return kept, sent


@pytest.mark.parametrize("kind", KINDS)
def test_rights(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    kept, sent = passed_end(world)
    assert first.sendmsg([b"ab", b"c"], rights(sent.fileno())) == 3
    sent.close()
    data, ancillary, flags, _ = second.recvmsg(10, 100, socket.MSG_CMSG_CLOEXEC)
    assert (data, flags & socket.MSG_CTRUNC) == (b"abc", 0)
    (fd,) = numbers(ancillary)
    kept.send(b"alive")
    if isinstance(world, Sandbox):
        files = world.task.process.files
        assert files.get(fd).read(5) == b"alive"
        assert files.closes_on_exec(fd)
        files.close(fd)
    else:
        assert os.read(fd, 5) == b"alive"
        os.close(fd)
    assert kept.poll() & select.POLLHUP


def test_rights_end_a_read(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    first.send(b"before")
    first.sendmsg([b"with"], rights(first.fileno()))
    first.send(b"after")
    data, ancillary, _, _ = second.recvmsg(100, 100)
    assert data == b"beforewith"
    (fd,) = numbers(ancillary)
    _close(world, fd)
    assert second.recvmsg(100, 100)[:2] == (b"after", [])


def test_rights_that_are_not_wanted(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    kept, sent = passed_end(world)
    for control, expected in ((0, 0), (8, 0), (16, 0), (19, 0), (20, 1), (24, 2)):
        first.sendmsg([b"x"], rights(sent.fileno(), sent.fileno(), sent.fileno()))
        data, ancillary, flags, _ = second.recvmsg(10, control)
        assert data == b"x"
        assert flags & socket.MSG_CTRUNC
        found = numbers(ancillary)
        assert len(found) == expected
        for fd in found:
            _close(world, fd)
    first.sendmsg([b"read"], rights(sent.fileno()))
    assert second.recv(10) == b"read"
    sent.close()
    assert kept.poll() & select.POLLHUP


def test_bad_control(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    fails(errno.EBADF, first.sendmsg, [b"x"], rights(999))
    fails(errno.EINVAL, first.sendmsg, [b"x"], rights(*[first.fileno()] * 254))
    fails(errno.EINVAL, first.sendmsg, [b"x"], [(socket.SOL_SOCKET, 77, b"")])
    fails(errno.EINVAL, first.sendmsg, [b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, b"short")])
    assert first.sendmsg([b"y"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"123")]) == 1
    assert second.recvmsg(10, 100)[:2] == (b"y", [])


def test_peek_at_rights(world: Any) -> None:
    first, second = world.socketpair(UNIX, socket.SOCK_DGRAM)
    first.sendmsg([b"x"], rights(first.fileno()))
    for flags in (socket.MSG_PEEK, 0):
        _, ancillary, _, _ = second.recvmsg(10, 100, flags)
        (fd,) = numbers(ancillary)
        _close(world, fd)


@pytest.mark.parametrize("kind", KINDS)
def test_credentials(world: Any, kind: int) -> None:
    first, second = world.socketpair(UNIX, kind)
    second.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    first.send(b"x")
    data, ((level, what, value),), _, _ = second.recvmsg(10, 100)
    assert (data, level, what) == (b"x", socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    pid, user, group = struct.unpack("3I", value)
    assert pid > 1
    assert (user, group) == (os.getuid(), os.getgid())
    first.sendmsg([b"y"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3I", pid, user, group))])
    assert second.recvmsg(10, 100)[1] == [(level, what, value)]
    first.send(b"z")
    assert second.recvmsg(10, 0)[2] & socket.MSG_CTRUNC


def _close(world: Any, fd: int) -> None:
    if isinstance(world, Sandbox):
        world.task.process.files.close(fd)
    else:
        os.close(fd)


def test_a_long_chain_of_messages_in_each_others_sockets() -> None:
    """The end of one socket is the end of the next, as many as there may be; natively too, but for a bound of its own."""
    world = Sandbox()
    account = world.task.process.files.account
    carried, kept = world.socketpair(UNIX, socket.SOCK_DGRAM)
    kept.close()
    for _ in range(900):
        sender, receiver = world.socketpair(UNIX, socket.SOCK_DGRAM)
        sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [carried.fileno()]))])
        sender.close()
        carried.close()
        carried = receiver
    assert account.count == world.network.flight.count + 1 == 901
    carried.close()
    assert account.count == world.network.flight.count == 0
