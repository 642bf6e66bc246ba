"""The outside network: what policies are asked, and connections and messages to servers of this host that they lead to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import termios
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from asynckvm.linux.sockets.policy import NetworkRequest
from asynckvm.linux.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, wait
from support.fake_tasks import SECONDS
from support.outside_worlds import FAR, SO_ERROR, TCP, UDP, V4, V6, Handler, echo, receive, until
from support.socket_worlds import fails

# ---------------------------------------------------------------- what is asked


async def test_what_a_policy_is_asked(worlds: Any) -> None:
    world = worlds(False)
    for family, host, shown in (
        (V4, "198.51.100.7", "198.51.100.7"),
        (V6, "::ffff:198.51.100.7", "198.51.100.7"),
        (V6, "2001:db8:1::7", "2001:db8:1::7"),
        (V4, "169.254.169.254", "169.254.169.254"),
        (V6, "::7f00:1", "::7f00:1"),
    ):
        fails(errno.EACCES, world.socket(family, TCP).connect, (host, 80))
        fails(errno.EACCES, world.socket(family, UDP).connect, (host, 53))
        fails(errno.EACCES, world.socket(family, UDP).sendto, b"x", (host, 53))
        address = ipaddress.ip_address(shown)
        assert world.policy.asked[-3:] == [
            NetworkRequest("connect", "tcp", address, 80),
            NetworkRequest("connect", "udp", address, 53),
            NetworkRequest("send", "udp", address, 53),
        ]
        assert world.policy.asked[-1].family == (V4 if address.version == 4 else V6)


async def test_what_no_policy_is_asked(worlds: Any) -> None:
    """Loopback addresses in every dress stay inside; what goes to several is refused."""
    world = worlds(True)
    for host in ("127.0.0.1", "127.255.0.9", "0.0.0.0"):
        sock = world.tcp((host, 1))
        assert sock.getsockopt(*SO_ERROR) == errno.ECONNREFUSED
        world.socket(V4, UDP).sendto(b"x", (host, 1))
    for host in ("::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"):
        sock = world.tcp((host, 1), V6)
        assert sock.getsockopt(*SO_ERROR) == errno.ECONNREFUSED
        world.socket(V6, UDP).sendto(b"x", (host, 1))
    for family, host in ((V4, "224.0.0.1"), (V6, "ff02::1"), (V6, "::ffff:224.0.0.1")):
        fails(errno.ENETUNREACH, world.socket(family, TCP).connect, (host, 80))
        fails(errno.ENETUNREACH, world.socket(family, UDP).sendto, b"x", (host, 80))
    broadcasting = world.socket(V4, UDP)
    broadcasting.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    fails(errno.ENETUNREACH, broadcasting.sendto, b"x", ("255.255.255.255", 80))
    only = world.socket(V6, TCP)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    fails(errno.ENETUNREACH, only.connect, ("::ffff:198.51.100.7", 80))
    assert world.policy.asked == []


async def _later(answer: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.mark.parametrize(
    "answer",
    [ValueError("broken"), None, 5, ("no address", 1), ("127.0.0.1", 0), ("127.0.0.1", 70000), ("127.0.0.1",)],
    ids=repr,
)
@pytest.mark.parametrize("waits", [False, True])
async def test_a_policy_that_fails_refuses(answer: Any, waits: bool, worlds: Any) -> None:
    world = worlds((lambda: _later(answer)) if waits else answer)
    if waits:
        sock = world.tcp()
        await until(sock, POLLERR)
        assert sock.getsockopt(*SO_ERROR) == errno.EACCES
    else:
        fails(errno.EACCES, world.socket(V4, TCP).connect, FAR)
    assert [request.address for request, _ in world.failures] == [ipaddress.ip_address(FAR[0])]


async def test_a_policy_that_thinks_for_ever(worlds: Any) -> None:
    world = worlds(lambda: asyncio.Event().wait(), patience=0.01)
    sock = world.tcp()
    await until(sock, POLLERR)
    assert sock.getsockopt(*SO_ERROR) == errno.EACCES
    assert isinstance(world.failures[0][1], TimeoutError)


@pytest.mark.parametrize("kind", [TCP, UDP])
async def test_a_policy_that_cancels_itself(kind: int, worlds: Any) -> None:
    async def give_up() -> bool:
        raise asyncio.CancelledError

    world = worlds(give_up)
    sock = world.socket(V4, kind)
    if kind == TCP:
        fails(errno.EINPROGRESS, sock.connect, FAR)
        await until(sock, POLLERR)
        assert sock.getsockopt(*SO_ERROR) == errno.EACCES
    else:
        queue = sock.file.deciding(sock._pack(FAR), "connect")
        async with asyncio.timeout(SECONDS):
            await wait((queue,))
        fails(errno.EACCES, sock.connect, FAR)


async def test_a_policy_that_takes_its_time_to_end(worlds: Any) -> None:
    """It keeps its place: who connects and gives up, over and over, has no more policies at work than sockets."""
    most, go = 3, asyncio.Event()
    at_work = 0

    async def slow() -> bool:
        nonlocal at_work
        at_work += 1
        try:
            return await asyncio.Event().wait()
        finally:
            await go.wait()
            at_work -= 1

    world = worlds(slow, limit=most)
    for _ in range(most):
        sock = world.tcp()
        await asyncio.sleep(0)
        sock.close()
    for _ in range(10):
        await asyncio.sleep(0)
        fails(errno.ENOBUFS, world.socket(V4, TCP).connect, FAR)
    assert at_work == most
    go.set()
    async with asyncio.timeout(SECONDS):
        while world.network.outside.used:
            await asyncio.sleep(0)
    assert at_work == 0
    world.tcp().close()


async def test_who_gives_up_meanwhile(worlds: Any) -> None:
    begun = asyncio.Event()

    async def think() -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    world = worlds(think, limit=1)
    for _ in range(3):
        begun.clear()
        sock = world.tcp()
        fails(errno.EALREADY, sock.connect, FAR)
        assert not sock.poll()
        fails(errno.ENOBUFS, world.socket(V4, TCP).connect, FAR)
        await begun.wait()
        sock.close()
        async with asyncio.timeout(SECONDS):
            while world.network.outside.used:
                await asyncio.sleep(0)
    world.tcp().close()  # before it began
    assert world.failures == []


# ---------------------------------------------------------------- TCP


@pytest.mark.every_loop
@pytest.mark.parametrize("family", [V4, V6])
async def test_a_connection(family: int, worlds: Any, serve: Any) -> None:
    seen: list[bytes] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read())  # to the end: the guest closes its half
        writer.write(b"and the answer")

    world = worlds(await serve(greet))
    far = FAR if family == V4 else ("2001:db8:1::7", 80)
    sock = world.tcp(far, family)
    assert sock.poll() & POLLOUT == 0
    assert await until(sock, POLLOUT) & (POLLERR | POLLHUP) == 0
    assert sock.getsockopt(*SO_ERROR) == 0
    assert sock.connect_ex(far) == 0
    fails(errno.EISCONN, sock.connect, far)
    assert sock.getpeername()[:2] == far
    assert sock.getsockname()[0] == ("192.0.2.1" if family == V4 else "2001:db8::1")
    assert sock.getsockname()[1] >= 32768
    fails(errno.EAGAIN, sock.recv, 10)
    assert sock.send(b"a question") == 10
    sock.shutdown(socket.SHUT_WR)
    fails(errno.EPIPE, sock.send, b"x", socket.MSG_NOSIGNAL)
    assert await receive(sock) == b"and the answer"
    assert await until(sock, POLLRDHUP) & POLLHUP
    assert sock.recv(10) == b""
    assert seen == [b"a question"]
    assert len(world.policy.asked) == 1


@pytest.mark.every_loop
async def test_much_both_ways(worlds: Any, serve: Any) -> None:
    """Both sides are slow at times; no more than the buffers is ever on the way."""
    world = worlds(await serve(echo))
    sock = world.tcp()
    await until(sock, POLLOUT)
    data = os.urandom(1 << 20) * 8
    sent, received = 0, bytearray()
    async with asyncio.timeout(SECONDS * 4):
        while len(received) < len(data):
            while sent < len(data):
                try:
                    sent += sock.send(data[sent : sent + 100_000])
                except BlockingIOError:
                    break
                except OSError as error:
                    assert error.errno == errno.EAGAIN
                    break
            assert world.network.buffers.used < 2 << 20
            await until(sock, POLLIN | (POLLOUT if sent < len(data) else 0))
            if sock.poll() & POLLIN:
                received += sock.recv(1 << 17)
    assert received == data


async def test_who_does_not_read_stops_the_other_side(worlds: Any, serve: Any) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.transport.set_write_buffer_limits(0)
        while written < 64 << 20:
            writer.write(bytes(1 << 16))
            await writer.drain()
            written += 1 << 16

    world = worlds(await serve(flood))
    sock = world.tcp()
    await until(sock, POLLIN)
    before = -1
    async with asyncio.timeout(SECONDS):
        while before != written:  # nothing moves for some turns
            before = written
            for _ in range(200):
                await asyncio.sleep(0)
    assert written < 32 << 20
    assert world.network.buffers.used < 1 << 20


async def test_refused(worlds: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = worlds(free.getsockname())
        sock = world.tcp()
        assert await until(sock, POLLERR) & (POLLIN | POLLOUT | POLLHUP) == POLLIN | POLLOUT | POLLHUP
        assert sock.getsockopt(*SO_ERROR) == errno.ECONNREFUSED
        assert sock.connect_ex(FAR) == errno.ECONNABORTED
        free.listen()
        fails(errno.EINPROGRESS, sock.connect, FAR)
        await until(sock, POLLOUT)
        assert sock.connect_ex(FAR) == 0
        sock.close()
        async with asyncio.timeout(SECONDS):
            while world.network.outside.used:
                await asyncio.sleep(0)


async def test_a_reset(worlds: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        world = worlds(listener.getsockname())
        sock = world.tcp()
        await until(sock, POLLOUT)
        far, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        await until(sock, POLLERR)
        fails(errno.ECONNRESET, sock.recv, 1)
        assert sock.recv(1) == b""
        fails(errno.EPIPE, sock.send, b"x", socket.MSG_NOSIGNAL)
        # And the other way: who closes with something unread, or without lingering, resets.
        sock = world.tcp()
        await until(sock, POLLOUT)
        far, _ = listener.accept()
        far.settimeout(SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().run_in_executor(None, far.recv, 1)
        far.close()
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_the_last_words_of_who_resets_are_heard(worlds: Any) -> None:
    """Also those that still wait for room when something can no longer be sent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        world = worlds(listener.getsockname())
        sock = world.tcp()
        await until(sock, POLLOUT)
        far, _ = listener.accept()
        far.setblocking(False)
        words, said = bytes(480_000), 0
        async with asyncio.timeout(SECONDS):
            while said < len(words) or fcntl.ioctl(far, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                with contextlib.suppress(BlockingIOError):
                    said += far.send(words[said:])
                await asyncio.sleep(0)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        sock.send(b"too late")
        for _ in range(10):
            await asyncio.sleep(0)
        heard = 0
        with pytest.raises(OSError, match=r"Errno (32|104)"):
            while data := await receive(sock):
                heard += len(data)
    assert heard == len(words)


async def test_what_was_sent_leaves_though_the_world_ends(worlds: Any, serve: Any) -> None:
    whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole.set_result(await reader.read())

    world = worlds(await serve(take))
    sock = world.tcp()
    await until(sock, POLLOUT)
    sent = sock.send(b"z" * 300_000)
    await world.end()
    async with asyncio.timeout(SECONDS):
        assert await whole == b"z" * sent


async def test_a_world_that_ends_meanwhile(worlds: Any) -> None:
    """With a connection that nobody reads from, one that is under way, and a question that is open."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = listener.getsockname()
        world = worlds(near, near, lambda: asyncio.Event().wait())
        stuck = world.tcp()
        await until(stuck, POLLOUT)
        while True:
            try:
                stuck.send(bytes(1 << 16))
            except OSError:
                break
        world.tcp()
        world.tcp()
        async with asyncio.timeout(SECONDS):
            await world.end()


def acts(random: Random) -> list[Callable[[Any], Any]]:
    """What may be done to a socket."""
    return [
        lambda sock: sock.connect(FAR),
        lambda sock: sock.connect(bytes(16)),  # AF_UNSPEC
        lambda sock: sock.send(bytes(random.randrange(300_000)), socket.MSG_NOSIGNAL),
        lambda sock: sock.recv(random.randrange(300_000)),
        lambda sock: sock.shutdown(random.randrange(3)),
        lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((random.randrange(2), 0, 0, 0, 0, 0, 0, 0))),
        lambda sock: sock.poll(),
        lambda sock: sock.close(),
    ]


def whims(random: Random) -> Handler:
    """A server that does now this, now that."""

    async def whim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(random.randrange(6)):
            if random.random() < 0.5:
                writer.write(bytes(random.randrange(200_000)))
            if random.random() < 0.3:
                writer.transport.abort()
            await (reader.read(random.randrange(1, 100_000)) if random.random() < 0.5 else asyncio.sleep(0))

    return whim


@pytest.mark.every_loop
async def test_random_lives(worlds: Any, serve: Any) -> None:
    """Many connections that send, read, close halves, reset, and give up at any moment, to servers that do the same."""
    random = Random(1)

    async def think(answer: Any) -> Any:
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        return answer

    near = await serve(whims(random))
    answers: list[Callable[[], Any]] = [lambda: near, lambda: think(near), lambda: False]

    def answer() -> Any:
        return random.choice(answers)()

    world = worlds(answer, limit=16)
    actions = acts(random)
    socks = [world.socket(V4, TCP) for _ in range(20)]
    for _ in range(3000):
        index = random.randrange(len(socks))
        with contextlib.suppress(OSError):
            random.choice(actions)(socks[index])
        if socks[index].fd < 0:
            socks[index] = world.socket(V4, TCP)
        assert 0 <= world.network.outside.used <= 16
        if random.random() < 0.4:
            await asyncio.sleep(0)
    assert len(world.policy.asked) > 100
    assert world.failures == []
