"""What a process may ask about itself and others and set: limits, scheduling, prctl, clocks."""

from __future__ import annotations

import errno
import struct
import time
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError
from asynckvm.linux import clock
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.syscalls import lifecycle, limits, scheduling
from asynckvm.linux.syscalls.prctl import arch_prctl, personality, prctl
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import RegisterIndex
from support.fake_tasks import DATA, END, FakeKernel, FakeProcess, result


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def task(kernel: FakeKernel) -> Any:
    return FakeProcess(kernel, 100, threads=2).leader


@pytest.fixture
def stranger(kernel: FakeKernel, task: Any) -> Any:
    """A process of another user."""
    process = FakeProcess(kernel, 200)
    process.credentials = Credentials.of(5, 5)
    return process


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


class TestLimits:
    def limit(self, task: Any, resource: int, soft: int, hard: int, pid: int = 0) -> tuple[int, ...]:
        """Set it; what it was."""
        task.space.write(DATA, struct.pack("<QQ", soft, hard))
        assert limits.prlimit64(task, pid, resource, DATA, DATA + 16) == 0
        return struct.unpack("<QQ", task.space.read(DATA + 16, 16))

    def test_they_can_be_lowered_and_not_raised(self, task: Any) -> None:
        assert self.limit(task, Limit.FSIZE, 5, 10) == (INFINITY, INFINITY)
        assert self.limit(task, Limit.FSIZE, 10, 10) == (5, 10)
        with fails(errno.EPERM):
            self.limit(task, Limit.FSIZE, 5, 11)
        with fails(errno.EINVAL):
            self.limit(task, Limit.FSIZE, 6, 5)
        assert limits.getrlimit(task, Limit.FSIZE, DATA) == 0
        assert struct.unpack("<QQ", task.space.read(DATA, 16)) == (10, 10)
        for resource in (16, -1):
            with fails(errno.EINVAL):
                limits.getrlimit(task, resource, DATA)
        with pytest.raises(GuestMemoryError):
            limits.setrlimit(task, Limit.FSIZE, END)

    def test_descriptors_follow(self, task: Any) -> None:
        self.limit(task, Limit.NOFILE, 3, 10)
        assert task.process.files.limit == 3
        task.process.credentials = Credentials()
        with fails(errno.EPERM):
            self.limit(task, Limit.NOFILE, 3, INFINITY)

    def test_of_others(self, task: Any, stranger: Any) -> None:
        with fails(errno.EPERM):
            self.limit(task, Limit.CORE, 0, 0, pid=200)
        with fails(errno.ESRCH):
            self.limit(task, Limit.CORE, 0, 0, pid=999)
        task.process.credentials = Credentials()
        assert self.limit(task, Limit.CORE, 1, 2, pid=200) == (0, INFINITY)
        assert stranger.limits[Limit.CORE] == (1, 2)
        assert task.process.limits[Limit.CORE] == (0, INFINITY)
        assert self.limit(task, Limit.CORE, 1, INFINITY, pid=200) == (1, 2)

    def test_what_was_used(self, task: Any) -> None:
        task.cpu_ns = 2_500_000_000
        task.process.tasks[101].cpu_ns = 1_000_000_000
        task.process.children_ns = 40_000_000
        for who, seconds, microseconds in ((0, 3, 500_000), (1, 2, 500_000), (-1, 0, 40_000)):
            assert limits.getrusage(task, who, DATA) == 0
            assert struct.unpack("<QQ", task.space.read(DATA, 16)) == (seconds, microseconds)
        with fails(errno.EINVAL):
            limits.getrusage(task, 2, DATA)
        before = limits.times(task, 0)
        assert limits.times(task, DATA) >= before
        assert struct.unpack("<4Q", task.space.read(DATA, 32)) == (350, 0, 4, 0)
        assert limits.sysinfo(task, DATA) == 0
        uptime, *_ = struct.unpack("<q", task.space.read(DATA, 8))
        assert 0 < uptime <= time.clock_gettime(time.CLOCK_BOOTTIME) + 1


