"""poll, select and their kin, and ioctl's requests that are the same for every file."""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import ERESTARTNOHAND, SyscallError
from asynckvm.linux.files import OpenFile
from asynckvm.linux.files.pipe import PipeEnd, pipe_ends
from asynckvm.linux.syscalls import ioctl, poll
from asynckvm.linux.wait import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM
from asynckvm.model.memory import PAGE, Access
from support.fake_tasks import DATA, END, lone_task, result

MS = 1_000_000
TIME = DATA + 0x8000
MASK = DATA + 0x9000


@pytest.fixture
def task() -> Any:
    return lone_task()


@pytest.fixture
def pipe(task: Any) -> tuple[PipeEnd, PipeEnd]:
    """Its ends are descriptors 0 and 1."""
    ends = pipe_ends(task.process.kernel.pipe_pages)
    for end in ends:
        task.process.files.add(end)
    return ends


def pollfds(task: Any, *asked: tuple[int, int]) -> tuple[int, int]:
    task.space.write(DATA, b"".join(struct.pack("<iHH", fd, events, 0xAAAA) for fd, events in asked))
    return DATA, len(asked)


def answers(task: Any, count: int) -> list[int]:
    return [events for _, _, events in struct.iter_unpack("<iHH", task.space.read(DATA, 8 * count))]


def timespec(task: Any, nanoseconds: int) -> int:
    task.space.write(TIME, struct.pack("<qq", *divmod(nanoseconds, 10**9)))
    return TIME


def left(task: Any, unit: int = 1) -> int:
    seconds, part = struct.unpack("<qq", task.space.read(TIME, 16))
    return int(seconds * 10**9 + part * unit)


