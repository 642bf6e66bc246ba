"""Signals read from a file, by whoever reads; processes named by files."""

from __future__ import annotations

import os
import signal
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.files.epoll import Epoll
from asynckvm.linux.files.signalfd import SignalFile, image
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals.numbers import CLD_EXITED
from asynckvm.linux.syscalls import pidfd, poll, signalfd, transfer
from asynckvm.linux.wait import POLLIN, READABLE
from support.fake_tasks import DATA, lone_task, result

INFO = struct.Struct("<IiiIIiIIIIiiQQQQH")
MASK = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGCHLD - 1 | 1 << 40 - 1


def a_task() -> Any:
    return lone_task(pid=100)


@pytest.fixture
def task() -> Any:
    return a_task()


def opened(task: Any, mask: int = MASK, flags: int = 0) -> tuple[int, SignalFile]:
    task.space.write(DATA, struct.pack("<Q", mask))
    fd = signalfd.signalfd4(task, -1, DATA, 8, flags)
    return fd, task.process.files.get(fd)


def fields(data: bytes) -> tuple[int, ...]:
    assert len(data) == 128
    return INFO.unpack_from(data)


async def test_those_of_the_thread_and_of_the_process_are_read(task: Any) -> None:
    fd, file = opened(task)
    task.process.pending.put(infos.from_user(signal.SIGUSR1, 7, 8))
    task.pending.put(infos.from_child(CLD_EXITED, 9, 10, 3, (4, 5)))
    task.pending.put(infos.from_user(signal.SIGUSR2, 7, 8))
    assert file.poll_for(task) == READABLE
    assert await result(transfer.read(task, fd, DATA, 1000)) == 256
    data = task.space.read(DATA, 256)
    first, second = fields(data[:128]), fields(data[128:])
    assert (first[0], *first[3:5], first[10], *first[13:15]) == (signal.SIGCHLD, 9, 10, 3, 4, 5)
    assert second[:5] == (signal.SIGUSR1, 0, 0, 7, 8)
    assert file.poll_for(task) == 0


async def test_a_read_waits_for_one(task: Any) -> None:
    fd, _ = opened(task)
    reading = await task.begin(transfer.read(task, fd, DATA, 128))
    task.process.pending.put(infos.SigInfo(40, -1, union=struct.pack("<iIQ", 1, 2, (1 << 64) - 3).ljust(32, b"\0")))
    task.process.signal_queue.wake(POLLIN)
    assert await result(reading) == 128
    found = fields(task.space.read(DATA, 128))
    assert (found[0], found[2], found[11], found[12]) == (40, -1, -3, (1 << 64) - 3)


async def test_a_signal_that_is_to_be_handled_ends_the_read(task: Any) -> None:
    fd, _ = opened(task)
    reading = await task.begin(transfer.read(task, fd, DATA, 128))
    task.interrupt()
    with pytest.raises(SyscallError) as caught:
        await reading
    assert caught.value.number == ERESTARTSYS


async def test_without_waiting(task: Any) -> None:
    fd, file = opened(task, flags=os.O_NONBLOCK | os.O_CLOEXEC)
    assert task.process.files.closes_on_exec(fd)
    with pytest.raises(BlockingIOError):
        await result(transfer.read(task, fd, DATA, 128))
    with pytest.raises(SyscallError, match="EINVAL"):
        await result(transfer.read(task, fd, DATA, 127))
    with pytest.raises(SyscallError, match="EINVAL"):
        file.write(b"x")


async def test_whose_signals_they_are(task: Any) -> None:
    other = a_task()
    _, file = opened(task)
    other.pending.put(infos.from_user(signal.SIGUSR1, 1, 2))
    assert (file.poll_for(task), file.poll_for(other)) == (0, READABLE)
    with pytest.raises(BlockingIOError):
        file.read(128)


async def test_poll_and_epoll_see_them(task: Any) -> None:
    fd, file = opened(task)
    epoll = Epoll()
    epoll.add(task, fd, file, POLLIN, 1)
    task.space.write(DATA, struct.pack("<iHH", fd, POLLIN, 0))
    polling = await task.begin(poll.poll(task, DATA, 1, -1))
    assert epoll.events(task, 10) == []
    task.pending.put(infos.from_user(signal.SIGUSR1, 1, 2))
    task.process.signal_queue.wake(POLLIN)
    assert await result(polling) == 1
    assert len(epoll.events(task, 10)) == 1


