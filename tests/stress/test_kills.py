"""Kills at every moment of a guest's life: none is missed, none hits another, and what is not killed ends exactly.

ASYNCKVM_KILLS sets the number of runs (50,000 in a long test); half of them are shot at. `-rP` shows the report, and the junit
file has it as properties.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from typing import TYPE_CHECKING

import pytest
import structlog
from stress.kills import KILL_SECONDS, LIFE_SECONDS, Moment, Range, Tally
from stress.lives import Body, Life, Living, Nursery
from stress.programs import Programs, never

from asynckvm.errors import ClosedError
from asynckvm.platform import Machine
from support import descriptors
from support.pace import PACE

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.platform import AddressSpace, Context, MemoryCounters

pytestmark = [pytest.mark.guests, pytest.mark.stress]

KILLS = int(os.environ.get("ASYNCKVM_KILLS", "0")) or max(100, 1500 // PACE)
BODIES = 12
MEMORY = 256 << 20
# Of all shots at least this part finds its victim at each moment: the aim is good enough to mean something. In short runs on a
# crowded host it may be only one.
RARE, ENOUGH = 0.005, 2000


def used(memory: MemoryCounters) -> tuple[int, ...]:
    return (memory.frames_used, memory.tables_used, memory.spaces, memory.limbo_frames, memory.file_slots)


async def memory_comes_back(machine: Machine, before: MemoryCounters) -> None:
    until = time.monotonic() + LIFE_SECONDS
    while (now := used(machine.counters().memory)) != used(before):
        assert time.monotonic() < until, f"frames, tables, spaces, limbo, slots: {now}, not {used(before)}"
        await asyncio.sleep(0.01)  # between looks: dead spaces are reaped when their vCPUs come by


def show(report: dict[str, object], request: pytest.FixtureRequest) -> None:
    print("\n".join(f"{name}: {value}" for name, value in report.items()))
    request.node.user_properties.extend(report.items())


@pytest.mark.timeout(60 + KILLS // 20)
@pytest.mark.parametrize("vcpus", [2, 1])
async def test_kills_of_contexts(tmp_path: Path, request: pytest.FixtureRequest, vcpus: int) -> None:
    tally = Tally()
    runs = KILLS * 3 // 4 if vcpus == 2 else KILLS // 4
    started = time.monotonic()
    async with Machine.open(vcpus=vcpus, memory=MEMORY) as machine:
        with Nursery(machine, tmp_path) as nursery:
            range_ = Range(machine, tally)

            async def work(number: int) -> None:
                source = random.Random(f"kills {vcpus} {number}")
                body = Body(nursery)
                while tally.runs < runs:
                    await range_.one(body, source)
                body.close()

            async with asyncio.TaskGroup() as group:
                for number in range(BODIES):
                    group.create_task(work(number))
    report = tally.report() | {"runs a second": round(tally.runs / (time.monotonic() - started))}
    show(report, request)
    assert tally.runs >= runs
    assert tally.killed + tally.outlived == tally.shots >= 0.4 * runs
    assert tally.latency.worst < KILL_SECONDS, report
    if tally.shots >= 500:
        least = RARE * tally.shots if tally.shots >= ENOUGH else 1
        assert min(tally.moments[moment] for moment in Moment) >= least, report
        assert min(tally.kept, tally.owed, tally.resumed) > 0, report


@pytest.mark.timeout(60 + KILLS // 20)
async def test_kills_of_programs(request: pytest.FixtureRequest) -> None:
    runs = max(40, KILLS // 5)
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("busybox is not installed")
    reader, writer = never()
    started = time.monotonic()
    async with Machine.open(vcpus=2, memory=MEMORY) as machine:
        with structlog.testing.capture_logs() as events:
            programs = Programs(machine, path, reader)
            before = machine.counters().memory
            await programs.one(random.Random("what is made once"))
            await memory_comes_back(machine, before)
            held = descriptors.count()

            async def work(number: int) -> None:
                source = random.Random(f"programs {number}")
                while programs.runs < runs:
                    await programs.one(source)

            async with asyncio.TaskGroup() as group:
                for number in range(6):
                    group.create_task(work(number))
            await memory_comes_back(machine, before)
            assert descriptors.count() == held
    os.close(reader)
    os.close(writer)
    report = {
        "runs": programs.runs,
        "shots": programs.shots,
        "killed": programs.killed,
        "outlived, exact": programs.outlived,
        **{f"latency {name} ms": value for name, value in programs.latency.milliseconds().items()},
        "runs a second": round(programs.runs / (time.monotonic() - started)),
    }
    show(report, request)
    assert programs.killed + programs.outlived == programs.shots >= 0.4 * runs
    assert programs.latency.worst < KILL_SECONDS, report
    assert {event["event"] for event in events} <= {"program_killed"}, events


@pytest.mark.timeout(120)
async def test_closing_the_machine_kills_all(tmp_path: Path) -> None:
    """close() at a random moment: each switch() ends with ClosedError, unless its life had ended before, exactly.

    Everybody closes what is his at once, while the machine is still closing.
    """
    source = random.Random("close")
    rounds = max(3, KILLS // 250)
    threads, held = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    ended = killed = 0

    async def live(living: Living) -> str:
        try:
            return living.complaint(await living.run())
        except ClosedError:
            return "closed"
        finally:
            living.body.close()

    for _ in range(rounds):
        machine = await Machine.open(vcpus=source.choice((1, 2)), memory=64 << 20)
        nursery = Nursery(machine, tmp_path)
        lives = [Life.choose(source, endless=source.random() < 0.6) for _ in range(BODIES)]
        tasks = [asyncio.create_task(live(Living(Body(nursery), life, source))) for life in lives]
        await asyncio.sleep(source.choice((0, source.random() * 0.02)))
        async with asyncio.timeout(KILL_SECONDS):
            await machine.close()
            results = await asyncio.gather(*tasks)
        for life, result in zip(lives, results, strict=True):
            assert result in ({"closed"} if life.endless else {"closed", ""}), (life, result)
        killed += results.count("closed")
        ended += results.count("")
        nursery.close()
    assert min(ended, killed) > 0, (ended, killed)
    # One thread more: the executor's, which opens and closes machines.
    assert len(os.listdir("/proc/self/task")) <= threads + 1
    assert len(os.listdir("/proc/self/fd")) <= held


@pytest.mark.timeout(60)
async def test_what_is_closed_while_its_machine_closes() -> None:
    """Another thread frees the machine then; nobody may come in its way, whoever closes what, and when."""
    source = random.Random("closing")
    for _ in range(max(2, 10 // PACE)):
        machine = await Machine.open(vcpus=1, memory=64 << 20)
        spaces = [machine.create_address_space() for _ in range(200)]
        things: list[AddressSpace | Context] = [machine.create_context(space) for space in spaces]
        closing = asyncio.create_task(machine.close())
        source.shuffle(things)
        things = [*spaces, *things]
        async with asyncio.timeout(KILL_SECONDS):
            while not closing.done():
                await asyncio.sleep(0)
                if things:
                    things.pop().close()
            await closing
        assert machine.closed
        for thing in things:
            thing.close()
        for space in spaces:
            with pytest.raises(ClosedError):
                space.read(0x10000, 1)
