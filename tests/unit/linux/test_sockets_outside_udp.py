"""UDP to the outside network: a host socket for each address, from which only that address is heard."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asynckvm.linux.wait import POLLERR, POLLIN
from support.fake_tasks import SECONDS
from support.outside_worlds import FAR, SO_ERROR, TCP, UDP, V4, V6, World, receive, until
from support.socket_worlds import fails


class Far:
    """A UDP server: answers in capitals; keeps who wrote."""

    def __init__(self) -> None:
        self.socket = socket.socket(V4, UDP)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.seen: list[Any] = []
        asyncio.get_running_loop().add_reader(self.socket, self._answer)

    def _answer(self) -> None:
        data, address = self.socket.recvfrom(1 << 16)
        self.seen.append(address)
        self.socket.sendto(data.upper(), address)

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.close()


@pytest.fixture
async def fars(nothing_left: None) -> AsyncIterator[list[Far]]:
    made = [Far(), Far()]
    yield made
    for far in made:
        far.close()


@pytest.mark.every_loop
@pytest.mark.parametrize("family", [V4, V6])
async def test_datagrams(family: int, worlds: Any, fars: list[Far]) -> None:
    world = worlds(*(far.socket.getsockname() for far in fars))
    hosts = [("198.51.100.7", 53), ("198.51.100.8", 53)]
    if family == V6:
        hosts = [(f"::ffff:{host}", port) for host, port in hosts]
    sock = world.socket(family, UDP)
    assert sock.sendto(b"one", hosts[0]) == 3
    await until(sock, POLLIN)
    data, address = sock.recvfrom(100)
    assert (data, address[:2]) == (b"ONE", hosts[0])
    sock.sendto(b"two", hosts[1])
    sock.sendto(b"three", hosts[0])
    got = set()
    for _ in range(2):
        await until(sock, POLLIN)
        data, address = sock.recvfrom(100)
        got.add((data, address[:2]))
    assert got == {(b"TWO", hosts[1]), (b"THREE", hosts[0])}
    assert [request.action for request in world.policy.asked] == ["send", "send"]
    assert fars[0].seen[0] == fars[0].seen[1]
    # Connected, it hears only the one.
    sock.connect(hosts[1])
    assert sock.getpeername()[:2] == hosts[1]
    fars[0].socket.sendto(b"late", fars[0].seen[0])
    assert sock.send(b"four") == 4
    assert await receive(sock) == b"FOUR"
    assert world.network.outside.used == 1 or await _one_left(world)
    fails(errno.EMSGSIZE, sock.send, bytes(65536))


async def _one_left(world: World) -> bool:
    async with asyncio.timeout(SECONDS):
        while world.network.outside.used > 1:
            await asyncio.sleep(0)
    return True


async def test_a_stranger_is_not_heard(worlds: Any, fars: list[Far]) -> None:
    world = worlds(fars[0].socket.getsockname())
    sock = world.socket(V4, UDP)
    sock.sendto(b"hello", ("198.51.100.7", 53))
    assert await receive(sock) == b"HELLO"
    fars[1].socket.sendto(b"stranger", fars[0].seen[0])
    sock.sendto(b"again", ("198.51.100.7", 53))
    assert await receive(sock) == b"AGAIN"
    assert not sock.poll() & POLLIN


async def test_nobody_there(worlds: Any, fars: list[Far]) -> None:
    world = worlds(fars[0].socket.getsockname())
    fars[0].close()
    sock = world.socket(V4, UDP)
    sock.connect(FAR)
    sock.send(b"x")
    await until(sock, POLLERR)
    assert sock.getsockopt(*SO_ERROR) == errno.ECONNREFUSED


async def test_the_bound(worlds: Any, fars: list[Far]) -> None:
    world = worlds(fars[0].socket.getsockname(), limit=3)
    sock = world.socket(V4, UDP)
    for number in range(3):
        sock.sendto(b"x", ("198.51.100.7", 1 + number))
    fails(errno.ENOBUFS, sock.sendto, b"x", ("198.51.100.7", 9))
    fails(errno.ENOBUFS, world.socket(V4, TCP).connect, FAR)
    assert len(world.policy.asked) == 3
    sock.close()
    async with asyncio.timeout(SECONDS):
        while world.network.outside.used:
            await asyncio.sleep(0)
    world.socket(V4, UDP).sendto(b"x", FAR)
