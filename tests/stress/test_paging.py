"""Page tables under load: more spaces than PCIDs, edits from several sides at once, frames that change owners all the time."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from kvm.guestcode import CODE, EXECUTE, HUGE_PAGE, PAGE, READ, WRITE, Guest, assemble, keep

from asynckvm.model.exits import Fault, Syscall
from asynckvm.platform import Machine
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.guests, pytest.mark.stress]

LONG = os.environ.get("ASYNCKVM_LONG") == "1"
SECONDS = 60.0 if LONG else 6.0
AREA = 0x60000000
# Load from (RDI), store RSI there, tell what was there before.
EXCHANGE = "1: movq (%rdi), %rbx; movq %rsi, (%rdi); syscall; jmp 1b"


@pytest_asyncio.fixture(
    params=[
        pytest.param({}, id="as probed"),
        pytest.param(
            {"guest_edits": True}, id="edits by ring 0", marks=pytest.mark.kvm_only("page tables are changed by ring 0")
        ),
        pytest.param({"pcid": False}, id="no PCID", marks=pytest.mark.kvm_only("there are no PCIDs elsewhere")),
    ]
)
async def machine(kept: None, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    async with Machine.open(vcpus=2, memory=128 << 20, **request.param) as machine:
        yield machine


async def test_more_spaces_than_pcids(machine: Machine) -> None:
    """Thirty spaces with the same addresses, in random order on both vCPUs: each finds its own memory."""
    source = random.Random(21)
    guests = [Guest(machine, EXCHANGE, rdi=AREA) for _ in range(30)]
    last = [0] * len(guests)
    for guest in guests:
        guest.space.map(AREA, PAGE, READ | WRITE)
    until = time.monotonic() + SECONDS / 2
    turn = 0
    while time.monotonic() < until:
        chosen = source.sample(range(len(guests)), 6)
        for number in chosen:
            turn += 1
            guests[number]["rsi"] = turn << 8 | number
        exits = await asyncio.gather(*(guests[number].run() for number in chosen))
        assert all(isinstance(exit_, Syscall) for exit_ in exits), exits
        for number in chosen:
            assert guests[number]["rbx"] == last[number]
            last[number] = guests[number]["rsi"]
        if turn % 5 == 0:  # a change of one space must not be missed by any vCPU, nor hit another space
            victim = source.choice(chosen)
            guests[victim].space.discard(AREA, PAGE)
            last[victim] = 0


async def test_a_space_that_dies_leaves_no_translation(machine: Machine) -> None:
    """Spaces are born and die at the same addresses as fast as they can; a new one never sees an old one's bytes."""
    until = time.monotonic() + SECONDS / 2
    turn = 0
    elder = Guest(machine, EXCHANGE, rdi=AREA)
    elder.space.map(AREA, HUGE_PAGE, READ | WRITE)
    seen = 0
    while time.monotonic() < until:
        turn += 1
        guests = [Guest(machine, EXCHANGE, rdi=AREA + source * PAGE, rsi=turn << 4 | source) for source in range(2)]
        for guest in guests:
            guest.space.map(AREA, HUGE_PAGE if turn % 2 else 8 * PAGE, READ | WRITE)
        elder["rsi"] = turn
        exits = await asyncio.gather(*(guest.run() for guest in [*guests, elder]))
        assert all(isinstance(exit_, Syscall) for exit_ in exits), exits
        assert [guest["rbx"] for guest in guests] == [0, 0], "memory of somebody dead"
        assert elder["rbx"] == seen
        seen = turn
        for guest in guests:
            guest.close()
    assert turn > 20


async def test_edits_while_two_guests_run_in_the_space(machine: Machine) -> None:
    """Changes beside two running threads of the same space: these fault or see whole values, never others."""
    source = random.Random(22)
    pages = 64
    code = "1: movq (%rdi,%r8), %rbx; movq %rbx, %rsi; addq $4096, %r8; andq $0x3ffff, %r8; incq %r9; syscall; jmp 1b"
    space = keep(machine.create_address_space())
    space.map(CODE, PAGE, READ | EXECUTE)
    space.write(CODE, assemble(code), force=True)
    space.map(AREA, pages * PAGE, READ | WRITE)
    guests = [Guest(machine, space=space, rdi=AREA, r8=number * 32 * PAGE) for number in range(2)]
    valid = {0}
    stop = asyncio.Event()
    looks = [0, 0]

    async def look(number: int) -> None:
        guest = guests[number]
        while not stop.is_set():
            exit_ = await guest.run()
            if isinstance(exit_, Fault):
                assert (exit_.signal, AREA <= exit_.address < AREA + pages * PAGE) == (11, True), exit_
                guest["r8"] = (guest["r8"] + PAGE) & 0x3FFFF
                continue
            assert guest["rbx"] in valid, hex(guest["rbx"])
            looks[number] += 1

    tasks = [asyncio.create_task(look(number)) for number in range(2)]
    until, turn = time.monotonic() + SECONDS / 2, 0
    while time.monotonic() < until:
        turn += 1
        first = source.randrange(pages)
        length = min(source.choice((1, 2, 7, 64)), pages - first) * PAGE
        address = AREA + first * PAGE
        value = 0xABCD000000000000 | turn
        valid.add(value)
        space.map(address, length, READ | WRITE)
        space.write(address, value.to_bytes(8, "little") * (length // 8))
        await asyncio.sleep(0)
        change = source.randrange(4)
        if change == 0:
            space.protect(address, length, READ)
        elif change == 1:
            space.unmap(address, length)
        elif change == 2:
            space.discard(address, length)
        else:
            child = keep(space.fork())
            assert child.read(address, 8) == value.to_bytes(8, "little")
            child.close()
    stop.set()
    await asyncio.gather(*tasks)
    assert turn > 20
    assert min(looks) > 20


async def test_memory_comes_back_whole(machine: Machine) -> None:
    """Frames, tables and slots after a storm of forks and splits are what they were before it."""
    source = random.Random(23)
    start = machine.counters().memory
    for _ in range(4 if not LONG else 40):
        spaces = []
        root = keep(machine.create_address_space())
        root.map(AREA, 4 * HUGE_PAGE, READ | WRITE)
        root.write(AREA, b"\x55" * (4 * HUGE_PAGE))
        spaces.append(root)
        for _ in range(12):
            child = keep(source.choice(spaces).fork())
            for _ in range(6):
                place = AREA + source.randrange(4 * 512) * PAGE
                child.write(place, b"\xaa" * 8, force=True)
                child.protect(AREA + source.randrange(4) * HUGE_PAGE + 16 * PAGE, 8 * PAGE, READ)
            spaces.append(child)
        guests = [Guest(machine, space=space, entry=AREA) for space in spaces]
        exits = await asyncio.gather(*(guest.run() for guest in guests))
        assert all(isinstance(exit_, Fault) for exit_ in exits), "no page here is executable"
        for guest in guests:
            guest.close()
        source.shuffle(spaces)
        for space in spaces:
            space.close()
    async with asyncio.timeout(paced(20)):
        while True:
            now = machine.counters().memory
            if (now.frames_used, now.tables_used, now.spaces) == (start.frames_used, start.tables_used, start.spaces):
                break
            await asyncio.sleep(0)
