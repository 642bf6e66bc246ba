"""Worlds of sockets with an outside network: policies of a few answers, and servers of this host that they lead to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from asynckvm.linux.sockets.network import Network
from asynckvm.linux.sockets.outside import Outside
from asynckvm.linux.sockets.policy import NetworkRequest
from asynckvm.linux.wait import POLLERR, POLLHUP, POLLIN, wait
from support import descriptors
from support.fake_tasks import SECONDS
from support.socket_worlds import Sandbox, Sock, fails

V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
FAR = ("198.51.100.7", 80)
SO_ERROR = (socket.SOL_SOCKET, socket.SO_ERROR)


class Policy:
    """Answers each request with the next answer; the last one is for all others."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[NetworkRequest] = []

    def __call__(self, request: NetworkRequest) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class World(Sandbox):
    def __init__(self, *answers: Any, **options: Any) -> None:
        self.policy = Policy(*answers)
        self.failures: list[tuple[NetworkRequest, Exception]] = []
        super().__init__(Network(Outside(self.policy, lambda *failure: self.failures.append(failure), **options)))

    def tcp(self, host: Any = FAR, family: int = V4) -> Sock:
        """Connecting."""
        sock = self.socket(family, TCP)
        fails(errno.EINPROGRESS, sock.connect, host)
        return sock


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Of what a test opened and started."""

    def held() -> tuple[int, int]:
        return descriptors.count(), len(asyncio.all_tasks())

    server = await asyncio.start_server(echo, "127.0.0.1", 0)  # loops keep something of their first one
    server.close()
    await server.wait_closed()
    before = held()
    yield
    async with asyncio.timeout(SECONDS):
        while held() != before:
            await asyncio.sleep(0)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def serve(nothing_left: None) -> AsyncIterator[Callable[[Handler], Awaitable[tuple[str, int]]]]:
    """Starts servers on this host's loopback; gives their addresses."""
    servers: list[asyncio.Server] = []

    async def start(handler: Handler) -> tuple[str, int]:
        async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                await handler(reader, writer)

        servers.append(await asyncio.start_server(closing, "127.0.0.1", 0))
        return servers[-1].sockets[0].getsockname()[:2]

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def worlds(serve: Any) -> AsyncIterator[Callable[..., World]]:
    """Makes worlds, and ends them."""
    made: list[World] = []

    def make(*answers: Any, **options: Any) -> World:
        made.append(World(*answers, **options))
        return made[-1]

    yield make
    async with asyncio.timeout(SECONDS):
        for world in made:
            await world.end()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def until(sock: Sock, mask: int) -> int:
    async with asyncio.timeout(SECONDS):
        while not sock.poll() & mask:
            await wait((sock.file.queue,))
    return sock.poll()


async def receive(sock: Sock, length: int = 1 << 16) -> bytes:
    await until(sock, POLLIN | POLLERR | POLLHUP)
    return sock.recv(length)
