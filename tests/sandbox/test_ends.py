"""How runs are ended from outside or by a limit: exactly, with all their processes, and without a trace."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from asynckvm.errors import ClosedError
from asynckvm.linux.syscalls.table import BY_NUMBER
from asynckvm.linux.task import Task
from asynckvm.platform import Machine
from asynckvm.sandbox import CompletedProcess, Limits, Reason, Sandbox

# What keeps going in its own ways: in ring 3, in a wait, in a call that is made again and again, in several processes.
ENDLESS = {
    "loop": "while :; do :; done",
    "sleep": "sleep 1000",
    "input": "mkfifo f; cat f",
    "calls": "while :; do cd /; done",
    "family": "sleep 1000 & sh -c 'while :; do :; done' & cat /dev/zero > /dev/null & wait",
    "deaf": "trap '' TERM INT HUP CHLD PIPE; while :; do sleep 1000; done",
    "session": "setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & wait' & sleep 1000",
    "births": "while :; do sleep 1000 & done",
}
SYNC = 162


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


@pytest.mark.parametrize("way", ENDLESS)
async def test_a_timeout(sandbox: Sandbox, way: str) -> None:
    started = time.monotonic()
    result = await sandbox.run(shell(f"echo begun; {ENDLESS[way]}"), timeout=1)
    assert 1 <= time.monotonic() - started < 20
    assert (result.reason, result.returncode, result.stdout) == (Reason.TIMEOUT, -9, b"begun\n")
    assert str(result) == "stopped: timeout"
    assert not sandbox.kernel.tasks
    assert not sandbox.kernel.processes


@pytest.mark.parametrize("way", ENDLESS)
async def test_cancelling(sandbox: Sandbox, machine: Machine, way: str) -> None:
    """The guest is dead before CancelledError leaves the call."""
    reading, writing = os.pipe()
    task = asyncio.create_task(sandbox.run(shell(f"echo begun; {ENDLESS[way]}"), stdout=writing))
    await asyncio.sleep(0)
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 100) == b"begun\n"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sandbox.kernel.tasks
    assert machine.counters().contexts == 0
    assert os.read(reading, 100) == b"", "nobody has its standard output open"
    os.close(reading)


async def test_cancelling_twice_waits_all_the_same(sandbox: Sandbox, machine: Machine) -> None:
    task = asyncio.create_task(sandbox.run(shell(ENDLESS["family"])))
    while not sandbox.kernel.tasks:
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert machine.counters().contexts == 0


async def test_cancelling_before_the_first_step(sandbox: Sandbox) -> None:
    task = asyncio.create_task(sandbox.run(["sleep", "1000"]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sandbox.kernel.tasks


async def test_a_cancelled_run_leaves_the_others_alone(sandbox: Sandbox) -> None:
    other = asyncio.create_task(sandbox.run(shell("read line; echo $line; exit 5"), input=b"well\n"))
    task = asyncio.create_task(sandbox.run(shell(ENDLESS["loop"])))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    result = await other
    assert (result.returncode, result.stdout) == (5, b"well\n")


async def test_what_a_run_leaves_behind_ends_with_it(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("(trap '' HUP TERM; while :; do :; done) & setsid sleep 1000 & sleep 1000 & exit 3"))
    assert (result.reason, result.returncode) == (Reason.EXITED, 3)
    assert not sandbox.kernel.tasks
    assert not sandbox.kernel.processes


async def test_closing_with_runs_under_way(machine: Machine) -> None:
    async with Sandbox(machine=machine) as sandbox:
        tasks = [asyncio.create_task(sandbox.run(shell(script))) for script in ENDLESS.values()]
        while len(sandbox.kernel.tasks) < len(tasks):
            await asyncio.sleep(0)
        kernel = sandbox.kernel
    assert not kernel.tasks
    for result in await asyncio.gather(*tasks):
        assert result.reason is Reason.CLOSED
        assert result.detail == "the sandbox was closed"


async def test_a_machine_closed_under_a_run() -> None:
    async with Machine.open(vcpus=1, memory=256 << 20) as machine, Sandbox(machine=machine) as sandbox:
        task = asyncio.create_task(sandbox.run(shell(ENDLESS["loop"])))
        while not sandbox.kernel.tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        await machine.close()
        with pytest.raises(ClosedError):
            await task


# ---------------------------------------------------------------- limits


async def limited(machine: Machine, command: list[str], **limits: int) -> CompletedProcess:
    async with Sandbox(machine=machine, limits=Limits(**limits)) as sandbox:
        result = await sandbox.run(command, timeout=30)
        # Whatever was too much for one is no harm to the next.
        assert (await sandbox.run(["echo", "well"], timeout=30)).stdout == b"well\n"
    return result


async def test_too_much_memory(machine: Machine) -> None:
    code = "x = []\nwhile True: x.append(bytearray(1 << 16))"
    result = await limited(machine, ["python3", "-S", "-c", code], memory=48 << 20)
    assert (result.reason, result.returncode) == (Reason.MEMORY, -9)
    assert 32 << 20 < result.peak_memory <= 48 << 20


async def test_too_much_memory_of_a_child_is_the_childs_end(machine: Machine) -> None:
    code = "import os\nif os.fork():\n print(os.wait()[1] & 127)\nelse:\n x = [bytearray(1 << 16) for _ in range(4000)]"
    result = await limited(machine, ["python3", "-S", "-c", code], memory=48 << 20)
    assert (result.reason, result.stdout) == (Reason.EXITED, b"9\n")


async def test_too_many_processes(machine: Machine) -> None:
    code = (
        "import os, signal, sys\nn = 0\n"
        "while True:\n"
        " try:\n  if not os.fork(): signal.pause()\n"
        " except BlockingIOError: break\n"
        " n += 1\n"
        "print(n)"
    )
    assert (await limited(machine, ["python3", "-S", "-c", code], processes=10)).stdout == b"9\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_too_much_output(machine: Machine, stream: str) -> None:
    script = f"sleep 1000 & yes >&{1 if stream == 'stdout' else 2}"
    result = await limited(machine, shell(script), output=100_000)
    assert (result.reason, result.returncode) == (Reason.OUTPUT, -9)
    assert getattr(result, stream) == b"y\n" * 50_000


async def test_output_up_to_the_limit_is_fine(machine: Machine) -> None:
    result = await limited(machine, shell("head -c 100000 /dev/zero"), output=100_000)
    assert (result.reason, len(result.stdout)) == (Reason.EXITED, 100_000)


async def test_too_much_in_files(machine: Machine) -> None:
    for path in ("/tmp/big", "/work/big", "/dev/shm/big", "/var/tmp/big"):
        result = await limited(machine, shell(f"head -c 40000000 /dev/zero > {path}; rm {path}; exit 7"), files=8 << 20)
        assert b"No space left on device" in result.stderr, path
        assert result.returncode == 7


async def test_a_limit_of_one_sandbox_is_not_the_next_ones(machine: Machine) -> None:
    greedy = ["python3", "-S", "-c", "x = bytearray(150 << 20); print(len(x))"]
    small, large = Limits(memory=32 << 20), Limits(memory=400 << 20)
    async with Sandbox(machine=machine, limits=small) as one, Sandbox(machine=machine, limits=large) as other:
        first, second = await asyncio.gather(one.run(greedy, timeout=30), other.run(greedy, timeout=30))
    assert first.reason is Reason.MEMORY
    assert second.stdout == b"157286400\n"


async def test_a_defect_of_ours_costs_one_process(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: Task) -> int:
        raise ZeroDivisionError("planted")

    monkeypatch.setitem(BY_NUMBER, SYNC, replace(BY_NUMBER[SYNC], handler=broken))
    with capture_logs() as logs:
        beside = asyncio.create_task(sandbox.run(shell("cat; echo well"), input=bytes(1 << 20)))
        result = await sandbox.run(shell("sync; echo $?; kill -0 $$ && exec sync"))
        assert (await beside).stdout[1 << 20 :] == b"well\n"
    assert (result.stdout, result.reason, result.returncode) == (b"137\n", Reason.INTERNAL, -9)
    assert result.detail == "internal error: ZeroDivisionError: planted"
    assert [entry["error"] for entry in logs if entry["event"] == "kernel_error"] == ["ZeroDivisionError('planted')"] * 2
    assert (await sandbox.run(["true"])).returncode == 0
