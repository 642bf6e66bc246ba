"""One machine for each test, shared by its sandboxes; afterwards nothing of them may be left in it, nor in this process."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import pytest

from asynckvm.platform import Machine
from asynckvm.sandbox import Sandbox
from support import descriptors
from support.pace import paced

SECONDS = paced(20)


def held(machine: Machine) -> tuple[int, ...]:
    """Frames, tables, spaces, frames in limbo, mapped files, contexts; descriptors and asyncio tasks of this process."""
    counters = machine.counters()
    memory = counters.memory
    return (
        memory.frames_used,
        memory.tables_used,
        memory.spaces,
        memory.limbo_frames,
        memory.file_slots,
        counters.contexts,
        descriptors.count(),
        len(asyncio.all_tasks()),
    )


async def nothing_is_left(machine: Machine, before: tuple[int, ...]) -> None:
    until = time.monotonic() + SECONDS
    while (now := held(machine)) != before:
        assert time.monotonic() < until, f"left behind: {now}, at first {before}"
        await asyncio.sleep(0.01)  # between looks: dead spaces are reaped when their vCPUs come by


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    async with Machine.open(vcpus=2, memory=1 << 30) as machine:
        async with Sandbox(machine=machine) as sandbox:
            await sandbox.run(["true"])  # what is made once is made now
        await asyncio.sleep(0)
        counters = machine.counters()
        until = time.monotonic() + SECONDS
        while machine.counters().memory.spaces:
            assert time.monotonic() < until, counters
            await asyncio.sleep(0.01)
        gc.collect()  # what earlier tests have left is none of this one's
        before = held(machine)
        yield machine
        await nothing_is_left(machine, before)


@pytest.fixture
async def sandbox(machine: Machine) -> AsyncIterator[Sandbox]:
    async with Sandbox(machine=machine) as sandbox:
        yield sandbox
