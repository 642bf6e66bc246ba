"""Reads of plain files, which vCPUs answer by themselves: sources/direct_reads.c natively and as a guest."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.sandbox import Bind, CompletedProcess, Reason, Sandbox
from programs.conftest import SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from asynckvm.platform import Machine

CASES = ("mixed", "shared", "executed", "threads", "races", "memory", "changes", "watched", "interrupted", "counted")
WORDS = 400_000
PREAD64 = 17
TAGS = {"numbers": 0, "others": 1 << 40, "wrong": 1 << 41}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A folder with the files of the program."""
    for name, tag in TAGS.items():
        (tmp_path / name).write_bytes(struct.pack(f"<{WORDS}Q", *range(tag, tag + WORDS)))
    return tmp_path


@pytest.fixture
async def writable(words: Path, built: Path, machine: Machine) -> AsyncIterator[Sandbox]:
    binds = [Bind(str(words), str(words), writable=True), Bind(str(built), str(built))]
    async with Sandbox(machine=machine, binds=binds, cwd=str(words)) as sandbox:
        yield sandbox


@pytest.mark.parametrize("case", CASES)
async def test_what_is_read(case: str, build: Callable[..., Path], words: Path, native: Any, writable: Sandbox) -> None:
    argv = [str(build("direct_reads")), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b""), expected.stdout
    result = await writable.run(argv, timeout=SECONDS)
    assert (result.returncode, result.stdout) == (0, expected.stdout)


async def test_calls_are_counted(build: Callable[..., Path], writable: Sandbox) -> None:
    result = await writable.run([str(build("direct_reads")), "counted"], timeout=SECONDS)
    counts = result.syscalls
    assert counts["pread64"] == 200
    assert counts["lseek"] == 100
    assert 300 < counts["read"] < 310


def native_exits(machine: Machine) -> int:
    return sum(vcpu.native_exits for vcpu in machine.counters().vcpus)


async def test_endless_reads_end(build: Callable[..., Path], machine: Machine, writable: Sandbox) -> None:
    argv = [str(build("direct_reads")), "endless"]

    async def begin() -> asyncio.Task[CompletedProcess]:
        """And wait until it reads."""
        running = asyncio.create_task(writable.run(argv, timeout=SECONDS))
        async with asyncio.timeout(SECONDS):
            while sum(task.direct_calls[PREAD64] for task in writable.kernel.tasks.values()) <= 500:
                await asyncio.sleep(0.01)
        return running

    before = native_exits(machine)
    running = await begin()
    writable.kernel.kill_all("enough")
    result = await running
    assert (result.reason, result.detail, result.stdout) == (Reason.CLOSED, "enough", b"begin\n")
    # It was really there, and not in the kernel in Python.
    assert 500 < result.syscalls["pread64"] <= native_exits(machine) - before
    running = await begin()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_position_shared_with_the_host(words: Path, writable: Sandbox) -> None:
    """Standard input is the caller's open file: what a guest read of it is gone for the caller, and the other way round."""
    fd = os.open(words / "numbers", os.O_RDONLY)
    try:
        assert os.read(fd, 8) == struct.pack("<Q", 0)
        result = await writable.run(["dd", "bs=8", "count=5", "status=none"], input=fd, timeout=SECONDS)
        assert result.stdout == struct.pack("<5Q", *range(1, 6))
        assert os.read(fd, 8) == struct.pack("<Q", 6)
    finally:
        os.close(fd)
