"""Taking a guest off its vCPU: bounces, cancellation, time-outs, and storms of signals that mean nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import CODE, COUNT, DATA, RUN_SECONDS, SPIN, SYSCALL_LOOP, Guest, Witness, until_counting, vcpu_threads

from asynckvm.errors import UsageError
from asynckvm.model.exits import Interrupted, InterruptReason, Syscall
from asynckvm.platform import Machine
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.platform import Restore

BOUNCES = 1000
STORM_SECONDS = min(paced(3.0), 15.0)


async def bounced(task: asyncio.Task[object]) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        assert await task == Interrupted(InterruptReason.BOUNCED)


async def test_a_bounce_takes_a_spinner_off_its_vcpu(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, COUNT, restore=restore)
    for _ in range(20):
        task = asyncio.create_task(guest.run())
        await until_counting(guest)
        guest.context.interrupt()
        await bounced(task)
        stopped = guest.word(DATA)
        other = Guest(machine, SYSCALL_LOOP)
        assert isinstance(await other.run(), Syscall)
        other.close()
        assert guest.word(DATA) == stopped, "it still runs"


async def test_a_bounced_guest_goes_on_where_it_was(machine: Machine, restore: Restore) -> None:
    """Bounces at random moments lose no register: a long computation comes out right."""
    code = "1: leaq 1(%rax,%rax,2), %rax; rolq $7, %rax; xorq %rcx, %rax; decq %rcx; jnz 1b; movq %rax, %rbx; syscall"
    rounds = 30_000_000
    # RCX and R11 die at each SYSRET, so the partial way counts elsewhere.
    guest = Guest(machine, code.replace("rcx", "r12"), restore=restore, r12=rounds)
    undisturbed = await guest.run()
    assert isinstance(undisturbed, Syscall)
    result = guest["rbx"]
    guest.go(r12=rounds)
    interruptions = 0
    task = asyncio.create_task(guest.run())
    while True:
        guest.context.interrupt()
        exit_ = await task
        if isinstance(exit_, Syscall):
            break
        assert exit_ == Interrupted(InterruptReason.BOUNCED)
        interruptions += 1
        task = asyncio.create_task(guest.run())
        for _ in range(random.Random(interruptions).randrange(20)):
            await asyncio.sleep(0)
    assert interruptions > 5
    assert guest["rbx"] == result


async def test_a_thousand_bounces_none_lost(machine: Machine, restore: Restore) -> None:
    """Random moments around the entry, the run and the exit; each switch comes back, each as bounced."""
    source = random.Random(1)
    guest = Guest(machine, SPIN, restore=restore)

    def wait_a_little() -> None:
        until = time.perf_counter_ns() + source.choice((0, 0, source.randrange(100_000), source.randrange(400_000)))
        while time.perf_counter_ns() < until:
            pass

    async with asyncio.timeout(paced(50)):
        for _ in range(BOUNCES):
            task = asyncio.create_task(guest.context.switch())
            for _ in range(source.randrange(3)):
                await asyncio.sleep(0)
            wait_a_little()
            guest.context.interrupt()
            wait_a_little()
            await bounced(task)


@pytest.mark.slow
async def test_bounces_from_several_contexts_at_once(machine: Machine, restore: Restore) -> None:
    """Ten spinners on two vCPUs, bounced at random: exactly the bounced one comes back."""
    source = random.Random(2)
    guests = [Guest(machine, SPIN, restore=restore) for _ in range(10)]
    tasks = [asyncio.create_task(guest.run(paced(60))) for guest in guests]
    async with asyncio.timeout(paced(50)):
        for _ in range(400):
            index = source.randrange(len(guests))
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
            guests[index].context.interrupt()
            await bounced(tasks[index])
            assert not any(task.done() for number, task in enumerate(tasks) if number != index)
            tasks[index] = asyncio.create_task(guests[index].run(paced(60)))
        for guest, task in zip(guests, tasks, strict=True):
            guest.context.interrupt()
            await bounced(task)


async def test_an_interrupt_before_the_switch_makes_it_return_at_once(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, "1: incq %rbx; syscall; jmp 1b", restore=restore)
    for _ in range(3):
        for _ in range(5):  # several collapse into one
            guest.context.interrupt()
        assert await guest.run() == Interrupted(InterruptReason.BOUNCED)
        assert guest["rbx"] == 0, "it ran all the same"
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 1


async def test_many_interrupts_during_a_run_are_one(machine: Machine) -> None:
    guest = Guest(machine, COUNT)
    task = asyncio.create_task(guest.run())
    await until_counting(guest)
    for _ in range(100):
        guest.context.interrupt()
    await bounced(task)
    guest.load(SYSCALL_LOOP).go()
    assert isinstance(await guest.run(), Syscall)


@pytest.mark.parametrize("reason", list(InterruptReason))
async def test_the_reason_is_told(machine: Machine, reason: InterruptReason) -> None:
    guest = Guest(machine, COUNT)
    task = asyncio.create_task(guest.context.switch())
    await until_counting(guest)
    if reason is InterruptReason.CLOSED:  # the machine's own
        with pytest.raises(UsageError):
            guest.context.interrupt(reason)
        reason = InterruptReason.BOUNCED
    guest.context.interrupt(reason)
    async with asyncio.timeout(RUN_SECONDS):
        assert await task == Interrupted(reason)


@pytest.mark.every_loop
async def test_cancellation_leaves_the_context_off_its_vcpu(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, COUNT, restore=restore)
    for _ in range(20):
        task = asyncio.create_task(guest.context.switch())
        await until_counting(guest)
        task.cancel()
        async with asyncio.timeout(RUN_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await task
        stopped = guest.word(DATA)
        other = Guest(machine, SYSCALL_LOOP)
        assert isinstance(await other.run(), Syscall)
        other.close()
        assert guest.word(DATA) == stopped, "it outlived its cancellation"


@pytest.mark.every_loop
async def test_a_time_out_is_a_time_out(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, COUNT, restore=restore)
    for _ in range(5):
        before = guest.word(DATA)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(paced(0.02)):
                await guest.context.switch()
        stopped = guest.word(DATA)
        assert stopped > before
        other = Guest(machine, SYSCALL_LOOP)
        assert isinstance(await other.run(), Syscall)
        other.close()
        assert guest.word(DATA) == stopped


async def test_an_exit_that_met_its_cancellation_is_kept(machine: Machine) -> None:
    """Cancelled at every moment around the exit: no system call is lost and none is seen twice."""
    guest = Guest(machine, "1: incq %rbx; syscall; jmp 1b")
    source = random.Random(3)
    seen, cancelled = 0, 0
    async with asyncio.timeout(paced(50)):
        while seen < 400 or cancelled < 100:
            task = asyncio.create_task(guest.context.switch())
            for _ in range(source.randrange(6)):
                await asyncio.sleep(0)
            until = time.perf_counter_ns() + source.randrange(80_000)
            while time.perf_counter_ns() < until:
                pass
            task.cancel()
            try:
                exit_ = await task
            except asyncio.CancelledError:
                cancelled += 1
                continue
            assert isinstance(exit_, Syscall)
            seen += 1
            assert guest["rbx"] == seen


async def test_one_switch_at_a_time(machine: Machine) -> None:
    guest = Guest(machine, COUNT)
    task = asyncio.create_task(guest.run())
    await until_counting(guest)
    with pytest.raises(UsageError):
        await guest.context.switch()
    with pytest.raises(UsageError):
        guest.context.close()
    assert not task.done()
    guest.context.interrupt()
    await bounced(task)


@pytest.fixture
def timer_storm() -> Iterator[list[int]]:
    """A signal every millisecond in this process, handled in Python; how many there were."""
    count = [0]

    def handle(number: int, frame: object) -> None:
        count[0] += 1

    # Not SIGALRM, which bounds this test.
    before = signal.signal(signal.SIGVTALRM, handle), signal.signal(signal.SIGPROF, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    yield count
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGVTALRM, before[0])
    signal.signal(signal.SIGPROF, before[1])


class KickStorm(threading.Thread):
    """Sends the kick signal to every vCPU thread all the time: kicks that nobody asked for."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        kill = ctypes.CDLL(None, use_errno=True).tgkill
        threads, process = vcpu_threads(), os.getpid()
        while not self.over.wait(0.0003):
            for thread in threads:
                kill(process, thread, signal.SIGRTMAX - 2)
                self.sent += 1


