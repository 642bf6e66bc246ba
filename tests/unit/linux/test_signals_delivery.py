"""Sending and delivery: who is woken, what a signal does, and what a thread goes on with."""

from __future__ import annotations

import asyncio
import errno
import signal
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS, SyscallError
from asynckvm.linux.groups import ProcessGroup
from asynckvm.linux.signals import deliver, send, xstate
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.altstack import SS_AUTODISARM, AlternateStack
from asynckvm.linux.signals.info import SigInfo
from asynckvm.linux.signals.numbers import (
    CLD_CONTINUED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESETHAND,
    SA_RESTART,
    SA_RESTORER,
    SA_SIGINFO,
    SIG_IGN,
    bit,
    mask_of,
)
from asynckvm.model.exits import Fault
from asynckvm.model.memory import Access
from asynckvm.model.registers import RegisterIndex
from support.fake_tasks import FakeKernel, FakeProcess

HANDLER, RESTORER = 0x402000, 0x403000
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2
R = RegisterIndex


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def process(kernel: FakeKernel) -> Any:
    return FakeProcess(kernel, 100)


@pytest.fixture
def task(process: FakeProcess) -> Any:
    return process.tasks[100]


def handle(process: Any, number: int, flags: int = 0, mask: int = 0) -> None:
    process.actions.set(number, Action(HANDLER + number, SA_RESTORER | flags, RESTORER, mask))


def words(task: Any) -> list[int]:
    return task.context.words  # type: ignore[no-any-return]


# ---------------------------------------------------------------- default actions


def test_a_signal_ends_the_process_and_says_where(process: Any, task: Any) -> None:
    assert send.send_to_process(process, infos.from_user(signal.SIGTERM, 1, 0, reason="told so"))
    assert task.noticed == 1
    deliver.deliver(task)
    assert (process.ended.signal, process.ended.rip, process.ended.reason) == (signal.SIGTERM, 0x401002, "told so")


def test_kill_ends_it_at_once_whatever_is_blocked(process: Any, task: Any) -> None:
    task.mask = (1 << 64) - 1
    send.send_to_process(process, SigInfo(signal.SIGKILL))
    assert process.ended.signal == signal.SIGKILL
    assert not send.send_to_process(process, SigInfo(signal.SIGTERM))


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, USR1])
def test_what_is_ignored_is_not_even_pending(number: int, process: Any, task: Any) -> None:
    process.actions.set(USR1, Action(SIG_IGN))
    assert not send.send_to_process(process, SigInfo(number))
    assert (process.pending.mask, task.noticed) == (0, 0)


def test_what_is_blocked_waits_even_if_ignored(process: Any, task: Any) -> None:
    task.mask = bit(signal.SIGCHLD)
    assert send.send_to_process(process, SigInfo(signal.SIGCHLD))
    assert deliver.pending_for(task, task.mask) == bit(signal.SIGCHLD)
    deliver.deliver(task)
    assert process.pending.mask == bit(signal.SIGCHLD)
    send.discard_ignored(process, signal.SIGCHLD)
    assert process.pending.mask == 0


def test_stop_and_continue_discard_each_other(process: Any, task: Any) -> None:
    task.mask = mask_of(signal.SIGTSTP, signal.SIGCONT)
    send.send_to_process(process, SigInfo(signal.SIGTSTP))
    handle(process, signal.SIGCONT)
    send.send_to_process(process, SigInfo(signal.SIGCONT))
    assert process.pending.mask == bit(signal.SIGCONT)
    send.send_to_task(task, SigInfo(signal.SIGTSTP))
    assert (process.pending.mask, task.pending.mask) == (0, bit(signal.SIGTSTP))