class TestScheduling:
    def test_affinity(self, task: Any) -> None:
        assert scheduling.sched_getaffinity(task, 0, 128, DATA) == 8
        assert task.space.read(DATA, 8) == struct.pack("<Q", 3)
        task.space.write(DATA, struct.pack("<Q", 0xFE))
        assert scheduling.sched_setaffinity(task, 101, 8, DATA) == 0
        assert scheduling.sched_getaffinity(task, 100, 8, DATA) == 8
        assert task.space.read(DATA, 8) == struct.pack("<Q", 2)
        task.space.write(DATA, struct.pack("<Q", 0xF0))
        with fails(errno.EINVAL):
            scheduling.sched_setaffinity(task, 0, 8, DATA)
        for size in (0, 4, 9):
            with fails(errno.EINVAL):
                scheduling.sched_getaffinity(task, 0, size, DATA)
        with fails(errno.ESRCH):
            scheduling.sched_getaffinity(task, 999, 8, DATA)

    @pytest.mark.parametrize(
        ("policy", "priority", "error"),
        [(0, 0, 0), (3, 0, 0), (5, 0, 0), (0, 1, errno.EINVAL), (1, 1, errno.EPERM), (2, 0, errno.EINVAL), (6, 0, errno.EPERM),
         (4, 0, errno.EINVAL), (-1, 0, errno.EINVAL)],
    )  # fmt: skip
    def test_policies(self, policy: int, priority: int, error: int, task: Any) -> None:
        task.space.write(DATA, struct.pack("<i", priority))
        if error:
            with fails(error):
                scheduling.sched_setscheduler(task, 0, policy, DATA)
        else:
            assert scheduling.sched_setscheduler(task, 0, policy, DATA) == 0
        assert scheduling.sched_getparam(task, 0, DATA) == 0
        assert task.space.read(DATA, 4) == bytes(4)
        with fails(errno.EINVAL):
            scheduling.sched_setscheduler(task, 0, policy, 0)

    def test_bounds_of_priorities(self, task: Any) -> None:
        for policy, low, high in ((0, 0, 0), (1, 1, 99), (2, 1, 99), (5, 0, 0)):
            assert scheduling.sched_get_priority_min(task, policy) == low
            assert scheduling.sched_get_priority_max(task, policy) == high
        with fails(errno.EINVAL):
            scheduling.sched_get_priority_max(task, 4)

    def test_nice(self, task: Any, stranger: Any) -> None:
        assert scheduling.getpriority(task, 0, 0) == 20
        assert scheduling.setpriority(task, 0, 0, 100) == 0
        assert scheduling.getpriority(task, 0, 100) == 1
        with fails(errno.EACCES):
            scheduling.setpriority(task, 0, 0, 18)
        with fails(errno.EPERM):
            scheduling.setpriority(task, 0, 200, 19)
        assert scheduling.getpriority(task, 2, 5) == 20
        assert scheduling.getpriority(task, 1, 200) == 20
        for which, who, error in ((3, 0, errno.EINVAL), (0, 999, errno.ESRCH), (1, 999, errno.ESRCH), (2, 77, errno.ESRCH)):
            with fails(error):
                scheduling.getpriority(task, which, who)
        task.process.credentials = Credentials()
        assert scheduling.setpriority(task, 1, 200, -100) == 0
        assert stranger.nice == -20

    def test_priority_of_input_and_output(self, task: Any, stranger: Any) -> None:
        assert scheduling.ioprio_get(task, 1, 0) == 0
        assert scheduling.ioprio_set(task, 1, 0, 2 << 13 | 7) == 0
        assert scheduling.ioprio_get(task, 2, 0) == 2 << 13 | 7
        for priority, error in ((2 << 13 | 8, errno.EINVAL), (1, errno.EINVAL), (4 << 13, errno.EINVAL), (1 << 13, errno.EPERM)):
            with fails(error):
                scheduling.ioprio_set(task, 1, 0, priority)
        with fails(errno.EPERM):
            scheduling.ioprio_set(task, 1, 200, 3 << 13)
        with fails(errno.EINVAL):
            scheduling.ioprio_get(task, 0, 0)

    async def test_the_rest(self, task: Any) -> None:
        assert await result(scheduling.sched_yield(task)) == 0
        assert scheduling.getcpu(task, DATA, DATA + 4) == scheduling.getcpu(task, 0, 0) == 0
        assert scheduling.sched_getattr(task, 0, DATA, 48, 0) == 0
        assert struct.unpack("<I", task.space.read(DATA, 4)) == (48,)
        for size, flags in ((47, 0), (48, 1)):
            with fails(errno.EINVAL):
                scheduling.sched_getattr(task, 0, DATA, size, flags)
        task.space.write(DATA, struct.pack("<IIQiIQQQ", 48, 0, 0, 5, 0, 0, 0, 0))
        assert scheduling.sched_setattr(task, 0, DATA, 0) == 0
        assert task.process.nice == 5


