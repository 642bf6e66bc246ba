"""Sandbox.run(): what a command is given, and what its result says."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest

import asynckvm
from asynckvm.errors import ClosedError, UsageError
from asynckvm.linux import ArgumentsTooLongError, ElfError
from asynckvm.platform import Machine
from asynckvm.sandbox import Bind, CompletedProcess, ProcessError, Reason, Sandbox
from asynckvm.sandbox.sandbox import CLOSED
from support import descriptors


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


async def test_a_result_says_everything(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("echo out; echo err >&2; exit 3"))
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert (result.reason, result.signal, result.fault, result.detail) == (Reason.EXITED, None, None, "")
    assert result.args == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert 0 < result.cpu_time < result.wall_time
    assert result.peak_memory > 4096
    assert result.syscalls["write"] >= 2
    assert str(result) == "exited with 3"


async def test_a_death_is_told(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("kill -SEGV $$"))
    assert (result.returncode, result.reason, result.signal, result.fault) == (-11, Reason.SIGNALED, signal.SIGSEGV, None)
    assert str(result) == "killed by SIGSEGV"
    result = await sandbox.run(["python3", "-S", "-c", "import ctypes; ctypes.string_at(8)"])
    assert (result.reason, result.signal) == (Reason.SIGNALED, signal.SIGSEGV)
    assert result.fault is not None
    assert result.fault.address == 8


@pytest.mark.parametrize("data", [b"", b"some\n", bytes(range(256)) * 4096])
async def test_input(sandbox: Sandbox, data: bytes) -> None:
    assert (await sandbox.run(["cat"], input=data)).stdout == data


async def test_no_input_and_closed_streams(sandbox: Sandbox) -> None:
    assert (await sandbox.run(["cat"], input=None)).stdout == b""
    assert (await sandbox.run(["cat"], input=CLOSED)).returncode == 1
    result = await sandbox.run(shell("echo > /dev/null; ls -l /proc/self/fd | wc -l"), stderr=CLOSED)
    assert result.stderr == b""
    assert (await sandbox.run(["echo", "x"], stdout=CLOSED)).returncode == 1


async def test_descriptors_of_the_host(sandbox: Sandbox, tmp_path: Path) -> None:
    """They stay the caller's, and what is behind them is used where it is."""
    (tmp_path / "in").write_bytes(b"first\nsecond\n")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        result = await sandbox.run(["cat"], input=given.fileno(), stdout=out.fileno(), stderr=out.fileno())
        assert not os.get_inheritable(given.fileno())
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert (tmp_path / "out").read_bytes() == b"first\nsecond\n"


async def test_the_environment_is_its_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    plain = (await sandbox.run(["env"])).stdout
    assert b"secret" not in plain
    assert b"LANG=C.UTF-8\n" in plain
    chosen = await sandbox.run(["/usr/bin/env"], env={"A": "b=c", "EMPTY": ""})
    assert sorted(chosen.stdout.splitlines()) == [b"A=b=c", b"EMPTY="]


async def test_directories(sandbox: Sandbox) -> None:
    assert (await sandbox.run(["pwd"])).stdout == b"/work\n"
    assert (await sandbox.run(["pwd"], cwd="/tmp")).stdout == b"/tmp\n"
    for missing, error in (("/nowhere", FileNotFoundError), ("/usr/bin/env", NotADirectoryError)):
        with pytest.raises(error):
            await sandbox.run(["pwd"], cwd=missing)


async def test_files_last_as_long_as_the_sandbox(sandbox: Sandbox, machine: Machine) -> None:
    await sandbox.run(shell("echo kept > file"), check=True)
    assert (await sandbox.run(["cat", "file"])).stdout == b"kept\n"
    async with Sandbox(machine=machine) as other:
        assert (await other.run(["cat", "file"])).returncode == 1


