"""The bound of open files in a sandbox: every way to make one, by whatever process, until as many are closed again."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import DescriptorTable, OpenFile
from asynckvm.linux.files.account import OpenFileAccount
from asynckvm.linux.sockets.network import Network
from asynckvm.linux.syscalls.table import BY_NUMBER
from asynckvm.linux.vfs import FileSystemContext
from support.fake_tasks import DATA, FakeKernel, FakeProcess, lone_task, result
from support.sandbox_files import Files
from support.socket_worlds import Sandbox, fails

PATH, WORD = DATA + 0x1000, DATA + 0x2000
CLOSE, DUP, DUP2 = 3, 32, 33
CWD = (1 << 64) - 100
# Numbers and arguments of calls that make files, and how many.
MAKERS = {
    "openat": (257, CWD, PATH, 0),
    "O_PATH": (257, CWD, PATH, os.O_PATH),
    "openat2": (437, CWD, PATH, WORD, 24),
    "pipe": (22, DATA),
    "pipe2": (293, DATA, 0),
    "socket": (41, socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "tcp": (41, socket.AF_INET, socket.SOCK_STREAM, 0),
    "socketpair": (53, socket.AF_UNIX, socket.SOCK_STREAM, 0, DATA),
    "epoll_create": (213, 1),
    "epoll_create1": (291, 0),
    "eventfd": (284, 0),
    "timerfd": (283, 0, 0),
    "signalfd": (282, CWD | 0xFFFF_FFFF, WORD, 8),
    "inotify": (253,),
    "memfd": (319, PATH, 0),
    "pidfd": (434, 1, 0),
}


class Kept(OpenFile):
    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def task() -> Any:
    files = Files()
    files.write(b"/file", b"content")
    task = lone_task(kernel=FakeKernel(open_files=20), fs=FileSystemContext(files.mounts), credentials=Credentials())
    task.space.write(PATH, b"/file\0")
    task.space.write(WORD, bytes(64))
    return task


async def call(task: Any, number: int, *args: int) -> int:
    """The result, or -errno."""
    entry = BY_NUMBER[number]
    try:
        return await result(entry.handler(task, *entry.decode(task.space, args + (0,) * (6 - len(args)))))
    except SyscallError as error:
        return -error.number


@pytest.mark.parametrize("way", MAKERS)
async def test_every_file_counts(task: Any, way: str) -> None:
    account = task.process.kernel.open_files
    for _ in range(2):
        answers = []
        while not answers or answers[-1] >= 0:
            answers.append(await call(task, *MAKERS[way]))
        assert answers[-1] == -errno.ENFILE
        assert account.count == len(task.process.files) == 20
        assert await call(task, DUP, 0) == 20, "a second descriptor is no second file"
        assert await call(task, DUP2, 0, 21) == 21
        for fd in list(task.process.files):
            assert await call(task, CLOSE, fd) == 0
        assert account.count == 0


async def test_of_a_pair_without_room_nothing_is_left(task: Any) -> None:
    account = task.process.kernel.open_files
    await call(task, *MAKERS["eventfd"])
    for way in ("pipe", "socketpair"):
        while (await call(task, *MAKERS[way])) >= 0:
            pass
        assert (account.count, len(task.process.files)) == (19, 19)
        for fd in list(task.process.files)[1:]:
            await call(task, CLOSE, fd)


async def test_other_processes_count_too(task: Any) -> None:
    kernel = task.process.kernel
    other: Any = FakeProcess(kernel, 7, parent=task.process).tasks[7]
    while await call(other, *MAKERS["eventfd"]) >= 0:
        pass
    assert await call(task, *MAKERS["eventfd"]) == -errno.ENFILE
    twin = other.process.files.copy()
    other.process.files.drop()
    assert kernel.open_files.count == 20, "a child has them"
    twin.drop()
    assert kernel.open_files.count == 0
    assert await call(task, *MAKERS["eventfd"]) == 0


async def test_a_refused_open_leaves_the_file_alone(task: Any) -> None:
    while await call(task, *MAKERS["eventfd"]) >= 0:
        pass
    assert await call(task, 257, CWD, PATH, os.O_WRONLY | os.O_TRUNC) == -errno.ENFILE
    await call(task, CLOSE, 0)
    assert await call(task, *MAKERS["openat"]) == 0
    assert task.process.files.get(0).read(100) == b"content"


async def test_a_refused_accept_leaves_the_connection(task: Any) -> None:
    address = struct.pack("<H", socket.AF_UNIX) + b"\0name"
    task.space.write(DATA, address)
    listener = await call(task, *MAKERS["socket"])
    client = await call(task, *MAKERS["socket"])
    assert await call(task, 49, listener, DATA, len(address)) == 0
    assert await call(task, 50, listener, 1) == 0
    assert await call(task, 42, client, DATA, len(address)) == 0
    while (last := await call(task, *MAKERS["eventfd"])) >= 0:
        newest = last
    assert await call(task, 43, listener, 0, 0) == -errno.ENFILE
    await call(task, CLOSE, newest)
    assert await call(task, 43, listener, 0, 0) == newest


def test_a_file_that_travels_counts() -> None:
    world = Sandbox()
    account = world.task.process.files.account
    one, two = world.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    before = account.count
    sent = world.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sent.fileno()]))])
    sent.close()
    assert account.count == before + 1
    two.close()
    one.close()
    assert account.count == before - 2


def test_what_nobody_can_reach_is_found_before_anybody_is_refused() -> None:
    network = Network()
    world = Sandbox(network)
    world.task.process.files = DescriptorTable(account=OpenFileAccount(10, network.flight.collect))
    for _ in range(50):
        one, two = world.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (one, two):
            end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))])
        one.close()
        two.close()


@pytest.mark.parametrize(("family", "error"), [(socket.AF_UNIX, errno.ENFILE), (socket.AF_INET, errno.ECONNREFUSED)])
def test_connections_that_nobody_accepts_have_a_bound(family: int, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynckvm.linux.sockets.network._PENDING", 12)
    world = Sandbox()

    def knock(at: Any) -> None:
        client = world.socket(family, socket.SOCK_STREAM)
        number = client.connect_ex(at)
        if number == errno.EINPROGRESS:
            number = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.close()
        if number:
            raise OSError(number, os.strerror(number))

    for _ in range(2):
        listeners, done = [], 0
        with contextlib.suppress(OSError):
            for number in range(5):
                listener = world.socket(family, socket.SOCK_STREAM)
                listener.bind(b"\0%d" % number if family == socket.AF_UNIX else ("127.0.0.1", 0))
                listener.listen(3)
                listeners.append(listener)
                for _ in range(4):
                    knock(listener.getsockname())
                    done += 1
        assert done == 12
        fails(error, knock, listeners[-1].getsockname())
        listeners[0].accept()[0].close()
        knock(listeners[-1].getsockname())
        fails(error, knock, listeners[-1].getsockname())
        for listener in listeners:
            listener.close()
        assert world.network.pending == 0


def test_who_is_refused_is_closed() -> None:
    table = DescriptorTable(account=OpenFileAccount(1))
    kept, refused = Kept(os.O_RDWR), Kept(os.O_RDWR)
    table.add(kept)
    with pytest.raises(SyscallError, match="ENFILE"):
        table.add(refused)
    assert table.add(kept) == 1
    assert (kept.closed, refused.closed, table.account.count) == (0, 1, 1)
    table.drop()
    assert (kept.closed, table.account.count) == (1, 0)