async def test_a_process_stops_and_goes_on(kernel: FakeKernel, process: Any) -> None:
    child: Any = FakeProcess(kernel, 200, parent=process, threads=2)
    child.join(ProcessGroup(200, process.session))
    first, second = child.tasks.values()
    process.tasks[100].mask = bit(signal.SIGCHLD)
    send.send_to_process(child, SigInfo(signal.SIGTSTP))
    deliver.deliver(first)
    assert (child.job.stopped, child.job.news, second.noticed) == (signal.SIGTSTP, CLD_STOPPED, 1)
    told = deliver.take(process.tasks[100], bit(signal.SIGCHLD))
    assert told is not None
    assert (told.code, told.pid, told.status) == (CLD_STOPPED, 200, signal.SIGTSTP)
    waiting = asyncio.create_task(deliver.stay_stopped(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    send.send_to_process(child, SigInfo(signal.SIGTERM))
    deliver.deliver(first)
    assert child.ended is None
    process.actions.set(signal.SIGCHLD, Action(HANDLER, SA_NOCLDSTOP))
    send.send_to_process(child, SigInfo(signal.SIGCONT))
    await asyncio.wait_for(waiting, 1)
    assert (child.job.stopped, child.job.news) == (0, CLD_CONTINUED)
    assert deliver.take(process.tasks[100], bit(signal.SIGCHLD)) is None
    deliver.deliver(first)
    assert child.ended.signal == signal.SIGTERM


async def test_a_stopped_process_can_be_killed(process: Any, task: Any) -> None:
    send.send_to_process(process, SigInfo(signal.SIGSTOP))
    deliver.deliver(task)
    waiting = asyncio.create_task(deliver.stay_stopped(task))
    await asyncio.sleep(0)
    send.send_to_process(process, SigInfo(signal.SIGKILL))
    await asyncio.wait_for(waiting, 1)


def test_an_orphaned_group_is_not_stopped_by_its_terminal(process: Any, task: Any) -> None:
    send.send_to_process(process, SigInfo(signal.SIGTTIN))
    deliver.deliver(task)
    assert (process.job.stopped, process.pending.mask) == (0, 0)


# ---------------------------------------------------------------- threads


def test_a_thread_that_does_not_block_it_is_chosen(kernel: FakeKernel) -> None:
    process: Any = FakeProcess(kernel, 300, threads=3)
    first, second, third = process.tasks.values()
    first.mask = bit(USR1)
    send.send_to_process(process, SigInfo(USR1))
    assert (first.noticed, second.noticed, third.noticed) == (0, 1, 0)
    send.set_mask(second, bit(USR1))
    assert third.noticed == 1
    send.retarget(third, bit(USR1))
    assert first.noticed == 0
    second.mask, second.killed = 0, True
    send.retarget(third, bit(USR1))
    assert second.noticed == 1


def test_a_thread_s_own_signal_is_nobody_else_s(kernel: FakeKernel) -> None:
    process: Any = FakeProcess(kernel, 300, threads=2)
    first, second = process.tasks.values()
    handle(process, USR1)
    send.send_to_task(second, SigInfo(USR1))
    deliver.deliver(first)
    assert words(first)[R.rip] == 0x401002
    deliver.deliver(second)
    assert words(second)[R.rip] == HANDLER + USR1


# ---------------------------------------------------------------- handlers


def test_a_handler_runs_and_returns(process: Any, task: Any) -> None:
    handle(process, USR1, SA_SIGINFO, mask_of(USR2))
    before = task.context.registers
    task.context.xsave = fp = bytes(xstate.initial(4096)[:160]) + bytes([9] * 256) + xstate.initial(4096)[416:]
    task.mask = bit(signal.SIGINT)
    send.send_to_process(process, infos.from_user(USR1, 7, 8))
    deliver.deliver(task)
    assert words(task)[R.rdi] == USR1
    assert task.mask == mask_of(signal.SIGINT, USR1, USR2)
    assert task.context.xsave == xstate.initial(4096)
    info = process.space.read(words(task)[R.rsi], 128)
    assert struct.unpack_from("<iiiiii", info) == (USR1, 0, 0, 0, 7, 8)
    assert process.space.read(words(task)[R.rsp], 8) == struct.pack("<Q", RESTORER)
    # The handler's `ret` takes the return address; the restorer calls rt_sigreturn.
    words(task)[R.rsp] += 8
    words(task)[R.rbx] = 99
    task.syscall = 15
    words(task)[R.rax] = deliver.sigreturn(task)
    deliver.deliver(task)
    assert task.context.registers == before
    assert (task.mask, task.context.xsave, task.syscall) == (bit(signal.SIGINT), fp, None)


def test_handlers_are_stacked_lowest_number_outermost(process: Any, task: Any) -> None:
    handle(process, USR1)
    handle(process, USR2)
    for number in (USR2, USR1):
        send.send_to_process(process, SigInfo(number))
    deliver.deliver(task)
    assert words(task)[R.rip] == HANDLER + USR2
    words(task)[R.rsp] += 8
    deliver.sigreturn(task)
    assert words(task)[R.rip] == HANDLER + USR1


def test_flags_of_an_action(process: Any, task: Any) -> None:
    handle(process, USR1, SA_NODEFER | SA_RESETHAND)
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    assert task.mask == 0
    assert not process.actions[USR1].is_handler


def test_the_alternate_stack_disarms_itself_and_comes_back(process: Any, task: Any) -> None:
    handle(process, USR1, SA_ONSTACK)
    task.altstack = AlternateStack(0x7FFE_0000_1000, SS_AUTODISARM, 0x4000)
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    assert 0x7FFE_0000_1000 < words(task)[R.rsp] < 0x7FFE_0000_5000
    assert task.altstack == AlternateStack()
    words(task)[R.rsp] += 8
    deliver.sigreturn(task)
    assert task.altstack == AlternateStack(0x7FFE_0000_1000, SS_AUTODISARM, 0x4000)


def test_a_stack_that_cannot_be_written_is_a_fault(process: Any, task: Any) -> None:
    handle(process, USR1)
    words(task)[R.rsp] = 0x1000
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    assert process.ended.signal == signal.SIGSEGV


def test_a_fault_handler_without_stack_does_not_run_for_ever(process: Any, task: Any) -> None:
    handle(process, signal.SIGSEGV)
    words(task)[R.rsp] = 1 << 63
    deliver.fault(task, Fault(signal.SIGSEGV, 1, 0x1234, Access.READ, 14, 4))
    deliver.deliver(task)
    assert process.ended.signal == signal.SIGSEGV


# ---------------------------------------------------------------- faults


def test_a_fault_reaches_its_handler_before_other_signals(process: Any, task: Any) -> None:
    handle(process, signal.SIGSEGV, SA_SIGINFO)
    handle(process, signal.SIGHUP)
    send.send_to_task(task, SigInfo(signal.SIGHUP))
    fault = Fault(signal.SIGSEGV, 2, 0x1234, Access.WRITE, 14, 7)
    deliver.fault(task, fault)
    assert task.pending.take_fault(0) == infos.from_fault(fault)
    deliver.fault(task, fault)
    deliver.deliver(task)
    assert words(task)[R.rip] == HANDLER + signal.SIGHUP
    words(task)[R.rsp] += 8
    deliver.sigreturn(task)
    assert words(task)[R.rip] == HANDLER + signal.SIGSEGV
    context = words(task)[R.rdx]
    assert struct.unpack("<QQQQ", process.space.read(context + 40 + 152, 32)) == (7, 14, 0, 0x1234)


@pytest.mark.parametrize("way", ["blocked", "ignored"])
def test_a_fault_cannot_be_put_off(way: str, process: Any, task: Any) -> None:
    handle(process, signal.SIGSEGV)
    if way == "blocked":
        task.mask = bit(signal.SIGSEGV)
    else:
        process.actions.set(signal.SIGSEGV, Action(SIG_IGN))
    fault = Fault(signal.SIGSEGV, 1, 0x1234, Access.READ, 14, 4)
    deliver.fault(task, fault)
    deliver.deliver(task)
    assert (process.ended.signal, process.ended.fault) == (signal.SIGSEGV, fault)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(40 + 144, "H", 0), (40 + 184, "Q", 1), (40 + 184, "Q", 0x7FFE_0000_0001), (40 + 184, "Q", (1 << 64) - 64)],
)
def test_a_corrupted_frame_is_a_fault(offset: int, layout: str, value: int, process: Any, task: Any) -> None:
    handle(process, USR1)
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    process.space.write(words(task)[R.rdx] + offset, struct.pack("<" + layout, value))
    words(task)[R.rsp] += 8
    deliver.sigreturn(task)
    deliver.deliver(task)
    assert process.ended.signal == signal.SIGSEGV