async def work(machine: Machine, restore: Restore, until: float) -> int:
    """Compute, count, call: everything a stray signal could upset. Returns rounds done."""
    compute = "movq $400000, %r12; 2: leaq 7(%rax,%rax,4), %rax; xorq %r12, %rax; decq %r12; jnz 2b; movq %rax, %rbx"
    guest = Guest(machine, f"1: {compute}; syscall; jmp 1b", restore=restore)
    expected, rounds = None, 0
    while time.monotonic() < until:
        guest["rax"] = 1
        exit_ = await guest.run()
        assert isinstance(exit_, Syscall), exit_
        expected = expected or guest["rbx"]
        assert guest["rbx"] == expected
        rounds += 1
    guest.close()
    return rounds


@pytest.mark.slow
async def test_signals_that_mean_nothing_change_nothing(machine: Machine, restore: Restore, timer_storm: list[int]) -> None:
    until = time.monotonic() + STORM_SECONDS
    witness = await Witness(machine).prepare()
    storm = KickStorm()
    storm.start()
    try:
        async with asyncio.timeout(STORM_SECONDS + RUN_SECONDS):
            workers = asyncio.gather(*(work(machine, restore, until) for _ in range(4)))
            while not workers.done():
                await witness.check()
            done = await workers
    finally:
        storm.over.set()
        storm.join(paced(10))
    assert min(done) > 10
    assert storm.sent > 200
    assert timer_storm[0] > 200
    if machine.platform == "kvm":  # elsewhere this signal is no kick
        assert sum(vcpu.stale_kicks for vcpu in machine.counters().vcpus) > 0, "no kick found a guest running"


