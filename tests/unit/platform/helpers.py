"""Small steps for tests of the engine: contexts that are ready to run, and turns of the loop instead of sleeps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.model.exits import Exit
    from asynckvm.platform import Context, Machine

SECONDS = 10
# Enough passes for anything that needs no outside event.
PASSES = 20


def contexts(machine: Machine, count: int) -> list[Context]:
    """Contexts of one new address space."""
    space = machine.create_address_space()
    return [machine.create_context(space) for _ in range(count)]


def index(context: Context) -> int:
    """How the core names a context."""
    assert context._passage is not None
    return context._passage.index


def switching(*those: Context) -> list[asyncio.Task[Exit]]:
    """A task in switch() for each context."""
    return [asyncio.create_task(context.switch()) for context in those]


async def passes(count: int = PASSES) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait, bounded, for something another thread or a timer brings about."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def close(*those: Context) -> None:
    """Close contexts and their address space."""
    for context in those:
        context.close()
    those[0].space.close()