def test_a_frame_without_fp_state_means_the_initial_one(process: Any, task: Any) -> None:
    handle(process, USR1)
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    process.space.write(words(task)[R.rdx] + 40 + 184, bytes(8))
    words(task)[R.rsp] += 8
    task.context.xsave = bytes(4096)
    deliver.sigreturn(task)
    assert task.context.xsave == xstate.initial(4096)
    assert process.ended is None


@pytest.mark.parametrize("stack_pointer", [0, 0x7FFE_0000_FFFF, 1 << 63, (1 << 64) - 1])
def test_no_frame_at_all_is_a_fault(stack_pointer: int, process: Any, task: Any) -> None:
    words(task)[R.rsp] = stack_pointer
    assert deliver.sigreturn(task) == 0
    deliver.deliver(task)
    assert process.ended.signal == signal.SIGSEGV


# ---------------------------------------------------------------- interrupted calls


@pytest.mark.parametrize(
    ("number", "flags", "again"),
    [
        (ERESTARTSYS, 0, False),
        (ERESTARTSYS, SA_RESTART, True),
        (ERESTARTNOINTR, 0, True),
        (ERESTARTNOHAND, SA_RESTART, False),
        (ERESTART_RESTARTBLOCK, SA_RESTART, False),
    ],
)
def test_a_call_that_a_handler_interrupted(number: int, flags: int, again: bool, process: Any, task: Any) -> None:
    handle(process, USR1, flags)
    task.syscall, words(task)[R.rax] = 202, (1 << 64) - number
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    words(task)[R.rsp] += 8
    words(task)[R.rax] = deliver.sigreturn(task)
    deliver.deliver(task)
    expected = (202, 0x401000) if again else ((1 << 64) - errno.EINTR, 0x401002)
    assert (words(task)[R.rax], words(task)[R.rip]) == expected


