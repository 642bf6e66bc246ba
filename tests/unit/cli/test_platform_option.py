"""Commands open machines on the platform they are told, and the one warning about it gets through."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from asynckvm import platform
from asynckvm.cli import bench, bench_conditions, bench_guests, bench_programs, bench_subjects, demo, main, messages
from asynckvm.cli.statuses import Status
from asynckvm.errors import NoPlatformError, TraceDeniedError
from asynckvm.platform import choice

if TYPE_CHECKING:
    from collections.abc import Iterator

DENIED = TraceDeniedError("ptrace", 1, "allow it")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The platforms that machines were to be opened on; none is."""
    seen: list[str] = []

    def refuse(**settings: Any) -> None:
        seen.append(settings.get("platform", "auto"))
        raise DENIED

    monkeypatch.setattr(platform.Machine, "open", refuse)
    monkeypatch.setattr(bench, "floors_folder", lambda _: Path())
    return seen


@pytest.mark.parametrize("arguments", [["run", "true"], ["trace", "true"], ["demo"]])
def test_every_command_passes_it_on(arguments: list[str], asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, *rest = arguments
    for chosen in (["--platform", "ptrace"], ["--platform", "kvm"], []):
        assert main([command, *chosen, *rest]) == Status.UNUSABLE
        assert "allow it" in capsys.readouterr().err
    assert asked == ["ptrace", "kvm", "auto"]


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--programs"]])
def test_benchmarks_run_on_all_or_on_those_asked_for(
    arguments: list[str], asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, options, platforms in (
        ("", [], ["kvm", "ptrace"]),
        ("auto", ["--platform", "auto"], ["kvm", "ptrace"]),
        ("ptrace", [], ["ptrace"]),
        ("", ["--platform", "ptrace"], ["ptrace"]),
        ("ptrace", ["--platform", "kvm", "--platform", "ptrace"], ["kvm"]),  # the first is refused, and so is the whole
    ):
        monkeypatch.setenv(choice.VARIABLE, variable)
        assert main([*arguments, *options]) == Status.UNUSABLE
        assert "allow it" in capsys.readouterr().err
        assert asked == platforms
        asked.clear()


@pytest.mark.parametrize("name", list(bench.COMPARISONS))
async def test_every_comparison_passes_it_on(name: str, asked: list[str]) -> None:
    subjects = {
        "vcpu_exit": lambda: bench_subjects.vcpu_exit(1, "ptrace"),
        "async_switch": lambda: bench_subjects.async_switch(1, "ptrace"),
        "kick": lambda: bench_subjects.kick(1, "ptrace"),
        "scaling_2v1": lambda: bench_subjects.exit_rate(1, 1, 1, "ptrace"),
        "compute": lambda: bench_subjects.compute(1, "ptrace"),
        "page_touch": lambda: bench_subjects.page_touch(1, "ptrace"),
    }
    with pytest.raises(TraceDeniedError):
        await anext(subjects[name]())
    assert asked == ["ptrace"]


def test_the_demonstration_names_the_weaker_wall() -> None:
    summary = {"programs": {}, "wrong": 0, "runs": 1, "at_once": 1, "vcpus": 2, "seconds": 1.0}
    assert "weaker wall" in " ".join(demo._lines({"platform": "ptrace", **summary}))
    assert "wall" not in " ".join(demo._lines({"platform": "kvm", **summary}))


@pytest.mark.parametrize("quiet", [False, True])
def test_the_warning_gets_through(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where warnings about guests are left out."""
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(choice, "_warned", False)
    messages.configure(quiet=quiet)
    for _ in range(2):
        choice.warn(DENIED)
    structlog.get_logger("asynckvm").warning("program_killed")
    structlog.get_logger("asynckvm").error("kernel_error")
    first, *others = errors.getvalue().splitlines()
    assert first.startswith("level=warning event=platform_fallback ")
    assert 'hint="allow it"' in first
    assert "errno=1 " in first
    killed = [] if quiet else ["level=warning event=program_killed"]
    assert others == [*killed, "level=error event=kernel_error"]


def test_no_platform_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(**_: Any) -> None:
        raise NoPlatformError(DENIED, DENIED)

    monkeypatch.setattr(platform.Machine, "open", refuse)
    assert main(["run", "true"]) == Status.UNUSABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.count("allow it") == 2


def test_all_share_one_machine_class() -> None:
    """What the tests above replace is what every module opens."""
    modules: list[Any] = [bench_conditions, bench_guests, bench_subjects]
    assert {module.Machine for module in modules} == {platform.Machine}
    assert bench_programs.Sandbox.__module__ == "asynckvm.sandbox.sandbox"