async def test_binds(machine: Machine, tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("of the host\n")
    (tmp_path / "one").write_text("one\n")
    (tmp_path / "rw" / "out").symlink_to("../ro/file")
    binds = [f"{tmp_path}/ro:/ro", (str(tmp_path / "rw"), "/data/deep/rw", "rw"), Bind(str(tmp_path / "one"), "/one")]
    async with Sandbox(machine=machine, binds=binds) as sandbox:
        assert (await sandbox.run(["cat", "/ro/file", "/data/deep/rw/file", "/one"])).stdout == b"of the host\n" * 2 + b"one\n"
        for path in ("/ro/file", "/ro/new", "/one", "/usr/bin/new"):
            result = await sandbox.run(shell(f"echo no > {path}"))
            assert result.returncode != 0
            assert b"Read-only file system" in result.stderr
        await sandbox.run(shell("cd /data/deep/rw; echo yes > file; mkdir new"), check=True)
        assert (await sandbox.run(["cat", "/data/deep/rw/out"])).returncode == 1, "a link leads out of what is bound"
        sandbox.bind((str(tmp_path / "ro"), "/late"))
        assert (await sandbox.run(["cat", "/late/file"])).stdout == b"of the host\n"
        assert sandbox.has("/late/file")
        assert not sandbox.has(str(tmp_path))
    assert (tmp_path / "rw" / "file").read_text() == "yes\n"
    assert (tmp_path / "rw" / "new").is_dir()
    assert (tmp_path / "ro" / "file").read_text() == "of the host\n"


async def test_nothing_else_of_the_host_is_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for path in (str(tmp_path / "secret"), "/etc/shadow", f"/proc/{os.getpid()}/environ", "/root/.ssh", "/dev/kvm"):
        assert (await sandbox.run(["cat", path])).returncode == 1, path
    assert (await sandbox.run(["ls", "/home", "/root", "/tmp", "/work"])).stdout.split() == [
        b"/home:",
        b"/root:",
        b"/tmp:",
        b"/work:",
    ]


async def test_checked(sandbox: Sandbox) -> None:
    assert (await sandbox.run(["true"], check=True)).returncode == 0
    with pytest.raises(ProcessError) as caught:
        await sandbox.run(shell("echo why >&2; exit 4"), check=True)
    assert (caught.value.result.returncode, caught.value.result.stderr) == (4, b"why\n")
    with pytest.raises(ProcessError, match="timeout"):
        await sandbox.run(["sleep", "100"], timeout=0.05, check=True)


async def test_what_cannot_be_run(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"just text\n")
    (tmp_path / "text").chmod(0o755)
    sandbox.bind((str(tmp_path), "/here"))
    for name, error in (
        ("no-such-command", FileNotFoundError),
        ("/no/such/file", FileNotFoundError),
        ("/etc/hostname", PermissionError),
        ("/usr/bin", PermissionError),
        ("/here/text", ElfError),
    ):
        with pytest.raises(error):
            await sandbox.run([name])
    with pytest.raises((ArgumentsTooLongError, OSError)):
        await sandbox.run(["echo", "x" * (4 << 20)])
    assert (await sandbox.run(["echo", "still", "well"])).stdout == b"still well\n"


async def test_bad_arguments(sandbox: Sandbox, machine: Machine) -> None:
    with pytest.raises(UsageError):
        await sandbox.run([])
    for bind in ("", "a:relative", "a:/b:c:d", ("/usr", "/x", "maybe"), ("/usr", "/x/../y")):
        with pytest.raises(UsageError):
            Sandbox(machine=machine, binds=[bind])  # type: ignore[list-item]
    for limits in ({"memory": 0}, {"processes": 0}, {"output": -1}, {"files": -1}):
        with pytest.raises(UsageError):
            asynckvm.Limits(**limits)
    with pytest.raises(FileNotFoundError):
        async with Sandbox(machine=machine, binds=["/nowhere/at/all"]):
            pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        await sandbox.run(["cat"], input=987)
    with pytest.raises(UsageError):
        await sandbox.__aenter__()


async def test_a_sandbox_that_cannot_be_entered_leaves_nothing_open(machine: Machine) -> None:
    before = descriptors.count()
    gc.disable()
    try:
        for binds in (["/nowhere/at/all"], ["/etc/passwd:/proc/x"], ["/etc/passwd:/usr/bin/absent"]):
            with pytest.raises(OSError):  # noqa: PT011  whichever
                await Sandbox(machine=machine, binds=binds).__aenter__()
            assert descriptors.count() == before
    finally:
        gc.enable()


async def test_a_closed_sandbox(machine: Machine) -> None:
    sandbox = Sandbox(machine=machine)
    with pytest.raises(ClosedError):
        await sandbox.run(["true"])
    async with sandbox:
        await sandbox.run(["true"], check=True)
    with pytest.raises(ClosedError):
        await sandbox.run(["true"])
    await sandbox.close()


async def test_a_machine_of_its_own() -> None:
    async with Sandbox() as sandbox:
        assert (await sandbox.run(["echo", "hi"])).stdout == b"hi\n"
        machine = sandbox.kernel.machine
    assert machine.closed


async def test_several_runs_see_each_other(sandbox: Sandbox) -> None:
    """Runs that overlap share files and process numbers."""
    waiting = asyncio.create_task(sandbox.run(shell("mkfifo pipe; read line < pipe; echo got $line")))
    await sandbox.run(shell("while ! [ -p pipe ]; do :; done; echo word > pipe"), timeout=20, check=True)
    assert (await waiting).stdout == b"got word\n"
    sleeper = asyncio.create_task(sandbox.run(shell("echo $$ > pid; exec sleep 100")))
    await sandbox.run(shell("while ! [ -s pid ]; do :; done; kill -TERM $(cat pid)"), timeout=20, check=True)
    assert (await sleeper).signal == signal.SIGTERM


async def test_many_sandboxes_on_one_machine(machine: Machine) -> None:
    async def one(number: int) -> CompletedProcess:
        async with Sandbox(machine=machine) as sandbox:
            await sandbox.run(shell(f"echo {number} > /tmp/mine"), check=True)
            return await sandbox.run(shell("cat /tmp/*; ls /proc | grep -c '^[0-9]'"))

    async with asyncio.timeout(50):
        results = await asyncio.gather(*(one(number) for number in range(20)))
    numbers = [result.stdout.split() for result in results]
    assert [int(found) for found, _ in numbers] == list(range(20))
    assert len({count for _, count in numbers}) == 1, "processes of others are seen"