async def test_another_mask(task: Any) -> None:
    fd, file = opened(task)
    task.pending.put(infos.from_user(signal.SIGUSR2, 1, 2))
    task.space.write(DATA, struct.pack("<Q", 1 << signal.SIGUSR2 - 1 | 1 << signal.SIGKILL - 1))
    assert signalfd.signalfd(task, fd, DATA, 8) == fd
    assert file.mask == 1 << signal.SIGUSR2 - 1
    assert file.poll_for(task) == READABLE
    with pytest.raises(SyscallError, match="EINVAL"):
        signalfd.signalfd(task, fd, DATA, 4)
    with pytest.raises(SyscallError, match="EBADF"):
        signalfd.signalfd(task, 99, DATA, 8)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (infos.from_descriptor(signal.SIGPOLL, 1, 65, 12), {5: 12, 7: 65}),
        (infos.SigInfo(signal.SIGRTMIN, -2, union=struct.pack("<iiQ", 5, 6, 77).ljust(32, b"\0")), {6: 5, 8: 6, 11: 77, 12: 77}),
        (infos.SigInfo(signal.SIGSEGV, 1, union=struct.pack("<Q", 0xDEAD).ljust(32, b"\0")), {15: 0xDEAD}),
        (infos.from_kernel(signal.SIGINT), {2: 128}),
    ],
)
def test_what_each_kind_tells(info: infos.SigInfo, expected: dict[int, int]) -> None:
    found = fields(image(info))
    assert found[0] == info.number
    assert {index: found[index] for index in expected} == expected


class TestProcessFiles:
    def process(self, task: Any, pid: int, **values: Any) -> Any:
        return lone_task(pid, task.process.kernel, credentials=Credentials.of(1000, 100), **values).process

    async def test_its_end_is_seen(self, task: Any) -> None:
        process = self.process(task, 5)
        fd = pidfd.pidfd_open(task, 5, 0)
        assert task.process.files.closes_on_exec(fd)
        task.space.write(DATA, struct.pack("<iHH", fd, POLLIN, 0))
        polling = await task.begin(poll.poll(task, DATA, 1, -1))
        process.exited = True
        process.exit_queue.wake()
        assert await result(polling) == 1

    def test_signals(self, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        process = self.process(task, 5)
        task.process.credentials = Credentials.of(1000, 100)
        sent: list[tuple[Any, infos.SigInfo]] = []
        monkeypatch.setattr("asynckvm.linux.signals.send.send_to_process", lambda target, info: sent.append((target, info)))
        fd = pidfd.pidfd_open(task, 5, 0)
        assert pidfd.pidfd_send_signal(task, fd, signal.SIGTERM, 0, 0) == 0
        assert pidfd.pidfd_send_signal(task, fd, 0, 0, 0) == 0
        assert [(target, info.number, info.pid) for target, info in sent] == [(process, signal.SIGTERM, 100)]
        task.space.write(DATA, infos.from_user(signal.SIGTERM, 1, 1).pack())
        with pytest.raises(SyscallError, match="EPERM"):
            pidfd.pidfd_send_signal(task, fd, signal.SIGTERM, DATA, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            pidfd.pidfd_send_signal(task, fd, 65, 0, 0)
        process.credentials = Credentials.of(1, 1)
        with pytest.raises(SyscallError, match="EPERM"):
            pidfd.pidfd_send_signal(task, fd, signal.SIGTERM, 0, 0)
        process.exited = True
        del task.process.kernel.processes[5]
        with pytest.raises(SyscallError, match="ESRCH"):
            pidfd.pidfd_send_signal(task, fd, signal.SIGTERM, 0, 0)

    def test_mistakes(self, task: Any) -> None:
        self.process(task, 5)
        task.process.kernel.tasks[6] = task
        for pid, flags, name in [(0, 0, "EINVAL"), (5, 1, "EINVAL"), (6, 0, "EINVAL"), (7, 0, "ESRCH")]:
            with pytest.raises(SyscallError, match=name):
                pidfd.pidfd_open(task, pid, flags)
        fd, _ = opened(task)
        with pytest.raises(SyscallError, match="EBADF"):
            pidfd.pidfd_send_signal(task, fd, signal.SIGTERM, 0, 0)

    def test_files_of_another_process(self, task: Any) -> None:
        _, file = opened(task)
        task.process.credentials = Credentials.of(1000, 100)
        process = self.process(task, 5, files=task.process.files)
        fd = pidfd.pidfd_open(task, 5, 0)
        assert task.process.files.get(pidfd.pidfd_getfd(task, fd, 0, 0)) is file
        process.credentials = Credentials.of(0, 0)
        with pytest.raises(SyscallError, match="EPERM"):
            pidfd.pidfd_getfd(task, fd, 0, 0)
