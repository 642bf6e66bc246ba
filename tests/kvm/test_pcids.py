"""Translations that outlive a switch: with PCIDs a processor keeps those of a space while others run, so each change must reach
what it kept, on every vCPU. The same without PCIDs, where each switch drops them all.

Each test leaves translations behind, changes what they stand for while their space is away, and looks whether they are used.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from kvm.guestcode import CODE, DATA, PAGE, READ, WRITE, Guest, assemble, create_space, keep

from asynckvm.model.exits import Fault, Interrupted, Syscall
from asynckvm.platform import Access, Machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from asynckvm.platform import AddressSpace

# enum AKVM_PCIDS of the core: one vCPU lends as many at a time.
PCIDS = 8
AREA = 0x60000000
# Tell what is at (RDI), then store RSI there; or only look.
EXCHANGE = "1: movq (%rdi), %rbx; movq %rsi, (%rdi); syscall; jmp 1b"
LOOK = "1: movq (%rdi), %rbx; syscall; jmp 1b"
# Keep using the page at (RDI), counting at (R8), so that the host sees that a vCPU has the translation; R9: what was there.
USE = "1: movq (%rdi), %r9; movq %r9, (%rdi); lock incq (%r8); pause; jmp 1b"
USE_ADDRESS = CODE + PAGE

MODES = {"PCIDs": True, "no PCIDs": False}


async def machine_with(vcpus: int, pcid: bool) -> AsyncIterator[Machine]:
    async with Machine.open(vcpus=vcpus, memory=64 << 20, pcid=pcid) as machine:
        if pcid and not machine.capabilities.pcid:
            pytest.skip("no PCIDs in guests here")
        yield machine


@pytest_asyncio.fixture(params=MODES)
async def machine(kept: None, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    async for machine in machine_with(2, MODES[request.param]):
        yield machine


@pytest_asyncio.fixture(params=MODES)
async def small_machine(kept: None, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    async for machine in machine_with(1, MODES[request.param]):
        yield machine


def create_area(machine: Machine) -> AddressSpace:
    """A space with the programs, and a page at AREA that says 7."""
    space = create_space(machine, LOOK)
    space.write(USE_ADDRESS, assemble(USE), force=True)
    space.map(AREA, PAGE, READ | WRITE)
    space.write(AREA, (7).to_bytes(8, "little"))
    return space


async def passed(guest: Guest) -> int:
    """What EXCHANGE or LOOK saw."""
    exit_ = await guest.run()
    assert isinstance(exit_, Syscall), exit_
    return guest["rbx"]


class Users:
    """As many contexts of one space as there are vCPUs."""

    def __init__(self, machine: Machine, space: AddressSpace) -> None:
        self.space = space
        self.guests = [Guest(machine, space=space) for _ in range(machine.config.vcpus)]

    async def use(self) -> None:
        """Use AREA on every vCPU at once, and go."""
        counters = [DATA + PAGE * (1 + number) for number in range(len(self.guests))]
        for guest, counter in zip(self.guests, counters, strict=True):
            guest.go(USE_ADDRESS, rdi=AREA, r8=counter)
            guest.space.write(counter, bytes(8))
        tasks = [asyncio.create_task(guest.run()) for guest in self.guests]
        async with asyncio.timeout(20):
            while not all(guest.word(counter) for guest, counter in zip(self.guests, counters, strict=True)):
                await asyncio.sleep(0)
        for guest in self.guests:
            guest.context.interrupt()
        exits = await asyncio.gather(*tasks)
        assert all(isinstance(exit_, Interrupted) for exit_ in exits), exits

    async def exits(self, code: int, **registers: int) -> list[Fault | Syscall]:
        """Run all of them again, at once."""
        for guest in self.guests:
            guest.go(code, rdi=AREA, **registers)
        found = await asyncio.gather(*(guest.run() for guest in self.guests))
        return [exit_ for exit_ in found if isinstance(exit_, Fault | Syscall)]


CHANGES: dict[str, tuple[Callable[[AddressSpace], None], Access | None, int]] = {
    # What is done to AREA; how a look or a store at it then fails, if it does; what is there if not.
    "unmap": (lambda space: space.unmap(AREA, PAGE), READ, 0),
    "no rights": (lambda space: space.protect(AREA, PAGE, Access.NONE), READ, 0),
    "read-only": (lambda space: space.protect(AREA, PAGE, READ), WRITE, 7),
    "discard": (lambda space: space.discard(AREA, PAGE), None, 0),
    "other page": (lambda space: space.map(AREA, PAGE, READ | WRITE), None, 0),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_reaches_translations_kept_on_every_vcpu(machine: Machine, change: str) -> None:
    """Used on both vCPUs, then another space on both, then the change: neither vCPU uses what it kept."""
    act, refused, value = CHANGES[change]
    users, others = Users(machine, create_area(machine)), Users(machine, create_area(machine))
    program = EXCHANGE if refused == WRITE else LOOK
    users.space.write(CODE, assemble(program), force=True)
    for _ in range(5):
        await users.use()
        await others.use()
        act(users.space)
        for exit_, guest in zip(await users.exits(CODE), users.guests, strict=True):
            if refused is None:
                assert isinstance(exit_, Syscall), exit_
            else:
                assert isinstance(exit_, Fault), "a translation was used that the change had ended"
                assert (exit_.address, exit_.access) == (AREA, refused)
            assert guest["rbx"] == value
        assert await passed(others.guests[0].go(rdi=AREA)) == 7
        users.space.map(AREA, PAGE, READ | WRITE)
        users.space.write(AREA, (7).to_bytes(8, "little"))


async def test_a_fork_ends_the_right_to_write_that_was_kept(machine: Machine) -> None:
    """The parent's translations allow stores; after the fork a store through one of them would reach the child."""
    parent, others = Users(machine, create_area(machine)), Users(machine, create_area(machine))
    parent.space.write(CODE, assemble(EXCHANGE), force=True)
    for turn in range(5):
        await parent.use()
        await others.use()
        before = parent.space.read(AREA, 8)
        child = keep(parent.space.fork())
        exits = await parent.exits(CODE, rsi=0x100 + turn)
        assert all(isinstance(exit_, Syscall) for exit_ in exits), exits
        assert int.from_bytes(parent.space.read(AREA, 8), "little") == 0x100 + turn
        assert child.read(AREA, 8) == before, "the parent wrote to the child's memory"
        reader = Guest(machine, space=child, rdi=AREA)
        reader.load(LOOK)
        assert await passed(reader) == int.from_bytes(before, "little")
        reader.close()
        child.close()