class TestPrctl:
    def test_names(self, task: Any) -> None:
        task.space.write(DATA, b"a name that is too long\0")
        assert prctl(task, 15, DATA, 0, 0, 0) == 0
        assert task.name == b"a name that is "
        assert prctl(task, 16, DATA, 0, 0, 0) == 0
        assert task.space.read(DATA, 16) == b"a name that is \0"
        task.space.write(END - 2, b"a\0")
        assert prctl(task, 15, END - 2, 0, 0, 0) == 0
        assert task.name == b"a"

    @pytest.mark.parametrize(("setting", "getting", "good", "bad"), [(4, 3, 0, 2), (1, 2, 15, 65), (36, 37, 1, None)])
    def test_what_is_set_is_told(self, setting: int, getting: int, good: int, bad: int | None, task: Any) -> None:
        assert prctl(task, setting, good, 0, 0, 0) == 0
        if bad is not None:
            with fails(errno.EINVAL):
                prctl(task, setting, bad, 0, 0, 0)
        told = prctl(task, getting, DATA, 0, 0, 0)
        if getting != 3:
            (told,) = struct.unpack("<i", task.space.read(DATA, 4))
        assert told == good

    def test_the_slack_of_timers(self, task: Any) -> None:
        default = prctl(task, 30, 0, 0, 0, 0)
        assert prctl(task, 29, 7, 0, 0, 0) == 0
        assert prctl(task, 30, 0, 0, 0, 0) == 7
        assert prctl(task, 29, 0, 0, 0, 0) == 0
        assert prctl(task, 30, 0, 0, 0, 0) == default > 0

    def test_unknown_options(self, task: Any) -> None:
        for option in (0, 999, -1):
            with fails(errno.EINVAL):
                prctl(task, option, 0, 0, 0, 0)

    def test_bases_of_segments(self, task: Any) -> None:
        assert arch_prctl(task, 0x1002, 0x1234) == arch_prctl(task, 0x1001, 0x5678) == 0
        words = task.context.words
        assert (words[RegisterIndex.fs_base], words[RegisterIndex.gs_base]) == (0x1234, 0x5678)
        assert arch_prctl(task, 0x1003, DATA) == arch_prctl(task, 0x1004, DATA + 8) == 0
        assert struct.unpack("<QQ", task.space.read(DATA, 16)) == (0x1234, 0x5678)
        with fails(errno.EPERM):
            arch_prctl(task, 0x1002, USER_MAX)
        with fails(errno.EINVAL):
            arch_prctl(task, 0x1005, 0)

    def test_personality(self, task: Any) -> None:
        assert personality(task, 0x0040000) == 0
        assert personality(task, 0xFFFF_FFFF) == 0x0040000
        assert personality(task, 0) == 0x0040000


class TestClocks:
    def test_those_of_the_host(self, task: Any) -> None:
        for number in (0, 1, 4, 5, 6, 7, 11):
            before = time.clock_gettime_ns(number)
            assert before <= clock.now(number, task) <= time.clock_gettime_ns(number)
            assert clock.resolution(number) > 0

    def test_those_of_processors(self, task: Any, stranger: Any) -> None:
        task.cpu_ns, task.process.tasks[101].cpu_ns, stranger.leader.cpu_ns = 5, 7, 9
        assert [clock.now(number, task) for number in (2, 3)] == [12, 5]
        assert clock.now(~101 << 3 | 6, task) == 7
        assert clock.now(~200 << 3 | 2, task) == 9
        assert clock.resolution(~200 << 3 | 2) == 1
        for number in (8, 12, ~999 << 3 | 2, ~200 << 3 | 6, ~5 << 3 | 3):
            with fails(errno.EINVAL):
                clock.now(number, task)

    def test_deadlines(self) -> None:
        before = time.monotonic_ns()
        assert before + 1000 <= clock.deadline(0, 1000, absolute=False) <= time.monotonic_ns() + 1000
        when = time.time_ns() + 10**9
        assert abs(clock.deadline(0, when, absolute=True) - before - 10**9) < 10**9
        for number in (2, 5, 99):
            with fails(errno.EINVAL):
                clock.deadline(number, 0, absolute=False)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
async def test_arguments_may_end_where_memory_does(task: Any, count: int) -> None:
    """Pointers are read several at a time, and never one that need not be there."""
    task.space.write(DATA, b"text\0")
    start = END - 8 * (count + 1)
    for shift in (0, 3):
        task.space.write(start - shift, struct.pack(f"<{count + 1}Q", *[DATA] * count, 0))
        assert await lifecycle._strings(task, start - shift, [1 << 20]) == [b"text"] * count
    task.space.write(start, struct.pack(f"<{count + 1}Q", *[DATA] * (count + 1)))
    with pytest.raises(GuestMemoryError):
        await lifecycle._strings(task, start, [1 << 20])
    with fails(errno.E2BIG):
        await lifecycle._strings(task, start, [13 * count])