@pytest.mark.parametrize(
    ("number", "restarted"), [(ERESTARTSYS, 202), (ERESTARTNOINTR, 202), (ERESTARTNOHAND, 202), (ERESTART_RESTARTBLOCK, 219)]
)
def test_a_call_that_nothing_interrupted_after_all(number: int, restarted: int, task: Any) -> None:
    task.syscall, words(task)[R.rax] = 202, (1 << 64) - number
    deliver.deliver(task)
    assert (words(task)[R.rax], words(task)[R.rip], task.syscall) == (restarted, 0x401000, None)
    deliver.deliver(task)
    assert words(task)[R.rip] == 0x401000


def test_no_other_result_is_taken_for_an_interrupted_call(task: Any) -> None:
    for result, syscall in (((1 << 64) - errno.ENOENT, 2), ((1 << 64) - ERESTARTSYS, None), (5, 0)):
        task.syscall, words(task)[R.rax] = syscall, result
        deliver.deliver(task)
        assert (words(task)[R.rax], words(task)[R.rip]) == (result, 0x401002)


def test_a_stop_in_a_call_restarts_it_only_when_continued(kernel: FakeKernel, process: Any) -> None:
    child: Any = FakeProcess(kernel, 200, parent=process)
    task = child.tasks[200]
    task.syscall, words(task)[R.rax] = 0, (1 << 64) - ERESTARTSYS
    send.send_to_process(child, SigInfo(signal.SIGSTOP))
    deliver.deliver(task)
    assert words(task)[R.rax] == (1 << 64) - ERESTARTSYS
    send.send_to_process(child, SigInfo(signal.SIGCONT))
    deliver.deliver(task)
    assert (words(task)[R.rax], words(task)[R.rip]) == (0, 0x401000)


def test_the_mask_of_sigsuspend_holds_until_its_handler_returns(process: Any, task: Any) -> None:
    handle(process, USR1, mask=mask_of(signal.SIGINT))
    task.mask, task.saved_mask = bit(USR2), bit(USR1)
    task.syscall, words(task)[R.rax] = 130, (1 << 64) - ERESTARTNOHAND
    send.send_to_process(process, SigInfo(USR1))
    deliver.deliver(task)
    assert (task.mask, task.saved_mask) == (mask_of(USR1, USR2, signal.SIGINT), None)
    words(task)[R.rsp] += 8
    words(task)[R.rax] = deliver.sigreturn(task)
    assert (task.mask, words(task)[R.rax]) == (bit(USR1), (1 << 64) - errno.EINTR)


def test_a_saved_mask_comes_back_at_once_when_no_handler_ran(process: Any, task: Any) -> None:
    handle(process, USR2)
    send.send_to_task(task, SigInfo(USR2))
    task.mask, task.saved_mask = bit(USR2), bit(USR1)
    deliver.deliver(task)
    # What the old mask lets through is delivered now.
    assert (task.mask, task.saved_mask, words(task)[R.rip]) == (mask_of(USR1, USR2), None, HANDLER + USR2)


# ---------------------------------------------------------------- permission


def test_who_may_send(kernel: FakeKernel, process: Any) -> None:
    other: Any = FakeProcess(kernel, 500)
    other.credentials = Credentials.of(1, 1)
    assert send.may_signal(process, process, 9)
    assert not send.may_signal(process, other, 9)
    assert not send.may_signal(process, other, signal.SIGCONT)
    other.join(process.group)
    assert send.may_signal(process, other, signal.SIGCONT)
    other.credentials = other.credentials.replace(suid=1000)
    assert send.may_signal(process, other, 9)
    other.credentials, process.credentials = Credentials.of(1, 1), process.credentials.replace(euid=0)
    assert send.may_signal(process, other, 9)


def test_too_many_queued_signals_are_refused(process: Any, task: Any) -> None:
    process.limits[11] = (1, 1)
    task.mask = (1 << 64) - 1
    send.send_to_process(process, SigInfo(40, -1))
    with pytest.raises(SyscallError, match="EAGAIN"):
        send.send_to_process(process, SigInfo(40, -1))
