"""The asynckvm command from outside: output, statuses, messages, signals, and where each of them goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from asynckvm.cli.statuses import Status

Command: TypeAlias = Callable[..., Any]
Native: TypeAlias = Callable[..., Any]
Build: TypeAlias = Callable[..., Path]
SECONDS = 40


def lines(stderr: bytes) -> list[str]:
    text = stderr.decode()
    assert "Traceback" not in text
    return text.splitlines()


@pytest.mark.parametrize(
    "arguments", [["sha256sum", "/bin/busybox"], ["cat", "text"], ["wc"], ["sort", "text"], ["ls", "-l"], ["false"]], ids=" ".join
)
def test_equal_to_a_native_run(arguments: list[str], busybox: Path, native: Native, command: Command) -> None:
    argv = [str(busybox), *arguments]
    assert command("run", "--", *argv, stdin=b"a b\nc\n") == native(argv, b"a b\nc\n")


def test_a_program_is_found_through_path_and_its_options_are_its_own(busybox: Path, command: Command) -> None:
    assert command("run", "busybox", "echo", "--timeout", "--", "--json").stdout == b"--timeout -- --json\n"


def test_standard_output_of_every_kind(build: Build, folder: Path) -> None:
    argv = [sys.executable, "-m", "asynckvm", "run", "--", str(build("flood")), "3"]
    with (folder / "out").open("wb") as out:
        assert subprocess.run(argv, stdout=out, stderr=subprocess.DEVNULL, timeout=SECONDS).returncode == 0
    piped = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS)
    assert piped.stdout == (folder / "out").read_bytes()
    assert len(piped.stdout) == 3 << 20
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run(argv, stdout=full, stderr=subprocess.DEVNULL, timeout=SECONDS).returncode == 1
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as cut:
        assert cut.stdout is not None
        cut.stdout.read(10)
        cut.stdout.close()
        assert cut.wait(SECONDS) == 128 + signal.SIGPIPE


@pytest.mark.parametrize(("way", "number"), [("null", 11), ("abort", 6), ("divide", 8), ("illegal", 4), ("terminate", 15)])
def test_a_death_is_one_structured_line(way: str, number: int, build: Build, command: Command) -> None:
    result = command("run", "--", str(build("deaths")), way)
    assert result.returncode == 128 + number
    assert result.stdout == f"alive until {way}\n".encode()
    (line,) = lines(result.stderr)
    fields = dict(field.split("=", 1) for field in line.split(" "))
    assert fields["event"] == "program_killed"
    assert fields["signal"] == signal.Signals(number).name
    assert int(fields["rip"], 16) >= 0x10000
    if way == "null":
        assert (fields["address"], fields["access"], fields["code"]) == ("0x0", "write", "SEGV_MAPERR")


def damaged(folder: Path, source: Path, kind: str) -> Path:
    """A file that cannot be run."""
    data = bytearray(source.read_bytes())
    if kind == "truncated":
        del data[len(data) // 2 :]
    elif kind == "aarch64":
        data[18:20] = (183).to_bytes(2, "little")
    elif kind == "malformed":
        data[56:58] = bytes(2)
    elif kind == "not-elf":
        data[:] = b"just text\n"
    path = folder / kind
    path.write_bytes(data)
    path.chmod(0o644 if kind == "not-executable" else 0o755)
    return path


def test_what_cannot_be_run_has_a_status_of_its_own(folder: Path, build: Build, command: Command) -> None:
    source = build("spin")
    expected = {
        "/nowhere/at/all": Status.NOT_FOUND,
        "no-such-command-anywhere": Status.NOT_FOUND,
        str(folder): Status.DIRECTORY,
    }
    for kind, status in {
        "not-elf": Status.NOT_ELF,
        "aarch64": Status.ARCHITECTURE,
        "truncated": Status.TRUNCATED,
        "malformed": Status.MALFORMED,
        "not-executable": Status.PERMISSION,
    }.items():
        expected[str(damaged(folder, source, kind))] = status
    for path, status in expected.items():
        result = command("run", "--", path)
        assert result.returncode == status, path
        assert result.stdout == b""
        (line,) = lines(result.stderr)
        assert line.startswith(f"asynckvm: {path}: ")
    assert "aarch64" in command("run", "--", str(folder / "aarch64")).stderr.decode()


WITHOUT_KVM = """
import sys
from asynckvm import platform
from asynckvm.cli import main

