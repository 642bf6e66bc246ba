"""Socket calls that wait, bounds on what a guest can make grow, and descriptors in flight that nobody can receive any more."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.linux import wait
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.sockets.abi import MSG_WAITFORONE
from asynckvm.linux.sockets.network import Network
from asynckvm.linux.syscalls import messages, sockets
from support.socket_worlds import Sandbox, Sock

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIX = socket.AF_UNIX


class WaitingSandbox(Sandbox):
    """A sandbox whose task may wait. `interrupt()` ends the wait of the task as a signal does."""

    def __init__(self, network: Network | None = None) -> None:
        super().__init__(network)
        self._waiting: list[asyncio.Future[Any]] = []
        self.task.wait = self._wait  # type: ignore[method-assign]

    async def _wait(self, *queues: Any, until: int | None = None) -> bool:
        return await wait.wait(queues, until, self._waiting.append)

    def interrupt(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(SyscallError(ERESTARTSYS))

    def start(self, handler: Any, *args: int) -> asyncio.Task[int]:
        return asyncio.ensure_future(handler(self.task, *args))

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Sock, Sock]:
        pair = self.socketpair(UNIX, kind)
        for one in pair:
            one.setblocking(True)
        return pair


@pytest.fixture
def world() -> Iterator[WaitingSandbox]:
    made = WaitingSandbox()
    yield made
    made.close()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def within(task: asyncio.Task[int]) -> int:
    return await asyncio.wait_for(task, 10)


async def test_receive_waits(world: WaitingSandbox) -> None:
    first, second = world.pair()
    pointer = world.task.space.place(10)
    receiving = world.start(messages.recvfrom, second.fd, pointer, 10, 0, 0, 0)
    await turns()
    assert not receiving.done()
    first.send(b"now")
    assert await within(receiving) == 3


async def test_wait_for_all(world: WaitingSandbox) -> None:
    first, second = world.pair()
    pointer = world.task.space.place(6)
    receiving = world.start(messages.recvfrom, second.fd, pointer, 6, socket.MSG_WAITALL, 0, 0)
    for piece in (b"ab", b"cd"):
        first.send(piece)
        await turns()
        assert not receiving.done()
    first.send(b"ef")
    assert await within(receiving) == 6
    assert world.task.space.read(pointer, 6) == b"abcdef"


async def test_low_water_mark(world: WaitingSandbox) -> None:
    first, second = world.pair()
    second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    receiving = world.start(messages.recvfrom, second.fd, world.task.space.place(9), 9, 0, 0, 0)
    first.send(b"abc")
    await turns()
    assert not receiving.done()
    first.send(b"de")
    assert await within(receiving) == 5


async def test_read_waits(world: WaitingSandbox) -> None:
    first, second = world.pair()
    reading = asyncio.ensure_future(second.file.read_for(world.task, 10))  # type: ignore[arg-type]
    await turns()
    first.file.write_for(world.task, b"now")  # type: ignore[arg-type]
    assert await asyncio.wait_for(reading, 10) == b"now"
    second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 20_000))
    with pytest.raises(SyscallError, match="EAGAIN"):
        await asyncio.wait_for(second.file.read_for(world.task, 10), 10)  # type: ignore[arg-type]


async def test_blocking_connection(world: WaitingSandbox) -> None:
    """With room in the backlog it is made at once, without it when there is some, and refused where nobody listens."""
    listener = world.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener._pack(listener.getsockname())
    pointer = world.task.space.place(address)
    clients = [world.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(3)]
    for client in clients:
        client.setblocking(True)
    connecting = [world.start(sockets.connect, client.fd, pointer, len(address)) for client in clients]
    assert await within(connecting[0]) == 0
    await turns()
    assert not connecting[1].done()
    listener.accept()
    assert await within(connecting[1]) == 0
    listener.close()
    with pytest.raises(SyscallError, match="ECONNREFUSED"):
        await within(connecting[2])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
async def test_send_waits_for_room(world: WaitingSandbox, kind: int) -> None:
    first, second = world.pair(kind)
    pointer = world.task.space.place(bytes(100_000))
    sends = [world.start(messages.sendto, first.fd, pointer, 100_000, 0, 0, 0) for _ in range(4)]
    await turns()
    # A stream takes what fits; messages are taken while anything fits.
    assert sum(send.done() for send in sends) == (2 if kind == socket.SOCK_STREAM else 3)
    received = 0
    second.setblocking(False)
    while received < 400_000:
        received += len(second.recv(100_000))
        await turns()
    assert [await within(send) for send in sends] == [100_000] * 4


async def test_full_backlog_waits(world: WaitingSandbox) -> None:
    listener, first, second = (world.socket(UNIX, socket.SOCK_STREAM) for _ in range(3))
    listener.bind(b"\0name")
    listener.listen(0)
    first.connect(b"\0name")
    second.setblocking(True)
    address = struct.pack("<H", UNIX) + b"\0name"
    connecting = world.start(sockets.connect, second.fd, world.task.space.place(address), len(address))
    await turns()
    assert not connecting.done()
    listener.accept()
    assert await within(connecting) == 0
    assert listener.accept()[0].fd >= 0


async def test_accept_waits(world: WaitingSandbox) -> None:
    listener, client = (world.socket(UNIX, socket.SOCK_STREAM) for _ in range(2))
    listener.bind(b"\0name")
    listener.listen(0)
    listener.setblocking(True)
    accepting = world.start(sockets.accept, listener.fd, 0, 0)
    await turns()
    client.connect(b"\0name")
    assert await within(accepting) > client.fd


async def test_timeouts(world: WaitingSandbox) -> None:
    first, _ = world.pair()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 20_000))
    assert struct.unpack("<qq", first.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)) == (0, 20_000)
    with pytest.raises(SyscallError, match="EAGAIN"):
        await within(world.start(messages.recvfrom, first.fd, world.task.space.place(1), 1, 0, 0, 0))
    with pytest.raises(OSError, match=os.strerror(errno.EDOM)):
        first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 1_000_000))


@pytest.mark.parametrize(("timeout", "number"), [(0, ERESTARTSYS), (9, errno.EINTR)])
async def test_signals_interrupt(world: WaitingSandbox, timeout: int, number: int) -> None:
    first, _ = world.pair()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", timeout, 0))
    receiving = world.start(messages.recvfrom, first.fd, world.task.space.place(1), 1, 0, 0, 0)
    await turns()
    world.interrupt()
    with pytest.raises(SyscallError) as caught:
        await within(receiving)
    assert caught.value.number == number


async def test_a_descriptor_closed_under_a_wait(world: WaitingSandbox) -> None:
    first, second = world.pair()
    receiving = world.start(messages.recvfrom, second.fd, world.task.space.place(3), 3, 0, 0, 0)
    await turns()
    second.close()
    first.send(b"yes")
    assert await within(receiving) == 3
    with pytest.raises(BrokenPipeError):
        first.file.write(b"x")


async def test_several_messages(world: WaitingSandbox) -> None:
    first, second = world.pair(socket.SOCK_DGRAM)
    place, space = world.task.space.place, world.task.space
    vector = b""
    for text in (b"one", b"three"):
        iov = place(struct.pack("<QQ", place(text), len(text)))
        vector += struct.pack("<Qi4xQQQQi4xI4x", 0, 0, iov, 1, 0, 0, 0, 0)
    at = place(vector)
    assert await within(world.start(messages.sendmmsg, first.fd, at, 2, 0)) == 2
    assert [struct.unpack("<I", space.read(at + 64 * i + 56, 4))[0] for i in range(2)] == [3, 5]
    assert await within(world.start(messages.recvmmsg, second.fd, at, 2, MSG_WAITFORONE, 0)) == 2
    first.send(b"x")
    assert await within(world.start(messages.recvmmsg, second.fd, at, 2, MSG_WAITFORONE, 0)) == 1


# ---------------------------------------------------------------- bounds


def rights(*files: Sock) -> list[Any]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fd for file in files]).tobytes())]


def test_memory_of_all_queues() -> None:
    world = Sandbox(Network(buffers=300_000))
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    third, _ = world.socketpair(UNIX, socket.SOCK_DGRAM)
    assert first.send(bytes(200_000)) == 200_000
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        third.sendmsg([bytes(150_000)], rights(first))
    assert world.network.flight.count == 0
    second.recv(200_000)
    assert third.send(bytes(150_000)) == 150_000
    world.close()


def test_descriptors_in_flight() -> None:
    world = Sandbox()
    world.task.process.files.limit = 100
    first, second = world.socketpair(UNIX, socket.SOCK_STREAM)
    first.sendmsg([b"x"], rights(*[first] * 101))
    with pytest.raises(OSError, match=os.strerror(errno.ETOOMANYREFS)):
        first.sendmsg([b"x"], rights(first))
    second.recv(1)
    first.sendmsg([b"x"], rights(first))
    world.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_cycles_in_flight_are_collected(kind: int) -> None:
    world = Sandbox()
    kept, watched = world.socketpair(UNIX, socket.SOCK_STREAM)
    for _ in range(200):
        first, second = world.socketpair(UNIX, kind)
        first.sendmsg([b"x"], rights(second, watched))
        second.sendmsg([b"x"], rights(first))
        first.close()
        second.close()
    assert world.network.flight.count < 200
    # What can still be received is kept.
    first, second = world.socketpair(UNIX, kind)
    first.sendmsg([b"x"], rights(watched))
    watched.close()
    world.network.flight.collect()
    assert world.network.flight.count == 1
    assert not kept.poll() & wait.POLLHUP
    second.recv(1)
    assert kept.poll() & wait.POLLHUP
    world.close()


def test_rights_of_connections_nobody_accepted() -> None:
    world = Sandbox()
    listener, client = (world.socket(UNIX, socket.SOCK_STREAM) for _ in range(2))
    listener.bind(b"\0name")
    listener.listen()
    client.connect(b"\0name")
    client.sendmsg([b"x"], rights(client))
    world.network.flight.collect()
    server, _ = listener.accept()
    listener.close()
    world.network.flight.collect()
    assert server.recvmsg(1, 100)[1]
    # And one that only the listener knows, which is itself in flight in its own queue.
    listener, other = (world.socket(UNIX, socket.SOCK_STREAM) for _ in range(2))
    listener.bind(b"\0name")
    listener.listen()
    other.connect(b"\0name")
    other.sendmsg([b"x"], rights(listener, other))
    listener.close()
    other.close()
    world.network.flight.collect()
    assert world.network.flight.count == 0
    world.close()


@pytest.mark.parametrize("family", [UNIX, socket.AF_INET])
def test_connections_given_up_leave_nothing(family: int) -> None:
    world = Sandbox()
    listener = world.socket(family, socket.SOCK_STREAM)
    address = b"\0name" if family == UNIX else ("127.0.0.1", 1234)
    listener.bind(address)
    listener.listen(0)
    world.socket(family, socket.SOCK_STREAM).connect_ex(address)
    waiting = listener.file.blocked if family == UNIX else listener.file.on_way  # type: ignore[attr-defined]
    for _ in range(20):
        client = world.socket(family, socket.SOCK_STREAM)
        assert client.connect_ex(address) in (errno.EAGAIN, errno.EINPROGRESS)
        assert len(waiting) == 1
        client.close()
        assert len(waiting) == 0
    world.close()


def test_hostile_pointers() -> None:
    world = Sandbox()
    first, _ = world.socketpair(UNIX, socket.SOCK_STREAM)
    for handler, *args in (
        (sockets.socketpair, UNIX, 1, 0, 8),
        (sockets.bind, first.fd, 8, 16),
        (sockets.getsockname, first.fd, 8, 8),
        (sockets.getsockopt, first.fd, 1, 3, 8, 8),
        (sockets.setsockopt, first.fd, 1, 2, 8, 4),
        (messages.sendto, first.fd, 8, 100, 0, 0, 0),
        (messages.sendmsg, first.fd, 8, 0),
        (messages.recvmsg, first.fd, 8, 0),
    ):
        with pytest.raises(OSError, match="bad address"):
            world.call(handler, *args)
    for handler, *args in (
        (sockets.bind, first.fd, 8, 129),
        (sockets.bind, first.fd, 8, -1),
        (sockets.setsockopt, first.fd, 1, 2, 8, -1),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            world.call(handler, *args)
    world.close()
