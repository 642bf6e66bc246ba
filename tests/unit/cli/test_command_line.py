"""The command line without KVM: what is understood, refused and documented."""

from __future__ import annotations

import pytest

import asynckvm
from asynckvm.cli import main, run
from asynckvm.cli.statuses import MEANINGS, Status
from asynckvm.errors import (
    AsyncKvmError,
    CapabilityError,
    DeviceMissingError,
    DevicePermissionError,
    InternalError,
    NoPlatformError,
    OutOfMemoryError,
    OverloadedError,
    TraceDeniedError,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[run.Options]:
    """What `run` was asked to do."""
    seen: list[run.Options] = []

    def remember(options: run.Options) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(run, "main", remember)
    return seen


def test_every_status_is_distinct_documented_and_below_the_signals(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({int(status) for status in Status}) == len(Status)
    assert MEANINGS.keys() == set(Status)
    assert all(status < 128 for status in Status if status is not Status.INTERRUPTED)
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    assert all(str(int(status)) in text for status in Status)


@pytest.mark.parametrize(
    ("arguments", "argv"),
    [
        (["cat"], ["cat"]),
        (["--", "cat", "--", "-n"], ["cat", "--", "-n"]),
        (["cat", "--json"], ["cat", "--json"]),
        (["--timeout", "3", "--stats", "--json", "--", "cat", "--timeout", "4"], ["cat", "--timeout", "4"]),
        (["--", "--odd-name"], ["--odd-name"]),
    ],
)
def test_what_belongs_to_the_program(asked: list[run.Options], arguments: list[str], argv: list[str]) -> None:
    assert main(["run", *arguments]) == 0
    assert list(asked[0].argv) == argv
    assert asked[0].json is ("--stats" in arguments)
    assert asked[0].timeout == (3.0 if "--stats" in arguments else None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--"],
        ["run", "--timeout", "0", "a"],
        ["run", "--platform", "xen", "a"],
        ["doctor", "--platform", "xen"],
        ["demo", "--platform", "xen"],
        ["bench", "--platform", "xen"],
        ["run", "--timeout", "nan", "a"],
        ["run", "--memory", "1", "a"],
        ["run", "--memory", "2T", "a"],
        ["run", "--memory", "large", "a"],
        ["trace"],
        ["trace", "--json", "a"],
        ["what"],
    ],
)
def test_what_is_refused(asked: list[run.Options], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == Status.USAGE
    assert not asked
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["run", "trace"])
@pytest.mark.parametrize("platform", ["auto", "kvm", "ptrace"])
def test_the_platform_is_passed_on(command: str, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def remember(options: run.Options, *_: object) -> int:
        seen.append(options.platform)
        return 0

    monkeypatch.setattr(run, "main", remember)
    assert main([command, "--platform", platform, "--", "true"]) == 0
    assert main([command, "--", "true", "--platform", "kvm"]) == 0
    assert seen == [platform, "auto"]


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Status.USAGE
    assert "doctor" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"asynckvm {asynckvm.__version__}\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceMissingError("open", 2, "load the module"), Status.UNUSABLE),
        (DevicePermissionError("open", 13, "join the group"), Status.UNUSABLE),
        (TraceDeniedError("ptrace", 1, "allow it"), Status.UNUSABLE),
        (NoPlatformError(AsyncKvmError("no KVM"), AsyncKvmError("no ptrace")), Status.UNUSABLE),
        (CapabilityError("KVM_CAP_X", 95), Status.UNUSABLE),
        (OutOfMemoryError("mmap", 12, "use less"), Status.RESOURCES),
        (OverloadedError("full"), Status.RESOURCES),
        (InternalError("a defect"), Status.INTERNAL),
        (OSError(24, "Too many open files"), Status.RESOURCES),
        (ValueError("odd"), Status.INTERNAL),
        (ZeroDivisionError("a defect"), Status.INTERNAL),
        (ImportError("no _ffi"), Status.UNUSABLE),
        (KeyboardInterrupt(), Status.INTERRUPTED),
    ],
)
def test_an_error_is_one_line_with_its_hint(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run, "_run", fail)
    assert run.main(run.Options(["prog"])) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert getattr(error, "hint", "") in err
