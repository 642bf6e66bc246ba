"""Two worlds of sockets with one interface, that of Python's socket module: the host's kernel, and the sandbox's.

A test that passes in both says what Linux does and that the sandbox does the same. The sandbox's sockets are driven through their
system calls, with memory and a process made of a few lines; all calls are non-blocking, as they are in the host's world.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import types
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.table import DescriptorTable
from asynckvm.linux.sockets.network import Network
from asynckvm.linux.syscalls import messages, sockets
from asynckvm.linux.vfs import Budget, FileSystemContext, Mounts, Tmpfs
from support.pace import PACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from asynckvm.linux.files.open_file import OpenFile

_MEMORY = 8 << 20
_BASE = 0x10000


class Memory:
    """Guest memory from _BASE on."""

    def __init__(self) -> None:
        self._bytes = bytearray(_MEMORY)
        self._next = 0

    def read(self, address: int, length: int) -> bytes:
        start = self._check(address, length)
        return bytes(self._bytes[start : start + length])

    def write(self, address: int, data: bytes) -> None:
        start = self._check(address, len(data))
        self._bytes[start : start + len(data)] = data

    def place(self, data: bytes | int) -> int:
        """Somewhere for the next call."""
        data = bytes(data) if isinstance(data, int) else data
        if self._next + len(data) > _MEMORY:
            self._next = 0
        address = _BASE + self._next
        self.write(address, data)
        self._next += (len(data) + 7) & ~7
        return address

    def _check(self, address: int, length: int) -> int:
        if not _BASE <= address <= address + length <= _BASE + _MEMORY:
            raise GuestMemoryError(address, 0)
        return address - _BASE


class Task:
    """A task and its process, as far as the system calls of sockets must know them. Its files are in a tmpfs."""

    def __init__(self, network: Network, limit: int = 1024) -> None:
        self.space = Memory()
        mounts = Mounts(Tmpfs(Budget(1 << 20, 100), mode=0o777))
        self.process = types.SimpleNamespace(
            kernel=types.SimpleNamespace(network=network),
            files=DescriptorTable(limit),
            pid=os.getpid(),
            credentials=Credentials.of(os.getuid(), os.getgid()),
            fs=FileSystemContext(mounts, mounts.root, mounts.root),
        )

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def wait(self, *queues: object, until: int | None = None) -> bool:
        raise AssertionError("a non-blocking call waits")


def run(answer: Any) -> int:
    """The result of a system call that does not wait, as Python tells it."""
    try:
        while not isinstance(answer, int):
            answer.send(None)
    except StopIteration as stop:
        return stop.value
    return answer


class Sandbox:
    """The sandbox's world."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network if network is not None else Network()
        self.task = Task(self.network)

    def call(self, handler: Any, *args: int) -> int:
        try:
            return run(handler(self.task, *args))
        except SyscallError as error:
            raise OSError(error.number, os.strerror(error.number)) from None
        except GuestMemoryError:
            raise OSError(errno.EFAULT, "bad address") from None

    def path(self, folder: Path) -> str:
        """A free path."""
        return "/free"

    def socket(self, family: int, kind: int, protocol: int = 0) -> Sock:
        return Sock(self, self.call(sockets.socket, family, kind | os.O_NONBLOCK, protocol))

    def socketpair(self, family: int, kind: int, protocol: int = 0) -> tuple[Sock, Sock]:
        pointer = self.task.space.place(8)
        self.call(sockets.socketpair, family, kind | os.O_NONBLOCK, protocol, pointer)
        first, second = struct.unpack("<ii", self.task.space.read(pointer, 8))
        return Sock(self, first), Sock(self, second)

    def close(self) -> None:
        """For worlds without an outside: nothing is waited for."""
        self.task.process.files.drop()
        with contextlib.suppress(StopIteration):
            self.network.close().send(None)
        self._check()

    async def end(self) -> None:
        self.task.process.files.drop()
        await self.network.close()
        self._check()

    def _check(self) -> None:
        assert self.network.buffers.used == 0
        assert self.network.flight.count == 0
        assert self.network.outside.used == 0


