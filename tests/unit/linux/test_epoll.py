"""epoll: level, edge and one-shot items, instances in instances, files that are closed, and who gets a turn."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import time
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import OpenFile
from asynckvm.linux.files.epoll import EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLWAKEUP, ITEMS_MAX, NESTING, Epoll
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.files.pipe import PipePages, pipe_ends
from asynckvm.linux.quota import Quota
from asynckvm.linux.syscalls import epoll as calls
from asynckvm.linux.wait import POLLHUP, POLLIN, POLLOUT
from support.fake_tasks import DATA, END, lone_task, result

ONE = (1).to_bytes(8, "little")
ADD, DEL, MOD = 1, 2, 3


def counter(initial: int = 0) -> EventFile:
    file = EventFile(initial, 0, semaphore=False)
    file.hold()
    return file


@pytest.fixture
def task() -> Any:
    return lone_task()


@pytest.fixture
def epoll() -> Epoll:
    return Epoll()


def ready(epoll: Epoll, task: Any, limit: int = 100) -> list[tuple[int, int]]:
    """(data, events) of what is reported."""
    found = epoll.events(task, limit)
    epoll.report(found)
    return [(item.data, events) for item, events in found]


class TestModes:
    def test_level(self, task: Any, epoll: Epoll) -> None:
        file = counter()
        epoll.add(task, 5, file, POLLIN, 77)
        assert ready(epoll, task) == []
        file.write(ONE)
        assert ready(epoll, task) == [(77, POLLIN)]
        assert ready(epoll, task) == [(77, POLLIN)]
        file.read(8)
        assert ready(epoll, task) == []

    def test_edge(self, task: Any, epoll: Epoll) -> None:
        file = counter(1)
        epoll.add(task, 5, file, POLLIN | EPOLLET, 1)
        assert ready(epoll, task) == [(1, POLLIN)]
        assert ready(epoll, task) == []
        file.write(ONE)
        assert ready(epoll, task) == [(1, POLLIN)]
        assert ready(epoll, task) == []
        epoll.modify(task, 5, file, POLLIN | EPOLLET, 2)
        assert ready(epoll, task) == [(2, POLLIN)]

    def test_one_shot(self, task: Any, epoll: Epoll) -> None:
        file = counter(1)
        epoll.add(task, 5, file, POLLIN | EPOLLONESHOT | EPOLLWAKEUP, 1)
        assert ready(epoll, task) == [(1, POLLIN)]
        file.write(ONE)
        assert ready(epoll, task) == []
        epoll.modify(task, 5, file, POLLIN | EPOLLONESHOT, 1)
        assert ready(epoll, task) == [(1, POLLIN)]

    def test_a_hang_up_is_always_reported(self, task: Any, epoll: Epoll) -> None:
        reading, writing = pipe_ends(PipePages())
        epoll.add(task, 5, reading, 0, 1)
        writing.close()
        assert ready(epoll, task) == [(1, POLLHUP)]

    def test_exclusive(self, task: Any, epoll: Epoll) -> None:
        file = counter(1)
        epoll.add(task, 5, file, POLLIN | EPOLLEXCLUSIVE, 1)
        assert ready(epoll, task) == [(1, POLLIN)]
        for refused in (POLLIN, POLLIN | EPOLLEXCLUSIVE):
            with pytest.raises(SyscallError, match="EINVAL"):
                epoll.modify(task, 5, file, refused, 1)
        with pytest.raises(SyscallError, match="EINVAL"):
            epoll.add(task, 6, file, POLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1)
        with pytest.raises(SyscallError, match="EINVAL"):
            epoll.add(task, 6, Epoll(), POLLIN | EPOLLEXCLUSIVE, 1)


class TestItems:
    def test_are_files_under_numbers(self, task: Any, epoll: Epoll) -> None:
        one, other = counter(1), counter(1)
        epoll.add(task, 5, one, POLLIN, 1)
        epoll.add(task, 6, one, POLLOUT, 2)
        epoll.add(task, 5, other, POLLIN, 3)
        with pytest.raises(SyscallError, match="EEXIST"):
            epoll.add(task, 5, one, POLLIN, 1)
        assert sorted(ready(epoll, task)) == [(1, POLLIN), (2, POLLOUT), (3, POLLIN)]
        epoll.delete(5, one)
        with pytest.raises(SyscallError, match="ENOENT"):
            epoll.delete(5, one)
        with pytest.raises(SyscallError, match="ENOENT"):
            epoll.modify(task, 7, one, POLLIN, 1)
        assert sorted(ready(epoll, task)) == [(2, POLLOUT), (3, POLLIN)]

    def test_go_when_the_file_is_closed_for_good(self, task: Any, epoll: Epoll) -> None:
        file = counter(1)
        file.hold()
        epoll.add(task, 5, file, POLLIN, 1)
        epoll.add(task, 6, file, POLLIN, 2)
        file.release()
        assert len(ready(epoll, task)) == 2
        file.release()
        assert ready(epoll, task) == []
        assert len(file.queue) == 0

    def test_leave_nothing_behind(self, task: Any, epoll: Epoll) -> None:
        files = [counter(1) for _ in range(3)]
        inner = Epoll()
        for fd, file in enumerate([*files, inner]):
            epoll.add(task, fd, file, POLLIN, fd)
        epoll.delete(0, files[0])
        epoll.close()
        assert [len(file.queue) for file in [*files, inner]] == [0] * 4
        for file in files:
            file.release()
        assert inner._outer == {}

    def test_have_a_bound(self, task: Any, epoll: Epoll) -> None:
        file = counter()
        for fd in range(ITEMS_MAX):
            epoll.add(task, fd, file, POLLIN, 0)
        with pytest.raises(SyscallError) as caught:
            epoll.add(task, ITEMS_MAX, file, POLLIN, 0)
        assert caught.value.number == errno.ENOSPC

    def test_must_know_events(self, task: Any, epoll: Epoll) -> None:
        class Regular(OpenFile):
            positioned = True  # type: ignore[assignment]

        with pytest.raises(SyscallError, match="EPERM"):
            epoll.add(task, 5, Regular(os.O_RDONLY), POLLIN, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            epoll.add(task, 5, epoll, POLLIN, 0)

    def test_all_get_their_turn(self, task: Any, epoll: Epoll) -> None:
        for number in range(10):
            epoll.add(task, number, counter(1), POLLIN, number)
        seen = [data for _ in range(5) for data, _ in ready(epoll, task, limit=4)]
        assert seen == [number % 10 for number in range(20)]

    def test_only_those_that_were_woken_are_asked(self, task: Any, epoll: Epoll) -> None:
        class Asked(EventFile):
            def poll(self) -> int:
                asked.append(self)
                return super().poll()

        asked: list[EventFile] = []
        files = [Asked(0, 0, semaphore=False) for _ in range(1000)]
        for fd, file in enumerate(files):
            epoll.add(task, fd, file, POLLIN, fd)
        asked.clear()
        files[500].write(ONE)
        assert ready(epoll, task) == [(500, POLLIN)]
        assert asked == [files[500]]


class TestNesting:
    def test_a_wake_up_goes_through(self, task: Any, epoll: Epoll) -> None:
        file, inner = counter(), Epoll()
        inner.add(task, 5, file, POLLIN, 1)
        epoll.add(task, 6, inner, POLLIN, 2)
        outer: list[int] = []
        epoll.queue.watch(outer.append)
        file.write(ONE)
        assert outer
        assert epoll.poll_for(task) & POLLIN
        assert ready(epoll, task) == [(2, POLLIN)]
        file.read(8)
        assert ready(epoll, task) == []
        assert epoll.poll_for(task) == 0

    def test_each_write_is_an_edge_outside_too(self, task: Any, epoll: Epoll) -> None:
        file, inner = counter(), Epoll()
        inner.add(task, 5, file, POLLIN, 1)
        epoll.add(task, 6, inner, POLLIN | EPOLLET, 2)
        for _ in range(2):
            file.write(ONE)
            assert ready(epoll, task) == [(2, POLLIN)]
            assert ready(epoll, task) == []

    def test_circles_are_refused(self, task: Any, epoll: Epoll) -> None:
        second, third = Epoll(), Epoll()
        epoll.add(task, 5, second, POLLIN, 1)
        second.add(task, 6, third, POLLIN, 1)
        with pytest.raises(SyscallError) as caught:
            third.add(task, 7, epoll, POLLIN, 1)
        assert caught.value.number == errno.ELOOP
        second.delete(6, third)
        third.add(task, 7, epoll, POLLIN, 1)

    def test_long_chains_are_refused(self, task: Any) -> None:
        chain = [Epoll() for _ in range(NESTING + 2)]
        for outer, inner in list(itertools.pairwise(chain))[:NESTING]:
            outer.add(task, 5, inner, POLLIN, 1)
        with pytest.raises(SyscallError, match="EINVAL"):
            chain[NESTING].add(task, 5, chain[NESTING + 1], POLLIN, 1)
        with pytest.raises(SyscallError, match="EINVAL"):
            Epoll().add(task, 5, chain[0], POLLIN, 1)

    def test_what_one_wake_up_may_cost_is_bounded(self, task: Any) -> None:
        layers = [[Epoll() for _ in range(10)] for _ in range(NESTING + 1)]
        refused = 0
        for outer, inner in itertools.pairwise(layers):
            for one in outer:
                for fd, other in enumerate(inner):
                    try:
                        one.add(task, fd, other, POLLIN | EPOLLET, 0)
                    except SyscallError as error:
                        assert error.number == errno.EINVAL
                        refused += 1
        assert refused > 0
        file = counter()
        layers[-1][0].add(task, 0, file, POLLIN, 0)
        began = time.monotonic()
        file.write(ONE)
        assert time.monotonic() - began < 1


class TestCalls:
    def opened(self, task: Any, file: OpenFile, events: int = POLLIN, data: int = 1 << 63) -> tuple[int, int]:
        epfd = calls.epoll_create1(task, os.O_CLOEXEC)
        fd = task.process.files.add(file)
        task.space.write(DATA, struct.pack("<IQ", events, data))
        assert calls.epoll_ctl(task, epfd, ADD, fd, DATA) == 0
        return epfd, fd

    async def test_waiting(self, task: Any) -> None:
        file = counter()
        epfd, _ = self.opened(task, file)
        waiting = await task.begin(calls.epoll_wait(task, epfd, DATA, 10, -1))
        file.write(ONE)
        assert await result(waiting) == 1
        assert task.space.read(DATA, 12) == struct.pack("<IQ", POLLIN, 1 << 63)

    async def test_two_who_wait_for_one_edge(self, task: Any) -> None:
        file, other = counter(), lone_task(files=task.process.files, memory=task.process.memory)
        epfd, _ = self.opened(task, file, POLLIN | EPOLLET)
        first = await task.begin(calls.epoll_wait(task, epfd, DATA, 10, -1))
        second = await other.begin(calls.epoll_wait(other, epfd, DATA, 10, -1))  # type: ignore[arg-type]
        file.write(ONE)
        assert await result(first) == 1
        assert not second.done()
        file.write(ONE)
        assert await result(second) == 1

    @pytest.mark.parametrize("nanoseconds", [0, 20_000_000])
    async def test_its_time_passes(self, task: Any, nanoseconds: int) -> None:
        epfd, _ = self.opened(task, counter())
        began = time.monotonic_ns()
        assert await calls.epoll_wait(task, epfd, DATA, 1, nanoseconds // 1_000_000) == 0
        task.space.write(DATA, struct.pack("<qq", 0, nanoseconds))
        assert await calls.epoll_pwait2(task, epfd, DATA, 1, DATA, 0, 0) == 0
        assert time.monotonic_ns() - began >= 2 * nanoseconds

    async def test_a_signal_ends_it_with_the_mask_it_waited_with(self, task: Any) -> None:
        epfd, _ = self.opened(task, counter())
        task.mask = 0b100
        task.space.write(DATA, struct.pack("<Q", 0b11 | 1 << 8))
        waiting = await task.begin(calls.epoll_pwait(task, epfd, DATA, 1, -1, DATA, 8))
        assert (task.mask, task.saved_mask) == (0b11, 0b100)
        task.interrupt()
        with pytest.raises(SyscallError, match="EINTR"):
            await waiting
        assert (task.mask, task.saved_mask) == (0b11, 0b100)

    async def test_the_mask_comes_back(self, task: Any) -> None:
        epfd, _ = self.opened(task, counter(1))
        task.mask = 0b100
        task.space.write(DATA, struct.pack("<Q", 0b11))
        assert await calls.epoll_pwait(task, epfd, DATA, 1, -1, DATA, 8) == 1
        assert (task.mask, task.saved_mask) == (0b100, None)
        with pytest.raises(SyscallError, match="EINVAL"):
            await calls.epoll_pwait(task, epfd, DATA, 1, -1, DATA, 4)
        assert (task.mask, task.saved_mask) == (0b100, None)

    async def test_nothing_is_lost_to_a_bad_address(self, task: Any) -> None:
        epfd, _ = self.opened(task, counter(1), POLLIN | EPOLLET | EPOLLONESHOT)
        with pytest.raises(GuestMemoryError):
            await calls.epoll_wait(task, epfd, END, 1, 0)
        assert await calls.epoll_wait(task, epfd, DATA, 1, 0) == 1
        assert await calls.epoll_wait(task, epfd, DATA, 1, 0) == 0

    async def test_mistakes(self, task: Any) -> None:
        epfd, fd = self.opened(task, counter())
        for count in (0, -1, 1 << 31):
            with pytest.raises(SyscallError, match="EINVAL"):
                await calls.epoll_wait(task, epfd, DATA, count, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            await calls.epoll_wait(task, fd, DATA, 1, 0)
        with pytest.raises(SyscallError, match="EBADF"):
            await calls.epoll_wait(task, 99, DATA, 1, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            calls.epoll_ctl(task, epfd, 4, fd, DATA)
        with pytest.raises(SyscallError, match="EINVAL"):
            calls.epoll_ctl(task, fd, ADD, epfd, DATA)
        with pytest.raises(SyscallError, match="EBADF"):
            calls.epoll_ctl(task, epfd, ADD, 99, DATA)
        with pytest.raises(SyscallError, match="EINVAL"):
            calls.epoll_create(task, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            calls.epoll_create1(task, 1)
        with pytest.raises(GuestMemoryError):
            calls.epoll_ctl(task, epfd, MOD, fd, END)
        assert calls.epoll_ctl(task, epfd, DEL, fd, 0) == 0


def test_all_instances_of_a_sandbox_have_a_bound(task: Any) -> None:
    quota = Quota(5, errno.ENOSPC)
    instances = [Epoll(quota=quota) for _ in range(3)]
    file, gone = counter(), counter()
    for instance in instances:
        instance.hold()
        instance.add(task, 5, file, POLLIN, 1)
    instances[0].add(task, 6, gone, POLLIN, 1)
    instances[1].add(task, 6, gone, POLLIN, 1)
    with pytest.raises(SyscallError, match="ENOSPC"):
        instances[2].add(task, 6, gone, POLLIN, 1)
    gone.release()
    assert quota.used == 3
    instances[0].delete(5, file)
    for instance in instances:
        instance.release()
    assert quota.used == 0