async def test_an_exit_is_told_though_the_guest_after_it_turned_long(restore: Restore) -> None:
    """A vCPU may tell exits by the batch while it goes on to guests that were brief last time; nothing may wait for one that
    never ends this time."""
    async with Machine.open(vcpus=1, memory=64 << 20) as machine:
        caller = Guest(machine, "1: syscall; jmp 1b", restore=restore)
        turncoat = Guest(machine, "syscall; 1: jmp 1b", restore=restore)
        assert isinstance(await caller.run(), Syscall)
        for _ in range(5):
            turncoat["rip"] = CODE
            assert isinstance(await turncoat.run(), Syscall)
            first = asyncio.create_task(caller.context.switch())
            spinning = asyncio.create_task(turncoat.run())
            async with asyncio.timeout(RUN_SECONDS / 4):
                assert isinstance(await first, Syscall)
            turncoat.context.interrupt()
            assert await spinning == Interrupted(InterruptReason.BOUNCED)
        caller.close()
        turncoat.close()


async def test_a_thread_that_waits_for_any_child_keeps_no_guest(machine: Machine) -> None:
    """wait(2) for any child tells of the stops of traced ones too, to whichever thread asks first; exits come all the same."""
    over = threading.Event()

    def wait_for_anybody() -> None:
        while not over.is_set():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    thief = threading.Thread(target=wait_for_anybody)
    thief.start()
    try:
        guest = Guest(machine, "1: syscall; jmp 1b")
        async with asyncio.timeout(paced(20)):
            for _ in range(30):
                assert isinstance(await guest.run(), Syscall)
    finally:
        over.set()
        thief.join(paced(10))
    assert not thief.is_alive()
