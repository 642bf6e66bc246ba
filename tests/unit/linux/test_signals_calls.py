"""System calls on signals: what they check first, whom they reach, and how those that wait end."""

from __future__ import annotations

import asyncio
import signal
import struct
import time
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import ERESTARTNOHAND, SyscallError
from asynckvm.linux.groups import ProcessGroup
from asynckvm.linux.signals import send
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.info import SigInfo
from asynckvm.linux.signals.numbers import SIG_BLOCK, SIG_IGN, SIG_SETMASK, SIG_UNBLOCK, bit, mask_of
from asynckvm.linux.syscalls import signals as calls
from support.fake_tasks import FakeKernel, FakeProcess

AT = 0x7FFE_0000_1000
NEW, OLD = AT, AT + 0x100
SECONDS = 10
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def task(kernel: FakeKernel) -> Any:
    return FakeProcess(kernel, 100).tasks[100]


def put(task: Any, layout: str, *values: int) -> int:
    task.space.write(NEW, struct.pack("<" + layout, *values))
    return NEW


def got(task: Any, layout: str) -> tuple[int, ...]:
    return struct.unpack("<" + layout, task.space.read(OLD, struct.calcsize("<" + layout)))


def refused(error: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(SyscallError, match=error):
        call(*arguments)


def blocked_everywhere(*processes: Any) -> None:
    for process in processes:
        for task in process.tasks.values():
            task.mask = (1 << 64) - 1 & ~mask_of(signal.SIGKILL, signal.SIGSTOP)


# ---------------------------------------------------------------- actions, masks, stacks


def test_an_action_is_set_and_told_back(task: Any) -> None:
    task.mask = bit(USR1)
    send.send_to_process(task.process, SigInfo(USR1))
    assert calls.rt_sigaction(task, USR1, put(task, "QQQQ", SIG_IGN, 0x400_0000, 7, 8), OLD, 8) == 0
    assert got(task, "QQQQ") == (0, 0, 0, 0)
    assert task.process.pending.mask == 0
    calls.rt_sigaction(task, USR1, 0, OLD, 8)
    assert got(task, "QQQQ") == (SIG_IGN, 0x400_0000, 7, 8)
    refused("EINVAL", calls.rt_sigaction, task, USR1, 0, OLD, 4)
    refused("EINVAL", calls.rt_sigaction, task, 65, 0, OLD, 8)
    refused("EINVAL", calls.rt_sigaction, task, signal.SIGKILL, NEW, 0, 8)
    assert calls.rt_sigaction(task, signal.SIGKILL, 0, OLD, 8) == 0


def test_masks(task: Any) -> None:
    calls.rt_sigprocmask(task, SIG_BLOCK, put(task, "Q", mask_of(USR1, signal.SIGKILL)), 0, 8)
    calls.rt_sigprocmask(task, SIG_BLOCK, put(task, "Q", bit(USR2)), OLD, 8)
    assert got(task, "Q") == (bit(USR1),)
    calls.rt_sigprocmask(task, SIG_UNBLOCK, put(task, "Q", bit(USR1)), 0, 8)
    assert task.mask == bit(USR2)
    calls.rt_sigprocmask(task, SIG_SETMASK, put(task, "Q", bit(40)), 0, 8)
    assert task.mask == bit(40)
    refused("EINVAL", calls.rt_sigprocmask, task, 3, NEW, 0, 8)
    refused("EINVAL", calls.rt_sigprocmask, task, 0, NEW, 0, 16)
    assert calls.rt_sigprocmask(task, 3, 0, OLD, 8) == 0


def test_what_is_pending(task: Any) -> None:
    task.mask = mask_of(USR1, USR2)
    send.send_to_process(task.process, SigInfo(USR1))
    send.send_to_task(task, SigInfo(USR2))
    calls.rt_sigpending(task, OLD, 8)
    assert got(task, "Q") == (mask_of(USR1, USR2),)
    refused("EINVAL", calls.rt_sigpending, task, OLD, 9)


def test_the_alternate_stack(task: Any) -> None:
    calls.sigaltstack(task, put(task, "QI4xQ", 0x1000, 0, 8192), OLD)
    assert got(task, "QI4xQ") == (0, 2, 0)
    calls.sigaltstack(task, 0, OLD)
    assert got(task, "QI4xQ") == (0x1000, 0, 8192)


# ---------------------------------------------------------------- sending


def test_kill_names_processes_in_four_ways(kernel: FakeKernel, task: Any) -> None:
    own: Any = task.process
    peer: Any = FakeProcess(kernel, 200, parent=own)
    apart: Any = FakeProcess(kernel, 300)
    blocked_everywhere(own, peer, apart)

    def reached(pid: int) -> list[int]:
        assert calls.kill(task, pid, USR1) == 0
        found = [process.pid for process in (own, peer, apart) if process.pending.mask]
        for process in (own, peer, apart):
            process.pending.discard(bit(USR1))
        return found

    assert reached(300) == [300]
    assert reached(0) == [100, 200]
    assert reached(-300) == [300]
    assert reached(-1) == [200, 300]


def test_kill_says_who_sent_it(task: Any) -> None:
    blocked_everywhere(task.process)
    calls.kill(task, 100, USR1)
    calls.tgkill(task, 100, 100, USR2)
    sent, directed = task.process.pending.take(), task.pending.take()
    assert (sent.code, sent.pid, sent.uid) == (0, 100, 1000)
    assert (directed.code, directed.pid, directed.uid) == (-6, 100, 1000)


def test_a_thread_s_number_stands_for_its_process(kernel: FakeKernel, task: Any) -> None:
    other: Any = FakeProcess(kernel, 200, threads=2)
    blocked_everywhere(other)
    calls.kill(task, 201, USR1)
    assert other.pending.mask == bit(USR1)
    calls.tkill(task, 201, USR2)
    assert other.tasks[201].pending.mask == bit(USR2)


def test_whom_nobody_can_reach(kernel: FakeKernel, task: Any) -> None:
    FakeProcess(kernel, 200)
    for call in (
        (calls.kill, 9999, 0),
        (calls.kill, -9999, 0),
        (calls.kill, -(1 << 31), 0),
        (calls.tkill, 9999, 0),
        (calls.tgkill, 100, 200, 0),
        (calls.rt_sigqueueinfo, 9999, USR1, put(task, "iii116x", 0, 0, -1)),
    ):
        refused("ESRCH", call[0], task, *call[1:])
    for call in ((calls.kill, 100, 65), (calls.kill, 100, -1), (calls.tkill, 0, 1), (calls.tgkill, 0, 100, 1)):
        refused("EINVAL", call[0], task, *call[1:])


def test_number_zero_only_asks(task: Any) -> None:
    assert calls.kill(task, 100, 0) == calls.tkill(task, 100, 0) == 0
    assert (task.pending.mask, task.process.pending.mask, task.noticed) == (0, 0, 0)


def test_the_rights_of_others(kernel: FakeKernel, task: Any) -> None:
    stranger: Any = FakeProcess(kernel, 200)
    stranger.credentials = Credentials.of(1, 1)
    refused("EPERM", calls.kill, task, 200, signal.SIGTERM)
    refused("EPERM", calls.kill, task, -200, 0)
    # To everybody, a process that may not be signalled is no failure as long as there is one.
    assert calls.kill(task, -1, signal.SIGTERM) == 0
    assert stranger.pending.mask == 0
    stranger.join(ProcessGroup(200, task.process.session))
    assert calls.kill(task, 200, signal.SIGCONT) == 0
    mine: Any = FakeProcess(kernel, 201)
    mine.join(stranger.group)
    blocked_everywhere(mine)
    assert calls.kill(task, -200, USR1) == 0
    assert (stranger.pending.mask, mine.pending.mask) == (0, bit(USR1))


def test_what_a_program_queues(kernel: FakeKernel, task: Any) -> None:
    other: Any = FakeProcess(kernel, 200)
    blocked_everywhere(other, task.process)
    image = put(task, "iii4xiiQ96x", 99, 5, -1, 7, 8, 0xABCD)
    assert calls.rt_sigqueueinfo(task, 200, 40, image) == 0
    info = other.pending.take()
    assert (info.number, info.errno, info.code, info.pid, info.uid, info.value) == (40, 5, -1, 7, 8, 0xABCD)
    for code in (0, -6, 0x80, 1):
        put(task, "iii4xiiQ96x", 99, 5, code, 7, 8, 9)
        refused("EPERM", calls.rt_sigqueueinfo, task, 200, 40, image)
        refused("EPERM", calls.rt_tgsigqueueinfo, task, 200, 200, 40, image)
        assert calls.rt_sigqueueinfo(task, 100, 40, image) == 0
    assert calls.rt_tgsigqueueinfo(task, 100, 100, 41, image) == 0
    refused("EINVAL", calls.rt_tgsigqueueinfo, task, 0, 100, 41, image)
    put(task, "iii100xI12x", 0, 0, -9, 1)
    refused("E2BIG", calls.rt_sigqueueinfo, task, 100, 40, image)


# ---------------------------------------------------------------- waiting


async def test_sigsuspend_waits_with_another_mask(task: Any) -> None:
    task.mask = bit(USR1)
    send.send_to_process(task.process, SigInfo(USR1))
    waiting = asyncio.create_task(calls.rt_sigsuspend(task, put(task, "Q", mask_of(USR1, signal.SIGKILL)), 8))
    await asyncio.sleep(0)
    assert (task.mask, task.saved_mask) == (bit(USR1), bit(USR1))
    assert not waiting.done()
    send.send_to_process(task.process, SigInfo(USR2))
    with pytest.raises(SyscallError) as error:
        await asyncio.wait_for(waiting, SECONDS)
    assert error.value.number == ERESTARTNOHAND


async def test_sigsuspend_ends_at_once_when_it_lets_one_through(task: Any) -> None:
    task.mask = bit(USR1)
    send.send_to_process(task.process, SigInfo(USR1))
    with pytest.raises(SyscallError) as error:
        await calls.rt_sigsuspend(task, put(task, "Q", 0), 8)
    assert (error.value.number, task.saved_mask, task.mask) == (ERESTARTNOHAND, bit(USR1), 0)
    with pytest.raises(SyscallError, match="EINVAL"):
        await calls.rt_sigsuspend(task, NEW, 7)


async def wait_for(task: Any, mask: int, limit: int | None = None) -> int:
    task.space.write(NEW, struct.pack("<Q", mask))
    if limit is not None:
        task.space.write(NEW + 8, struct.pack("<qq", *divmod(limit, 1_000_000_000)))
    call = calls.rt_sigtimedwait(task, NEW, OLD, NEW + 8 if limit is not None else 0, 8)
    return await asyncio.wait_for(call, SECONDS)


async def test_sigtimedwait(task: Any) -> None:
    task.mask = mask_of(USR1, USR2, 40)
    send.send_to_process(task.process, SigInfo(40, -1))
    assert await wait_for(task, mask_of(40, 41)) == 40
    assert got(task, "iii") == (40, 0, -1)
    began = time.monotonic_ns()
    with pytest.raises(SyscallError, match="EAGAIN"):
        await wait_for(task, bit(40), 2_000_000)
    assert time.monotonic_ns() - began >= 2_000_000
    with pytest.raises(SyscallError, match="EAGAIN"):
        await wait_for(task, bit(40), 0)
    waiting = asyncio.create_task(wait_for(task, bit(USR1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    send.send_to_process(task.process, SigInfo(USR2))
    await asyncio.sleep(0)
    send.send_to_task(task, SigInfo(USR1))
    assert await waiting == USR1
    assert task.process.pending.mask == bit(USR2)


async def test_sigtimedwait_takes_what_is_not_blocked_and_gives_way_to_handlers(task: Any) -> None:
    task.process.actions.set(USR2, Action(0x1000))
    send.send_to_task(task, SigInfo(USR1))
    assert await wait_for(task, bit(USR1)) == USR1
    waiting = asyncio.create_task(wait_for(task, bit(USR1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    send.send_to_task(task, SigInfo(USR2))
    with pytest.raises(SyscallError, match="EINTR"):
        await waiting


def test_a_call_that_was_not_interrupted_has_nothing_to_go_on_with(task: Any) -> None:
    refused("EINTR", calls.restart_syscall, task)
    task.restart = lambda: 5
    assert calls.restart_syscall(task) == 5
    assert task.restart is None
