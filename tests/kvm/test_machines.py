"""Machines as a whole: opening, several at once, closing under load, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kvm.guestcode import (
    COUNT,
    DATA,
    READ,
    RUN_SECONDS,
    SPIN,
    SYSCALL_LOOP,
    WRITE,
    Guest,
    Witness,
    create_space,
    until_counting,
    vcpu_threads,
)  # fmt: skip

from asynckvm.errors import AsyncKvmError, ClosedError, DeviceMissingError, HostForkedError, UsageError
from asynckvm.model.exits import Interrupted, Syscall
from asynckvm.platform import Machine
from support.pace import paced

if TYPE_CHECKING:
    from asynckvm.platform import Restore

SMALL = 32 << 20
CLOSE_SECONDS = paced(10)


def descriptors() -> set[str]:
    """What is open, without the pipe that listing needs."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_two_machines_interleaved(restore: Restore) -> None:
    async with Machine.open(vcpus=1, memory=SMALL) as first, Machine.open(vcpus=1, memory=SMALL) as second:
        witnesses = [await Witness(first).prepare(), await Witness(second).prepare()]
        guests = [Guest(machine, "1: incq %rbx; syscall; jmp 1b", restore=restore) for machine in (first, second)]
        for turn in range(1, 101):
            for guest, witness in zip(guests, witnesses, strict=True):
                assert isinstance(await guest.run(), Syscall)
                assert guest["rbx"] == turn
                await witness.check()
        # The same machines at the same time.
        await asyncio.gather(*(guest.run() for guest in guests for _ in (0,)))
        assert [guest["rbx"] for guest in guests] == [101, 101]


async def test_objects_of_two_machines_do_not_mix(machine: Machine, small_machine: Machine) -> None:
    space = create_space(machine, SYSCALL_LOOP)
    with pytest.raises(UsageError):
        small_machine.create_context(space)
    foreign = small_machine.open_file(__file__)
    with pytest.raises(UsageError):
        space.map(0x50000000, 4096, READ, file=foreign)


@pytest.mark.every_loop
async def test_close_under_load(restore: Restore) -> None:
    """Spinners, callers and queued contexts: all get ClosedError, within the bound; no thread and no descriptor stays."""
    gc.collect()
    descriptors_before = descriptors()
    machine = await Machine.open(vcpus=2, memory=SMALL)
    spinners = [Guest(machine, SPIN, restore=restore) for _ in range(20)]
    counter = Guest(machine, COUNT, restore=restore)
    callers = [Guest(machine, SYSCALL_LOOP, restore=restore) for _ in range(20)]

    async def call_for_ever(guest: Guest) -> None:
        while True:
            exit_ = await guest.run(paced(60))
            assert isinstance(exit_, Syscall), exit_

    tasks = [asyncio.create_task(guest.run(paced(60))) for guest in [*spinners, counter]]
    tasks += [asyncio.create_task(call_for_ever(guest)) for guest in callers]
    await until_counting(counter, 1000)
    async with asyncio.timeout(CLOSE_SECONDS):
        await machine.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ClosedError) for result in results), results
    assert not vcpu_threads()
    for operation in (
        machine.create_address_space,
        lambda: machine.create_context(counter.space),
        lambda: counter.space.read(DATA, 8),
        lambda: counter.space.map(DATA, 4096, READ),
    ):
        with pytest.raises(ClosedError):
            operation()
    with pytest.raises(ClosedError):
        await counter.context.switch()
    await machine.close()
    assert descriptors() == descriptors_before


async def test_leaving_the_block_closes_with_guests_inside() -> None:
    async with Machine.open(vcpus=2, memory=SMALL) as machine:
        guest = Guest(machine, COUNT)
        task = asyncio.create_task(guest.context.switch())
        await until_counting(guest)
    async with asyncio.timeout(RUN_SECONDS):
        with pytest.raises(ClosedError):
            await task
    assert not vcpu_threads()


@pytest.mark.parametrize("how", ["closed", "dropped"])
@pytest.mark.filterwarnings("ignore:.*was not closed:ResourceWarning")
async def test_what_goes_while_the_machine_closes(how: str) -> None:
    """Whoever is told that the machine is closed tidies up, while another thread is freeing all of it."""
    for _ in range(5):
        machine = await Machine.open(vcpus=1, memory=SMALL)
        spaces = [machine.create_address_space() for _ in range(100)]
        things: list[Any] = [*spaces, *(machine.create_context(space) for space in spaces)]
        spaces.clear()
        closing = asyncio.create_task(machine.close())
        async with asyncio.timeout(CLOSE_SECONDS):
            while not closing.done():
                await asyncio.sleep(0)
                if things:
                    thing = things.pop()
                    if how == "closed":
                        thing.close()
                    del thing
                machine.dump()
                with contextlib.suppress(ClosedError):
                    machine.counters()
            await closing


