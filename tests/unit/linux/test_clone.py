"""Making threads and processes: flags that contradict each other, what a thread begins with, and nothing left of a failure."""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import Any

import pytest

from asynckvm.errors import GuestMemoryError, OutOfMemoryError
from asynckvm.linux import clone
from asynckvm.linux.clone import Request
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls.lifecycle import clone3, clone_
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import RegisterIndex
from support.fake_tasks import DATA, END, FakeKernel, FakeProcess

THREAD = clone.VM | clone.FS | clone.FILES | clone.SIGHAND | clone.THREAD | clone.SYSVSEM


@pytest.fixture
def started() -> list[Any]:
    """Threads that were started."""
    return []


@pytest.fixture
def task(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    kernel = FakeKernel()
    monkeypatch.setattr(kernel, "start", started.append)
    return FakeProcess(kernel, 100).leader


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (clone.THREAD, errno.EINVAL),
        (clone.SIGHAND, errno.EINVAL),
        (clone.VM | clone.SIGHAND | clone.CLEAR_SIGHAND, errno.EINVAL),
        (THREAD & ~clone.FILES, errno.EINVAL),
        (THREAD | clone.PIDFD, errno.EINVAL),
        (0x2_0000 | clone.FS, errno.EINVAL),
        (0x1000_0000, errno.EPERM),
        (0x2_0000_0000, errno.EOPNOTSUPP),
        (1 << 40, errno.EINVAL),
    ],
)
async def test_flags_that_are_refused(flags: int, error: int, task: Any, started: list[Any]) -> None:
    with fails(error):
        await clone.clone(task, Request(flags))
    assert not started
    assert set(task.process.tasks) == {100}


async def test_what_a_thread_begins_with(task: Any, started: list[Any]) -> None:
    words = task.context.words
    words[RegisterIndex.rbx], task.mask, task.name = 77, 0b100, b"name"
    flags = THREAD | clone.SETTLS | clone.PARENT_SETTID | clone.CHILD_SETTID | clone.CHILD_CLEARTID
    number = await clone.clone(task, Request(flags, stack=0x1234, tls=0x5678, parent_tid=DATA, child_tid=DATA + 4))
    (child,) = started
    begun = child.context.words
    assert [begun[at] for at in (RegisterIndex.rax, RegisterIndex.rbx, RegisterIndex.rsp)] == [0, 77, 0x1234]
    assert (begun[RegisterIndex.rip], begun[RegisterIndex.fs_base]) == (words[RegisterIndex.rip], 0x5678)
    assert (child.tid, child.mask, child.name, child.clear_child_tid) == (number, 0b100, b"name", DATA + 4)
    assert struct.unpack("<II", task.space.read(DATA, 8)) == (number, number)
    assert child.process is task.process
    assert set(task.process.tasks) == {100, number}


async def test_a_process_that_shares_its_memory(task: Any, started: list[Any]) -> None:
    number = await clone.clone(task, Request(clone.VM | clone.FILES | clone.PIDFD, 17, pidfd=DATA))
    (child,) = started
    made = child.process
    assert (made.pid, made.parent, made.memory, made.files) == (number, task.process, task.memory, task.process.files)
    assert task.memory.users == 2
    assert made.fs is not task.process.fs
    assert task.process.children == {number: made}
    (descriptor,) = struct.unpack("<i", task.space.read(DATA, 4))
    assert task.process.files.closes_on_exec(descriptor)


async def test_nothing_is_left_of_a_failure(task: Any, started: list[Any]) -> None:
    with pytest.raises(GuestMemoryError):
        await clone.clone(task, Request(clone.VM | clone.PIDFD, 17, pidfd=END))
    assert not started
    assert task.memory.users == 1
    assert list(task.process.files) == []
    assert task.process.children == {}
    task.process.kernel.threads_max = 1
    with fails(errno.EAGAIN):
        await clone.clone(task, Request(THREAD))


async def test_no_memory_for_the_childs_number(task: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise OutOfMemoryError("write guest memory", errno.ENOMEM, "there is none")

    monkeypatch.setattr(task.space, "write", write)
    with pytest.raises(OutOfMemoryError):
        await clone.clone(task, Request(clone.VM | clone.CHILD_SETTID, 17, child_tid=DATA))
    assert not started
    assert task.memory.users == 1
    assert task.process.children == {}


async def test_the_bound_of_threads_holds_for_forks_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(threads=3)
    process = FakeProcess(kernel, 100, threads=2)
    monkeypatch.setattr(kernel, "start", lambda child: kernel.tasks.update({child.tid: child}))
    monkeypatch.setattr(process.space, "fork", kernel.machine.create_address_space, raising=False)
    monkeypatch.setattr(process.space, "shootdown", lambda: asyncio.sleep(0), raising=False)
    forks = [clone.clone(task, Request(0, 17)) for task in list(process.tasks.values())]
    made = await asyncio.gather(*forks, return_exceptions=True)
    assert [type(one) for one in made] == [int, SyscallError]
    assert len(kernel.tasks) == 3


async def test_bases_that_no_program_has(task: Any) -> None:
    with fails(errno.EPERM):
        await clone.clone(task, Request(THREAD | clone.SETTLS, tls=USER_MAX))


async def test_arguments_of_the_calls(task: Any) -> None:
    with fails(errno.EINVAL):
        await clone_(task, clone.PIDFD | clone.PARENT_SETTID, 0, DATA, 0, 0)
    for size, error in ((63, errno.EINVAL), (4097, errno.E2BIG)):
        with fails(error):
            await clone3(task, DATA, size)
    for fields, error in (
        ({0: 17}, errno.EINVAL),  # the signal's place is another one
        ({4: 65}, errno.EINVAL),
        ({5: 0x1000}, errno.EINVAL),  # a stack without a size
        ({8: 1}, errno.EPERM),
        ({11: 1}, errno.E2BIG),
    ):
        task.space.write(DATA, struct.pack("<12Q", *(fields.get(index, 0) for index in range(12))))
        with fails(error):
            await clone3(task, DATA, 96)
