"""What a guest tried in order to end its kernel, to outlive its own end or to keep the event loop for itself."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import struct
from typing import Any

import pytest

from asynckvm.linux import clone, ending
from asynckvm.linux.errors import ERESTARTSYS, INT64_MAX, SyscallError
from asynckvm.linux.files.pipe import pipe_ends
from asynckvm.linux.limits import Limit
from asynckvm.linux.memory import MAP_ANONYMOUS, MAP_PRIVATE
from asynckvm.linux.signals.numbers import SIGRTMIN, bit
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.syscalls import lifecycle, memory, poll, transfer
from asynckvm.model.memory import USER_MAX
from support.fake_tasks import DATA, FakeKernel, FakeProcess, lone_task, result

TIME = DATA + 0x8000
MUCH = 16 << 20


def end(process: Any) -> None:
    process.end(ExitStatus(code=0))
    for task in list(process.tasks.values()):
        ending.end_task(task)


async def test_what_is_left_of_the_longest_timeout_can_be_told() -> None:
    task: Any = lone_task()
    for one in pipe_ends(task.process.kernel.pipe_pages):
        task.process.files.add(one)
    task.space.write(DATA, struct.pack("<Q", 0b10))
    task.space.write(TIME, struct.pack("<qq", INT64_MAX, INT64_MAX))
    assert await result(poll.select(task, 2, 0, DATA, 0, TIME)) == 1
    seconds, microseconds = struct.unpack("<qq", task.space.read(TIME, 16))
    assert 0 < seconds <= INT64_MAX
    assert 0 <= microseconds < 1_000_000


@pytest.mark.parametrize("number", [SIGRTMIN, 64, 65, 255])
def test_an_exit_signal_that_nobody_can_take(number: int) -> None:
    """The end of a child: the parent's queue has no room, or there is no such signal."""
    parent: Any = FakeProcess(FakeKernel(), 100)
    child: Any = FakeProcess(parent.kernel, 200, parent=parent)
    child.exit_signal = number
    parent.limits[Limit.SIGPENDING] = 0, 0
    end(child)
    assert not parent.pending.mask
    assert child.exited


def test_an_exit_signal_beyond_all_signals_is_none() -> None:
    parent: Any = FakeProcess(FakeKernel(), 100)
    for number in (64, 65, 255):
        child: Any = FakeProcess(parent.kernel, 100 + number, parent=parent)
        child.exit_signal = number
        end(child)
    assert parent.pending.mask == bit(64)


def test_a_parents_end_of_which_nobody_can_be_told() -> None:
    parent: Any = FakeProcess(FakeKernel(), 100)
    child: Any = FakeProcess(parent.kernel, 200, parent=parent)
    child.death_signal = SIGRTMIN
    child.limits[Limit.SIGPENDING] = 0, 0
    end(parent)
    assert parent.exited
    assert not child.pending.mask


async def test_locking_memory_ends_with_its_process() -> None:
    task: Any = lone_task()
    start = task.memory.map(0, MUCH, 1, MAP_PRIVATE | MAP_ANONYMOUS)
    task.process.limits[Limit.MEMLOCK] = MUCH, MUCH
    running = asyncio.ensure_future(memory.mlock(task, start, MUCH))
    await asyncio.sleep(0)
    task.process.end(ExitStatus(signal=signal.SIGKILL))
    with pytest.raises(SyscallError) as caught:
        await asyncio.wait_for(running, 5)
    assert caught.value.number == ERESTARTSYS


async def test_looking_at_much_memory_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = lone_task()
    start = task.memory.map(0, MUCH, 0, MAP_PRIVATE | MAP_ANONYMOUS)
    monkeypatch.setattr(memory, "_PAGES_AT_ONCE", 16)
    running = asyncio.ensure_future(memory.mincore(task, start, MUCH, DATA))
    await asyncio.sleep(0)
    assert not running.done()
    task.process.end(ExitStatus(signal=signal.SIGKILL))
    with pytest.raises(SyscallError):
        await running


@pytest.mark.parametrize("stack", [(1 << 64) - 0x1000, USER_MAX])
async def test_a_stack_that_ends_where_no_address_is(stack: int) -> None:
    task: Any = lone_task()
    task.space.write(DATA, struct.pack("<8Q", clone.VM, 0, 0, 0, 17, stack, 0x10000, 0))
    with pytest.raises(SyscallError) as caught:
        await lifecycle.clone3(task, DATA, 64)
    assert caught.value.number == errno.EINVAL


async def test_typing_much_into_a_terminal_lets_others_run() -> None:
    task: Any = lone_task()
    master = task.process.kernel.terminals.open_master(os.O_RDWR)
    fd = task.process.files.add(master)
    task.space.write(DATA, b"\x03" * 0x8000)
    running = asyncio.ensure_future(result(transfer.write(task, fd, DATA, 0x8000)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.done()
    assert await running == 0x8000
