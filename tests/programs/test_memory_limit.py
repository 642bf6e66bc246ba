"""The memory of a sandbox is one number for all its processes: who goes beyond dies, and what is given back others have."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from asynckvm.platform import Machine
from asynckvm.sandbox import Limits, Sandbox
from asynckvm.sandbox.result import Reason

Build: TypeAlias = Callable[..., Path]

LIMITS = Limits(memory=64 << 20)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("forked", b"read: 1\nwrote: 137\ndone\n"),
        ("again", b"done\n"),
        ("shared", b"first 1, second 0\ndone\n"),
        ("together", None),
        ("call", None),
    ],
)
async def test_one_bound_for_all(case: str, said: bytes | None, build: Build) -> None:
    program = build("memory_limit")
    async with Machine.open(memory=256 << 20) as machine:
        async with Sandbox(machine=machine, binds=[(str(program), "/program", "ro")], limits=LIMITS) as sandbox:
            result = await sandbox.run(["/program", case], timeout=30)
            if said is None:
                assert (result.reason, result.signal, result.stdout) == (Reason.MEMORY, signal.SIGKILL, b"")
            else:
                assert (result.reason, result.returncode, result.stdout) == (Reason.EXITED, 0, said), result
            # The sandbox goes on.
            assert (await sandbox.run(["/program", "nothing"], timeout=30)).stdout == b"done\n"
        async with asyncio.timeout(20):
            while machine.counters().memory.frames_used:  # a vCPU clears the tables of what is gone
                await asyncio.sleep(0.001)
