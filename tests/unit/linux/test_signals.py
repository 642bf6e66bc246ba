"""Signals as values and state: siginfo_t, actions, alternate stacks, what is pending and in which order it is taken."""

from __future__ import annotations

import ctypes
import signal
import struct
import threading

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals import action as actions
from asynckvm.linux.signals import altstack
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals.action import Action, ActionTable
from asynckvm.linux.signals.altstack import SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, AlternateStack
from asynckvm.linux.signals.info import Layout, SigInfo
from asynckvm.linux.signals.numbers import SA_RESTART, SIG_IGN, Default, bit, default_of, lowest, mask_of
from asynckvm.linux.signals.queue import QUEUED_MAX, SignalQueue
from asynckvm.model.exits import Fault
from asynckvm.model.memory import Access

RT = 40


class Clerk:
    """A source that counts."""

    def __init__(self) -> None:
        self.taken = self.lost = 0

    def collected(self, info: SigInfo) -> SigInfo:
        self.taken += 1
        return info.with_overrun(7)

    def discarded(self) -> None:
        self.lost += 1


def test_default_actions() -> None:
    assert default_of(signal.SIGTERM) is Default.TERMINATE
    assert default_of(signal.SIGSEGV) is Default.CORE
    assert default_of(signal.SIGTSTP) is Default.STOP
    assert default_of(signal.SIGCONT) is Default.CONTINUE
    assert default_of(signal.SIGCHLD) is Default.IGNORE
    assert default_of(64) is Default.TERMINATE


def test_masks() -> None:
    assert mask_of(1, 64) == 1 | 1 << 63
    assert [lowest(0), lowest(mask_of(64)), lowest(mask_of(5, 9))] == [0, 64, 5]


# ---------------------------------------------------------------- siginfo_t