class TestPoll:
    async def test_what_is_ready(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        asked = pollfds(task, (0, POLLIN), (1, POLLOUT), (-1, POLLIN), (50, POLLIN), (1, POLLIN))
        assert await poll.poll(task, *asked, -1) == 2
        assert answers(task, 5) == [0, POLLOUT, 0, POLLNVAL, 0]
        pipe[1].write(b"x")
        assert await poll.poll(task, *pollfds(task, (0, POLLIN | POLLRDNORM)), -1) == 1
        assert answers(task, 1) == [POLLIN | POLLRDNORM]

    async def test_waiting(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        waiting = await task.begin(poll.poll(task, *pollfds(task, (0, 0)), -1))
        pipe[1].write(b"x")
        task.process.files.close(1)
        assert await result(waiting) == 1
        assert answers(task, 1) == [POLLHUP]
        assert len(pipe[0].queue) == 0

    async def test_nobody_reads(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.process.files.close(0)
        assert await poll.poll(task, *pollfds(task, (1, 0)), -1) == 1
        assert answers(task, 1) == [POLLERR]

    async def test_a_file_that_is_closed_meanwhile_stays_open_that_long(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        waiting = await task.begin(poll.poll(task, *pollfds(task, (0, POLLIN)), -1))
        task.process.files.close(0)
        pipe[1].write(b"x")
        assert await result(waiting) == 1
        assert pipe[0].references == 0
        assert pipe[1].poll() & POLLERR

    @pytest.mark.parametrize("milliseconds", [0, 20])
    async def test_its_time_passes(self, task: Any, pipe: tuple[PipeEnd, PipeEnd], milliseconds: int) -> None:
        began = time.monotonic_ns()
        assert await poll.poll(task, *pollfds(task, (0, POLLIN)), milliseconds) == 0
        assert await poll.poll(task, 0, 0, milliseconds) == 0
        assert await poll.ppoll(task, *pollfds(task, (0, POLLIN)), timespec(task, milliseconds * MS), 0, 0) == 0
        assert time.monotonic_ns() - began >= 3 * milliseconds * MS
        assert answers(task, 1) == [0]
        assert left(task) == 0

    async def test_a_signal_comes_first(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.mask = 0b1000
        task.space.write(MASK, struct.pack("<Q", 1 << 18 | 1))
        waiting = await task.begin(poll.ppoll(task, *pollfds(task, (0, POLLIN)), timespec(task, 10**12), MASK, 8))
        task.interrupt()
        with pytest.raises(SyscallError) as caught:
            await waiting
        assert caught.value.number == ERESTARTNOHAND
        assert (task.mask, task.saved_mask) == (1, 0b1000)
        assert 0 < left(task) < 10**12

    async def test_what_is_ready_comes_before_a_signal(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.interrupt()
        assert await poll.poll(task, *pollfds(task, (1, POLLOUT)), -1) == 1

    async def test_a_time_that_cannot_be_written_back(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        timespec(task, 5)
        task.space.protect(TIME, PAGE, Access.READ)
        assert await poll.ppoll(task, *pollfds(task, (1, POLLOUT)), TIME, 0, 0) == 1
        assert left(task) == 5

    async def test_mistakes(self, task: Any) -> None:
        task.process.files.limit = 3
        with pytest.raises(SyscallError, match="EINVAL"):
            await poll.poll(task, DATA, 4, 0)
        with pytest.raises(GuestMemoryError):
            await poll.poll(task, END - 8, 2, 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            await poll.ppoll(task, 0, 0, 0, MASK, 9)
        for invalid in ((-1, 0), (0, 10**9)):
            task.space.write(TIME, struct.pack("<qq", *invalid))
            with pytest.raises(SyscallError, match="EINVAL"):
                await poll.ppoll(task, 0, 0, TIME, 0, 0)


class TestSelect:
    SETS = (DATA, DATA + 0x100, DATA + 0x200)

    def ask(self, task: Any, *sets: set[int]) -> tuple[int, int, int]:
        for address, fds in zip(self.SETS, sets, strict=True):
            task.space.write(address, sum(1 << fd for fd in fds).to_bytes(16, "little"))
        return self.SETS

    def answer(self, task: Any) -> list[set[int]]:
        words = [int.from_bytes(task.space.read(address, 16), "little") for address in self.SETS]
        return [{fd for fd in range(128) if word >> fd & 1} for word in words]

    async def test_what_is_ready(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        assert await poll.select(task, 2, *self.ask(task, {0, 1}, {0, 1}, {0, 1}), 0) == 1
        assert self.answer(task) == [set(), {1}, set()]
        pipe[1].write(b"x")
        assert await poll.select(task, 2, *self.ask(task, {0}, {1}, set()), 0) == 2
        assert self.answer(task) == [{0}, {1}, set()]

    async def test_ends_and_urgent_data(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        class Urgent(OpenFile):
            def poll(self) -> int:
                return POLLPRI

        task.process.files.add(Urgent(os.O_RDONLY), lowest=70)
        task.process.files.close(1)
        assert await poll.select(task, 71, *self.ask(task, {0, 70}, {70}, {0, 70}), 0) == 2
        assert self.answer(task) == [{0}, set(), {70}]

    async def test_waiting(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        waiting = await task.begin(poll.pselect6(task, 1, *self.ask(task, {0}, set(), set()), 0, 0))
        pipe[1].write(b"x")
        assert await result(waiting) == 1

    async def test_its_time_passes(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.space.write(TIME, struct.pack("<qq", 0, 20_000))
        began = time.monotonic_ns()
        assert await poll.select(task, 1, *self.ask(task, {0}, set(), set()), TIME) == 0
        assert await poll.pselect6(task, 0, 0, 0, 0, timespec(task, 20 * MS), 0) == 0
        assert time.monotonic_ns() - began >= 40 * MS
        assert self.answer(task) == [set(), set(), set()]

    async def test_how_much_time_is_left(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.space.write(TIME, struct.pack("<qq", 100, 1_500_000))
        assert await poll.select(task, 2, *self.ask(task, set(), {1}, set()), TIME) == 1
        assert 50 * 10**9 < left(task, 1000) <= 101_500_000_000

    async def test_a_signal_comes_first(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        task.space.write(MASK, struct.pack("<Q", 5))
        task.space.write(TIME, struct.pack("<QQ", MASK, 8))
        waiting = await task.begin(poll.pselect6(task, 1, *self.ask(task, {0}, set(), set()), 0, TIME))
        assert task.mask == 5
        task.interrupt()
        with pytest.raises(SyscallError) as caught:
            await waiting
        assert caught.value.number == ERESTARTNOHAND
        assert self.answer(task)[0] == {0}

    async def test_mistakes(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        with pytest.raises(SyscallError, match="EBADF"):
            await poll.select(task, 10, *self.ask(task, {9}, set(), set()), 0)
        with pytest.raises(SyscallError, match="EINVAL"):
            await poll.select(task, -1, *self.ask(task, set(), set(), set()), 0)
        with pytest.raises(GuestMemoryError):
            await poll.select(task, 65, END - 8, 0, 0, 0)
        assert await poll.select(task, 1 << 30, 0, *self.ask(task, {1}, {1}, set())[:2], 0) == 1


class TestIoctl:
    def test_close_on_exec(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        assert ioctl.ioctl(task, 0, 0x5451, 0) == 0
        assert task.process.files.closes_on_exec(0)
        assert ioctl.ioctl(task, 0, 0x5450, 0) == 0
        assert not task.process.files.closes_on_exec(0)

    def test_non_blocking(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        for value in (1, 0):
            task.space.write(DATA, struct.pack("<i", value))
            assert ioctl.ioctl(task, 0, 0x5421, DATA) == 0
            assert pipe[0].nonblocking == bool(value)

    def test_how_much_is_there(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        class Regular(OpenFile):
            positioned = True  # type: ignore[assignment]

            def attributes(self) -> Attributes:
                return Attributes(1, 2, 0o100644, size=100)

            def seek(self, offset: int, whence: int) -> int:
                return 30

        fd = task.process.files.add(Regular(os.O_RDONLY))
        pipe[1].write(b"12345")
        for number, request, size, value in [(fd, 0x541B, 4, 70), (fd, 0x5460, 8, 100), (fd, 2, 4, 4096), (0, 0x541B, 4, 5)]:
            assert ioctl.ioctl(task, number, request, DATA) == 0
            assert int.from_bytes(task.space.read(DATA, size), "little") == value

    def test_mistakes(self, task: Any, pipe: tuple[PipeEnd, PipeEnd]) -> None:
        fd = task.process.files.add(OpenFile(os.O_PATH))
        for number, request, error in [(9, 0x5451, errno.EBADF), (fd, 0x5451, errno.EBADF), (0, 0x5401, errno.ENOTTY)]:
            with pytest.raises(SyscallError) as caught:
                ioctl.ioctl(task, number, request, DATA)
            assert caught.value.number == error