real = platform.Machine.open
platform.Machine.open = lambda **options: real(**options, device="/nowhere/kvm")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["run", "--", "busybox", "true"], ["doctor"], ["doctor", "--json"]], ids=" ".join)
def test_without_kvm_it_says_what_to_do(arguments: list[str]) -> None:
    """A device that does not exist stands in for a host without KVM, which is asked for by name."""
    arguments = [arguments[0], "--platform", "kvm", *arguments[1:]]
    result = subprocess.run([sys.executable, "-c", WITHOUT_KVM, *arguments], capture_output=True, timeout=SECONDS)
    assert result.returncode == Status.UNUSABLE
    said = lines(result.stderr) if arguments[0] == "run" else [result.stdout.decode()]
    assert len(said) == 1
    assert "/nowhere/kvm" in said[0]
    assert "kvm_intel" in said[0]


def test_a_timeout_kills(build: Build, command: Command) -> None:
    started = time.monotonic()
    result = command("run", "--timeout", "0.5", "--", str(build("spin")))
    assert 0.5 <= time.monotonic() - started < 20
    assert (result.returncode, result.stdout) == (Status.TIMEOUT, b"spinning\n")
    (line,) = lines(result.stderr)
    assert "timeout" in line
    assert "0.5 s" in line


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, Status.INTERRUPTED), (signal.SIGTERM, 128 + signal.SIGTERM)], ids=["INT", "TERM"]
)
def test_a_signal_to_the_command_kills_the_program(number: int, status: int, build: Build) -> None:
    argv = [sys.executable, "-m", "asynckvm", "run", "--", str(build("spin"))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"spinning\n"
        running.send_signal(number)
        _, stderr = running.communicate(timeout=SECONDS)
    assert running.returncode == status
    assert lines(stderr)


def test_the_result_as_json_and_in_figures(build: Build, command: Command) -> None:
    result = command("run", "--json", "--stats", "--", str(build("deaths")), "null")
    *_, stats, last = lines(result.stderr)
    assert "exits=" in stats
    assert "native_exits=" in stats
    assert "faults=" in stats
    value = json.loads(last)
    assert (value["status"], value["returncode"], value["reason"]) == (139, -11, "signaled")
    assert value["death"]["signal"] == "SIGSEGV"
    assert value["exits"] > 0
    assert value["statistics"]["cpu_time"] > 0
    assert value["faults"] > 0
    assert value["wall_ns"] > 0
    assert result.stdout == b"alive until null\n"
    failed = json.loads(lines(command("run", "--json", "--", "/nowhere").stderr)[-1])
    assert (failed["status"], failed["reason"], failed["returncode"]) == (Status.NOT_FOUND, "not_found", None)


def test_the_environment_is_not_handed_over(busybox: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    plain = command("run", "--", str(busybox), "env").stdout
    assert b"secret" not in plain
    assert b"PATH=" in plain
    chosen = command("run", "--env", "SECRET_TOKEN", "--env", "A=b=c", "--", str(busybox), "env").stdout
    assert b"SECRET_TOKEN=secret\n" in chosen
    assert b"A=b=c\n" in chosen


def test_a_trace(busybox: Path, command: Command, folder: Path) -> None:
    script = "trap : CHLD; cat text nowhere; kill -9 $$"
    result = command("trace", "--", str(busybox), "sh", "-c", script)
    assert result.returncode == 128 + signal.SIGKILL
    assert result.stdout == (folder / "text").read_bytes()
    said = lines(result.stderr)
    first = said[0].split()[0]
    for text in (
        'openat(AT_FDCWD, "text", O_RDONLY) = 3',
        'openat(AT_FDCWD, "nowhere", O_RDONLY) = -1 ENOENT (No such file or directory)',
        "exit_group(1) = ?",
        "+++ exited with 1 +++",
    ):
        (found,) = [line for line in said if line.endswith(f"] {text}")]
        assert not found.startswith(first), "the child does it"
    assert any("sendfile(1, 3, NULL, " in text for text in said)
    assert any(text.startswith(f"{first} --- SIGCHLD {{si_signo=SIGCHLD, si_code=CLD_EXITED") for text in said)
    assert said[-1] == f"{first} +++ killed by SIGKILL +++"


def test_a_trace_in_a_file_and_in_figures(busybox: Path, command: Command, folder: Path) -> None:
    result = command("trace", "-o", str(folder / "trace"), "--", str(busybox), "true")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert (folder / "trace").read_text().splitlines()[-1].endswith("+++ exited with 0 +++")
    table = lines(command("trace", "-c", "--", str(busybox), "cat", "text", "nowhere").stderr)
    total = table[-1].split()
    assert total[-1] == "total"
    rows = [line.split() for line in table if line.split()[-1] in ("open", "openat")]
    assert [row[3:-1] for row in rows] == [["2", "1"]], "calls and errors"
    assert command("trace", "-o", "/nowhere/at/all", "--", str(busybox), "true").returncode == Status.USAGE


def test_the_system_calls_that_exist(command: Command) -> None:
    listed = command("syscalls").stdout.decode().splitlines()
    missing = command("syscalls", "--missing").stdout.decode().splitlines()
    assert "  0  read" in listed[0]
    assert listed[0].split()[2] == "syscalls.transfer"
    numbers = [int(line.split()[0]) for line in (*listed[:-2], *missing[:-2])]
    assert len(numbers) == len(set(numbers)) >= 360
    assert listed[-1] == missing[-1]
    assert int(listed[-1].split()[0]) == len(listed) - 2


def test_what_of_the_host_is_seen(build: Build, busybox: Path, command: Command, folder: Path, tmp_path_factory: Any) -> None:
    """The current directory and the program, to read; what is bound; nothing else."""
    other = tmp_path_factory.mktemp("other")
    (other / "file").write_text("of the host")
    shell = (str(busybox), "sh", "-c")
    assert command("run", "--", str(build("deaths")), "exit").returncode == 7
    assert command("run", "--", *shell, "pwd; cat text").stdout.startswith(f"{folder}\nfirst line".encode())
    assert command("run", "--", *shell, "echo > text").returncode == 1
    assert command("run", "--", *shell, f"cat {other}/file").returncode == 1
    assert command("run", "--bind", f"{other}:/data", "--", *shell, "cat /data/file").stdout == b"of the host"
    assert command("run", "--bind", f"{other}:/data", "--", *shell, "echo > /data/file").returncode == 1
    assert command("run", "--bind", f"{other}:rw", "--cwd", str(other), "--", *shell, "echo new > file").returncode == 0
    assert (other / "file").read_text() == "new\n"
    assert command("run", "--cwd", "/tmp", "--", *shell, f"pwd; ls {folder}").stdout == b"/tmp\n"
    assert command("run", "--bind", "/nowhere/at/all", "--", *shell, ":").returncode == Status.NOT_FOUND
    assert command("run", "--bind", "a:b:c:d", "--", *shell, ":").returncode == Status.USAGE


def test_a_terminal_is_a_terminal_inside(busybox: Path) -> None:
    controller, terminal = os.openpty()

    def run(*arguments: str) -> int:
        argv = [sys.executable, "-m", "asynckvm", "run", "--", str(busybox), *arguments]
        return subprocess.run(argv, stdin=terminal, stdout=terminal, stderr=terminal, timeout=SECONDS).returncode

    assert run("sh", "-c", "test -t 0 && test -t 1 && exit 5") == 5
    os.write(controller, b"words\nmore\n")
    assert run("head", "-n", "1") == 0
    os.close(terminal)
    assert b"words\r\nmore\r\nwords\r\n" in os.read(controller, 1000)
    os.close(controller)


def test_closed_standard_streams_are_closed_inside_too(build: Build, busybox: Path) -> None:
    """Nor does the guest get something else by their numbers."""
    shell = 'exec "$@" <&- >&- 2>&-'
    argv = ["sh", "-c", shell, "sh", sys.executable, "-m", "asynckvm", "run", "--", str(busybox)]
    assert subprocess.run([*argv, "cat"], timeout=SECONDS).returncode == 1
    assert subprocess.run([*argv, "echo", "hi"], timeout=SECONDS).returncode == 1
    assert subprocess.run([*argv, "true"], timeout=SECONDS).returncode == 0
    assert subprocess.run([*argv[:-1], str(build("deaths")), "null"], timeout=SECONDS).returncode == 139


def test_doctor(command: Command) -> None:
    result = command("doctor")
    assert result.returncode == 0
    assert b"guests run here" in result.stdout
    report = json.loads(command("doctor", "--json").stdout)
    assert report["usable"] is True
    assert report["capabilities"]["round_trip_ns"] > 0