class Sock:
    """A descriptor of the sandbox with the methods of socket.socket."""

    def __init__(self, world: Sandbox, fd: int) -> None:
        self.world = world
        self.fd = fd
        self.family = self.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)

    @property
    def file(self) -> OpenFile:
        return self.world.task.process.files.get(self.fd)

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        if self.fd >= 0:
            self.world.task.process.files.close(self.fd)
            self.fd = -1

    def poll(self) -> int:
        return self.file.poll()

    # ------------------------------------------------------------ addresses

    def _pack(self, address: Any) -> bytes:
        if self.family == socket.AF_UNIX:
            path = os.fsencode(address)
            return struct.pack("<H", socket.AF_UNIX) + path + (b"\0" if path and path[0] else b"")
        host, port = address[:2]
        if self.family == socket.AF_INET:
            host = {"": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)
            return struct.pack("<H2s4s8x", self.family, port.to_bytes(2, "big"), socket.inet_pton(self.family, host))
        host = socket.inet_pton(self.family, host or "::")
        return struct.pack("<H2sI16sI", self.family, port.to_bytes(2, "big"), 0, host, 0)

    def _unpack(self, address: bytes) -> Any:
        if not address:
            return None
        if self.family == socket.AF_UNIX:
            path = address[2:]
            return path if path.startswith(b"\0") else os.fsdecode(path.partition(b"\0")[0])
        if self.family == socket.AF_INET:
            assert len(address) == 16
            return socket.inet_ntop(self.family, address[4:8]), int.from_bytes(address[2:4], "big")
        assert len(address) == 28
        return socket.inet_ntop(self.family, address[8:24]), int.from_bytes(address[2:4], "big"), 0, 0

    def _named(self, handler: Any, *args: int) -> tuple[int, bytes]:
        """A call that ends with an address and its length to fill in."""
        space = self.world.task.space
        name, length = space.place(128), space.place(struct.pack("<i", 128))
        result = self.world.call(handler, self.fd, *args, name, length)
        return result, space.read(name, struct.unpack("<i", space.read(length, 4))[0])

    def _with(self, handler: Any, address: Any) -> int:
        raw = address if isinstance(address, bytes) and self.family != socket.AF_UNIX else self._pack(address)
        return self.world.call(handler, self.fd, self.world.task.space.place(raw), len(raw))

    def bind(self, address: Any) -> None:
        self._with(sockets.bind, address)

    def connect(self, address: Any) -> None:
        self._with(sockets.connect, address)

    def connect_ex(self, address: Any) -> int:
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or 0
        return 0

    def listen(self, backlog: int = 128) -> None:
        self.world.call(sockets.listen, self.fd, backlog)

    def accept(self) -> tuple[Sock, Any]:
        fd, address = self._named(sockets.accept)
        accepted = Sock(self.world, fd)
        accepted.setblocking(False)
        return accepted, self._unpack(address)

    def setblocking(self, flag: bool) -> None:
        self.file.flags = self.file.flags & ~os.O_NONBLOCK | (0 if flag else os.O_NONBLOCK)

    def getsockname(self) -> Any:
        return self._unpack(self._named(sockets.getsockname)[1])

    def getpeername(self) -> Any:
        return self._unpack(self._named(sockets.getpeername)[1])

    def shutdown(self, how: int) -> None:
        self.world.call(sockets.shutdown, self.fd, how)

    # ------------------------------------------------------------ options

    def getsockopt(self, level: int, name: int, length: int = 0) -> Any:
        space = self.world.task.space
        value, size = space.place(length or 4), space.place(struct.pack("<i", length or 4))
        self.world.call(sockets.getsockopt, self.fd, level, name, value, size)
        data = space.read(value, struct.unpack("<i", space.read(size, 4))[0])
        return data if length else struct.unpack("<i", data)[0]

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        data = struct.pack("<i", value) if isinstance(value, int) else value
        self.world.call(sockets.setsockopt, self.fd, level, name, self.world.task.space.place(data), len(data))

    # ------------------------------------------------------------ messages

    def send(self, data: bytes, flags: int = 0) -> int:
        return self.world.call(messages.sendto, self.fd, self.world.task.space.place(data), len(data), flags, 0, 0)

    def sendto(self, data: bytes, *args: Any) -> int:
        raw = self._pack(args[-1])
        place = self.world.task.space.place
        flags = args[0] if len(args) > 1 else 0
        return self.world.call(messages.sendto, self.fd, place(data), len(data), flags, place(raw), len(raw))

    def recv(self, length: int, flags: int = 0) -> bytes:
        pointer = self.world.task.space.place(length)
        count = self.world.call(messages.recvfrom, self.fd, pointer, length, flags, 0, 0)
        return self.world.task.space.read(pointer, min(count, length))

    def recvfrom(self, length: int, flags: int = 0) -> tuple[bytes, Any]:
        pointer = self.world.task.space.place(length)
        count, address = self._named(messages.recvfrom, pointer, length, flags)
        return self.world.task.space.read(pointer, count), self._unpack(address)

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        place = self.world.task.space.place
        control = b"".join(
            (struct.pack("<Qii", 16 + len(bytes(data)), level, kind) + bytes(data)).ljust((16 + len(bytes(data)) + 7) & ~7, b"\0")
            for level, kind, data in ancillary
        )
        raw = self._pack(address) if address is not None else b""
        vector = b"".join(struct.pack("<QQ", place(bytes(data)), len(data)) for data in buffers)
        header = struct.pack(
            "<Qi4xQQQQi4x", place(raw) if raw else 0, len(raw), place(vector), len(buffers), place(control), len(control), 0
        )
        return self.world.call(messages.sendmsg, self.fd, place(header), flags)

    def recvmsg(self, length: int, control_length: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        space = self.world.task.space
        buffer, name, control = space.place(length), space.place(128), space.place(control_length)
        vector = space.place(struct.pack("<QQ", buffer, length))
        control_pointer = control if control_length else 0
        at = space.place(struct.pack("<Qi4xQQQQi4x", name, 128, vector, 1, control_pointer, control_length, 0))
        count = self.world.call(messages.recvmsg, self.fd, at, flags)
        _, name_length, _, _, _, used, told = struct.unpack("<Qi4xQQQQi4x", space.read(at, 56))
        found, data, offset = [], space.read(control, used), 0
        while offset + 16 <= used:
            size, level, kind = struct.unpack_from("<Qii", data, offset)
            found.append((level, kind, data[offset + 16 : offset + size]))
            offset += (size + 7) & ~7
        return space.read(buffer, count), found, told, self._unpack(space.read(name, name_length))


class Host:
    """The host's own kernel."""

    def __init__(self) -> None:
        self._made: list[socket.socket] = []

    def path(self, folder: Path) -> str:
        return str(folder / "free")

    def socket(self, family: int, kind: int, protocol: int = 0) -> Any:
        return self._keep(socket.socket(family, kind, protocol))

    def socketpair(self, family: int, kind: int, protocol: int = 0) -> Any:
        return tuple(self._keep(made) for made in socket.socketpair(family, kind, protocol))

    def _keep(self, made: socket.socket) -> HostSock:
        kept = HostSock(made.family, made.type, made.proto, made.detach())
        kept.setblocking(False)
        kept.world = self
        self._made.append(kept)
        return kept

    def close(self) -> None:
        for made in self._made:
            made.close()


class HostSock(socket.socket):
    """A host socket with a `poll` of its own."""

    world: Host

    def accept(self) -> Any:
        made, address = super().accept()
        return self.world._keep(made), address

    def poll(self) -> int:
        poller = select.poll()
        poller.register(self, 0x7FFF)
        return next((mask for _, mask in poller.poll(0)), 0)


def fails(number: int, call: Callable[..., object], *args: object) -> None:
    """`call(*args)` answers with that error."""
    with pytest.raises(OSError, match=r".") as caught:
        call(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def settled(sock: Any, mask: int) -> int:
    """The events of a socket, when those of `mask` have come: the host's loopback takes a moment."""
    if isinstance(sock, HostSock):
        poller = select.poll()
        poller.register(sock, mask)
        assert poller.poll(5000 * PACE)
    seen: int = sock.poll()
    assert seen & mask == mask
    return seen