async def test_more_spaces_than_pcids_each_see_their_own(small_machine: Machine) -> None:
    """Twice as many on one vCPU, first in turn, then in random order with changes in between."""
    source = random.Random(31)
    guests = [Guest(small_machine, EXCHANGE, rdi=AREA) for _ in range(2 * PCIDS)]
    for guest in guests:
        guest.space.map(AREA, PAGE, READ | WRITE)
    expected = [0] * len(guests)
    order = [*range(len(guests))] * 3 + [source.randrange(len(guests)) for _ in range(150)]
    switches = small_machine.counters().vcpus[0].space_switches
    for turn, number in enumerate(order, 1):
        guests[number]["rsi"] = turn << 8 | number
        assert await passed(guests[number]) == expected[number]
        expected[number] = turn << 8 | number
        if turn > 3 * len(guests) and source.random() < 0.3:
            changed = source.randrange(len(guests))
            guests[changed].space.discard(AREA, PAGE)
            expected[changed] = 0
    # Each change of guests was one of spaces.
    changes = sum(one != other for one, other in itertools.pairwise(order))
    if small_machine.platform == "kvm":  # elsewhere nothing is loaded for a switch
        assert small_machine.counters().vcpus[0].space_switches - switches >= changes


@pytest.mark.kvm_only("counts loads of the page tables")
async def test_switches_flush_only_when_they_must(small_machine: Machine) -> None:
    """Counted: none while there is a PCID for each space, one for a space that changed, all when there are too many in turn."""
    guests = [Guest(small_machine, LOOK, rdi=AREA) for _ in range(PCIDS + 1)]
    for guest in guests:
        guest.space.map(AREA, PAGE, READ | WRITE)

    async def flushes(order: Iterable[int]) -> tuple[int, int]:
        """Loads of CR3 that kept nothing, and all, while these guests take turns."""
        before = small_machine.counters().vcpus[0]
        for number in order:
            assert await passed(guests[number]) == 0
        after = small_machine.counters().vcpus[0]
        return after.space_flushes - before.space_flushes, after.space_switches - before.space_switches

    kept = small_machine.capabilities.pcid
    await flushes([*range(PCIDS)] * 2)
    flushed, switched = await flushes([*range(PCIDS)] * 3)
    assert switched >= 3 * PCIDS
    assert flushed == 0 if kept else flushed == switched
    guests[3].space.discard(AREA, PAGE)
    flushed, switched = await flushes(range(PCIDS))
    assert flushed == 1 if kept else flushed == switched
    flushed, switched = await flushes([*range(PCIDS + 1)] * 3)
    assert flushed >= 2 * (PCIDS + 1)