@pytest.mark.slow
async def test_fifty_machines_leave_nothing_behind() -> None:
    sizes = []
    for turn in range(50):
        async with Machine.open(vcpus=2, memory=SMALL) as machine:
            guest = Guest(machine, "1: movq %rax, (%rdi); addq $4096, %rdi; decq %rcx; jnz 1b; syscall", rdi=0x40000000, rcx=1024)
            guest.space.map(0x40000000, 4 << 20, READ | WRITE)
            assert isinstance(await guest.run(), Syscall)
        if turn in (4, 49):
            gc.collect()
            sizes.append((threading.active_count(), len(descriptors()), resident()))
    (threads_early, descriptors_early, resident_early), (threads_late, descriptors_late, resident_late) = sizes
    assert (threads_late, descriptors_late) == (threads_early, descriptors_early)
    assert resident_late - resident_early < 8 << 20, f"{(resident_late - resident_early) >> 20} MiB more after 45 machines"


async def test_contexts_and_spaces_come_and_go(machine: Machine) -> None:
    """A thousand of each, one after the other, in a machine that could hold only some at a time."""
    before = machine.counters().memory
    for turn in range(1000):
        guest = Guest(machine, SYSCALL_LOOP)
        if turn % 10 == 0:
            assert isinstance(await guest.run(), Syscall)
        guest.close()
    async with asyncio.timeout(RUN_SECONDS):
        while (after := machine.counters().memory).spaces > before.spaces:
            await asyncio.sleep(0)
    assert after.frames_used <= before.frames_used + 512
    assert after.tables_used <= before.tables_used + 16


async def test_what_is_dropped_without_closing_is_warned_about_and_released(machine: Machine) -> None:
    before = machine.counters().memory.spaces
    with warnings.catch_warnings():
        # Not recorded: a record would keep the object alive.
        told: list[str] = []
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: told.append(str(message))
        space = machine.create_address_space()
        context = machine.create_context(space)
        del context, space
        gc.collect()
        async with asyncio.timeout(RUN_SECONDS):
            while machine.counters().memory.spaces > before:
                await asyncio.sleep(0)
    assert len(told) == 2
    assert all("was not closed" in text for text in told)


async def test_a_missing_device_is_told_apart() -> None:
    with pytest.raises(DeviceMissingError) as error:
        await Machine.open(platform="kvm", vcpus=1, memory=SMALL, device="/dev/no-such-kvm")
    assert "/dev/" in str(error.value) or "open" in str(error.value)


async def test_a_file_that_is_no_kvm_is_told_apart() -> None:
    before = descriptors()
    with pytest.raises(AsyncKvmError):
        await Machine.open(platform="kvm", vcpus=1, memory=SMALL, device="/dev/null")
    assert descriptors() == before


BAD = [{"vcpus": 0}, {"vcpus": -1}, {"vcpus": 1 << 20}, {"memory": 0}, {"memory": 12345}, {"memory": -4096}]


@pytest.mark.parametrize("bad", BAD)
async def test_impossible_machines_are_refused(bad: dict[str, int]) -> None:
    before = descriptors()
    with pytest.raises((UsageError, AsyncKvmError)):
        await Machine.open(**{"vcpus": 1, "memory": SMALL, **bad})
    assert (vcpu_threads(), descriptors()) == ([], before)


async def test_a_fork_of_the_host_may_not_touch_the_machine(machine: Machine) -> None:
    """The child is told clearly; the parent's machine goes on."""
    witness = await Witness(machine).prepare()
    space = create_space(machine, SYSCALL_LOOP)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = b"nothing raised"
        try:
            space.read(DATA, 8)
        except HostForkedError:
            verdict = b"HostForkedError"
        except BaseException as error:  # noqa: BLE001  the child must end here whatever happens
            verdict = repr(error).encode()
        os.write(writer, verdict)
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000)  # at once, or nothing at its end
    os.close(reader)
    os.waitpid(child, 0)
    assert said == b"HostForkedError"
    await witness.check()


async def test_every_vcpu_thread_is_the_machine_s_own() -> None:
    async with Machine.open(vcpus=3, memory=SMALL) as machine:
        mine = sorted(vcpu_threads())
        assert len(mine) == 3
        others = len(os.listdir("/proc/self/task"))
        guests = [Guest(machine, SYSCALL_LOOP) for _ in range(50)]
        for _ in range(5):
            exits = await asyncio.gather(*(guest.run() for guest in guests))
            assert all(isinstance(exit_, Syscall) for exit_ in exits)
        assert sorted(vcpu_threads()) == mine
        assert len(os.listdir("/proc/self/task")) == others
    assert not vcpu_threads()


async def test_interrupted_is_all_a_closed_context_would_have_seen(machine: Machine) -> None:
    """A bounce that comes with the closing is one or the other, never lost."""
    guest = Guest(machine, COUNT)
    task = asyncio.create_task(guest.context.switch())
    await until_counting(guest)
    guest.context.interrupt()
    await machine.close()
    async with asyncio.timeout(RUN_SECONDS):
        (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, Interrupted | ClosedError), result
