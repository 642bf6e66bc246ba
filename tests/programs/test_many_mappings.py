"""A program with as many mappings as it likes holds up nobody else, whatever it asks about them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from asynckvm.platform import Machine
from asynckvm.sandbox import Sandbox
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A few looks at 12,000 mappings from Python take longer.
STALL_SECONDS = 0.1


async def longest_stall(running: asyncio.Task[object]) -> float:
    """For how long others had to wait for the event loop."""
    worst, last = 0.0, time.monotonic()
    while not running.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        worst, last = max(worst, now - last), now
    return worst


async def test_nobody_waits(build: Callable[..., Path]) -> None:
    program = build("many_mappings")
    binds = [(str(program), "/program", "ro")]
    async with Machine.open(memory=512 << 20) as machine, Sandbox(machine=machine, binds=binds) as sandbox:
        running = asyncio.create_task(sandbox.run(["/program"], timeout=paced(50)))
        worst = await longest_stall(running)
        assert running.result().returncode == 0, running.result()
    assert worst < paced(STALL_SECONDS)