def test_the_layout_of_siginfo_is_that_of_the_c_library() -> None:
    """Sent to ourselves with pthread_sigqueue(3), and read back through sigwaitinfo(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    number, value = signal.SIGRTMIN + 3, 0x1234_5678_9ABC_DEF0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        # To this very thread: another one of this process would not survive it.
        library.pthread_sigqueue.argtypes = (ctypes.c_ulong, ctypes.c_int, ctypes.c_void_p)
        assert library.pthread_sigqueue(threading.get_ident(), number, value) == 0
        image = ctypes.create_string_buffer(infos.BYTES)
        mask = ctypes.c_uint64(bit(number))
        assert library.syscall(128, ctypes.byref(mask), image, None, 8) == number
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    info = infos.unpack(number, image.raw)
    assert info is not None
    assert (info.code, info.pid, info.value, info.layout) == (-1, _own_pid(), value, Layout.RT)
    assert info.pack() == image.raw


def _own_pid() -> int:
    import os

    return os.getpid()


def test_constructors_and_properties_agree() -> None:
    assert (infos.from_user(15, 7, 1000).pid, infos.from_user(15, 7, 1000).uid) == (7, 1000)
    child = infos.from_child(1, 7, 1000, 3, (5, 6))
    assert (child.number, child.layout, child.status, child.times) == (signal.SIGCHLD, Layout.CHILD, 3, (5, 6))
    timer = infos.from_timer(14, 3, 0xFFFF_FFFF_FFFF_FFFF, Clerk()).with_overrun(9)
    assert (timer.layout, timer.timer, timer.overrun, timer.value) == (Layout.TIMER, 3, 9, (1 << 64) - 1)
    poll = infos.from_descriptor(RT, 1, 0x41, 5)
    assert (poll.layout, poll.band, poll.descriptor) == (Layout.POLL, 0x41, 5)
    fault = infos.from_fault(Fault(11, 1, 0x7FFF_0000_1234, Access.WRITE, 14, 6))
    assert (fault.layout, fault.address, fault.code) == (Layout.FAULT, 0x7FFF_0000_1234, 1)
    assert struct.unpack_from("<iiiiQ", fault.pack()) == (11, 0, 1, 0, 0x7FFF_0000_1234)


def test_what_a_kernel_would_lose_is_not_unpacked() -> None:
    image = bytearray(SigInfo(RT, -1, union=bytes(range(32))).pack())
    unpacked = infos.unpack(RT, bytes(image))
    assert unpacked is not None
    assert unpacked.union == bytes(range(32))
    # Of a layout that is known, nothing can be in the rest.
    image[48] = 1
    assert infos.unpack(RT, bytes(image)) == unpacked
    for code in (-8, -61, 7, 0x81):
        struct.pack_into("<i", image, 8, code)
        assert infos.unpack(RT, bytes(image)) is None


# ---------------------------------------------------------------- actions


def test_actions_keep_what_linux_keeps() -> None:
    table = ActionTable()
    table.set(10, Action(0x1000, SA_RESTART | 0x400 | 1 << 40, 0x2000, (1 << 64) - 1))
    assert table[10] == Action(0x1000, SA_RESTART, 0x2000, (1 << 64) - 1 & ~mask_of(9, 19))
    assert actions.unpack(table[10].pack()) == table[10]
    assert table[11] == Action()


@pytest.mark.parametrize("number", [0, 65, -1, signal.SIGKILL, signal.SIGSTOP])
def test_actions_that_cannot_be_set(number: int) -> None:
    with pytest.raises(SyscallError, match="EINVAL"):
        ActionTable().set(number, Action(SIG_IGN))


def test_fork_copies_and_exec_forgets_handlers() -> None:
    table = ActionTable()
    table.set(10, Action(0x1000))
    table.set(12, Action(SIG_IGN, SA_RESTART, 1, 2))
    copy, executed = table.copy(), table.executed()
    table.reset(10)
    assert (table[10].handler, copy[10].handler, executed[10].handler) == (0, 0x1000, 0)
    assert executed[12] == Action(SIG_IGN)
    assert [table.is_ignored(number) for number in (12, signal.SIGCHLD, signal.SIGTERM)] == [True, True, False]


# ---------------------------------------------------------------- alternate stacks


def test_an_alternate_stack_is_set_and_shown() -> None:
    stack = AlternateStack().replaced(AlternateStack(0x10000, 0, 8192), 0x500)
    assert stack.shown(0x500) == AlternateStack(0x10000, 0, 8192)
    assert stack.shown(0x12000).flags == SS_ONSTACK
    assert stack.shown(0x10000).flags == 0
    assert stack.replaced(AlternateStack(0x10, SS_DISABLE, 5), 0x500) == AlternateStack()
    assert AlternateStack().shown(0) == AlternateStack(0, SS_DISABLE, 0)
    assert altstack.unpack(stack.pack()) == stack


def test_alternate_stacks_that_are_refused() -> None:
    stack = AlternateStack(0x10000, 0, 8192)
    for new, stack_pointer, error in (
        (AlternateStack(0x1000, 0, 2047), 0, "ENOMEM"),
        (AlternateStack(0x1000, 4, 8192), 0, "EINVAL"),
        (AlternateStack(0x1000, SS_DISABLE | SS_ONSTACK, 8192), 0, "EINVAL"),
        (AlternateStack(0, SS_DISABLE, 0), 0x11000, "EPERM"),
    ):
        with pytest.raises(SyscallError, match=error):
            stack.replaced(new, stack_pointer)


def test_a_stack_that_disarms_itself_is_never_in_use() -> None:
    stack = AlternateStack().replaced(AlternateStack(0x10000, SS_AUTODISARM | SS_ONSTACK, 8192), 0)
    assert stack.is_entered(0x11000)
    assert stack.replaced(AlternateStack(), 0x11000) == AlternateStack()


# ---------------------------------------------------------------- pending


def test_a_standard_signal_is_pending_once() -> None:
    queue = SignalQueue()
    first = infos.from_user(signal.SIGTERM, 1, 2)
    assert queue.put(first)
    assert not queue.put(infos.from_user(signal.SIGTERM, 3, 4))
    assert [queue.take(), queue.take()] == [first, None]
    assert (queue.mask, queue.account.queued) == (0, 0)


def test_real_time_signals_queue_in_order() -> None:
    queue = SignalQueue()
    sent = [SigInfo(RT, -1, union=bytes([number] * 32)) for number in range(5)]
    for info in sent:
        assert queue.put(info)
    assert queue.put(SigInfo(RT - 1))
    assert [queue.take() for _ in range(7)] == [SigInfo(RT - 1), *sent, None]


def test_faults_come_first_then_the_lowest() -> None:
    queue = SignalQueue()
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV, 33, signal.SIGSYS)
    for number in numbers:
        queue.put(SigInfo(number))
    taken = [queue.take() for _ in numbers]
    assert [info.number for info in taken if info] == [signal.SIGSEGV, signal.SIGSYS, signal.SIGHUP, signal.SIGTERM, 33]


def test_a_fault_is_told_from_the_same_signal_sent() -> None:
    queue = SignalQueue()
    queue.put(infos.from_user(signal.SIGBUS, 1, 1))
    queue.put(SigInfo(signal.SIGSEGV, 1))
    assert queue.take_fault(bit(signal.SIGSEGV)) is None
    assert queue.take_fault(0) == SigInfo(signal.SIGSEGV, 1)
    assert queue.take_fault(0) is None
    assert queue.mask == bit(signal.SIGBUS)


def test_blocked_signals_wait() -> None:
    queue = SignalQueue()
    queue.put(SigInfo(10))
    assert queue.take(bit(10)) is None
    assert queue.take(bit(12)) == SigInfo(10)


def test_the_limit_is_shared_and_refuses_only_what_somebody_queued() -> None:
    queue = SignalQueue()
    other = SignalQueue(queue.account)
    assert queue.put(SigInfo(RT, -1), 1)
    with pytest.raises(SyscallError, match="EAGAIN"):
        other.put(SigInfo(RT, -1), 1)
    # kill(2) always succeeds, but has nothing to tell then; the kernel's own signals keep their info.
    assert other.put(infos.from_user(RT, 5, 5), 1)
    assert other.put(SigInfo(signal.SIGUSR1, -1, union=bytes([1] * 32)), 1)
    assert other.put(infos.from_child(1, 5, 5, 5, (0, 0)), 1)
    assert [other.take(), other.take()] == [SigInfo(signal.SIGUSR1), infos.from_child(1, 5, 5, 5, (0, 0))]
    assert other.take() == SigInfo(RT)
    assert queue.account.queued == 1


def test_no_limit_is_above_the_bound_of_the_sandbox() -> None:
    queue = SignalQueue()
    queue.account.queued = QUEUED_MAX
    with pytest.raises(SyscallError, match="EAGAIN"):
        queue.put(SigInfo(RT, -1), 1 << 60)


def test_discarding_tells_the_source() -> None:
    queue, clerk = SignalQueue(), Clerk()
    queue.put(infos.from_timer(RT, 0, 0, clerk))
    queue.put(SigInfo(RT, -1))
    queue.put(infos.from_timer(RT + 1, 0, 0, clerk))
    queue.discard(bit(RT))
    taken = queue.take()
    assert taken is not None
    assert (taken.overrun, clerk.taken, clerk.lost, queue.account.queued) == (7, 1, 1, 0)


def test_a_source_takes_back_what_it_sent() -> None:
    queue, clerk = SignalQueue(), Clerk()
    for info in (infos.from_timer(RT, 0, 0, clerk), SigInfo(RT, -1), infos.from_timer(RT + 1, 0, 0, clerk)):
        queue.put(info)
    queue.withdraw(clerk)
    assert list(queue) == [SigInfo(RT, -1)]
    assert (queue.mask, queue.account.queued, clerk.lost) == (bit(RT), 1, 0)