async def test_a_pcid_of_the_dead_shows_nothing_of_them(machine: Machine) -> None:
    """Spaces that come and go at the same addresses, beside one that stays: memory starts zeroed, the elder's stays its own."""
    elder = Guest(machine, EXCHANGE, rdi=AREA)
    elder.space.map(AREA, PAGE, READ | WRITE)
    for turn in range(1, 3 * PCIDS):
        guests = [Guest(machine, EXCHANGE, rdi=AREA, rsi=turn << 8 | number) for number in range(2)]
        for guest in guests:
            guest.space.map(AREA, PAGE, READ | WRITE)
        elder["rsi"] = turn
        exits = await asyncio.gather(*(guest.run() for guest in (*guests, elder)))
        assert all(isinstance(exit_, Syscall) for exit_ in exits), exits
        assert [guest["rbx"] for guest in guests] == [0, 0], "somebody dead is still to be seen"
        assert elder["rbx"] == turn - 1
        for guest in guests:
            guest.close()


async def test_an_entry_cut_short_does_not_count_as_a_flush(small_machine: Machine) -> None:
    """Bounced around the moment of entry, where CR3 may or may not have been loaded: the change is seen all the same."""
    source = random.Random(32)
    guest, other = Guest(small_machine, EXCHANGE, rdi=AREA), Guest(small_machine, LOOK, rdi=AREA)
    for each in (guest, other):
        each.space.map(AREA, PAGE, READ | WRITE)
    cuts = 0
    for turn in range(1, 60):
        # Leave a translation behind, go elsewhere, change.
        assert await unless_bounced(guest.go(rdi=AREA, rsi=turn)) == 0
        assert await passed(other) == 0
        guest.space.discard(AREA, PAGE)
        guest.go(rdi=AREA, rsi=turn)
        for _ in range(source.randrange(1, 4)):
            task = asyncio.create_task(guest.context.switch())
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
            guest.context.interrupt()
            if isinstance(await task, Syscall):
                break
            cuts += 1
            if source.random() < 0.5:
                assert await passed(other) == 0
        else:
            await unless_bounced(guest)
        assert guest["rbx"] == 0, "seen through a translation that the change had ended"
        guest.space.discard(AREA, PAGE)
    assert cuts


async def unless_bounced(guest: Guest) -> int:
    """As passed(); a bounce that met an exit is still due, and comes first."""
    while isinstance(exit_ := await guest.run(), Interrupted):
        pass
    assert isinstance(exit_, Syscall), exit_
    return guest["rbx"]
