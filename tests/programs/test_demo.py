"""The demonstration: it runs what it says, and notices when a guest gives something else than a native run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from asynckvm.cli import demo, demo_programs
from asynckvm.cli.demo_programs import Ended, Job

SECONDS = 90


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_it_runs_everything_and_finds_no_difference() -> None:
    argv = [sys.executable, "-m", "asynckvm.cli.demo", "--runs", "60", "--json"]
    done = subprocess.run(argv, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["runs"], summary["vcpus"], summary["mismatches"]) == (60, 2, 0)
    assert sum(group["runs"] for group in summary["programs"].values()) == 60
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert summary["exits"] > 60


def test_progress_and_summary_are_readable(
    busybox: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "collect", lambda _: [Job("busybox echo", (str(busybox), "echo", "hello"))])
    assert demo.main(["--runs", "3"]) == 0
    out, err = capsys.readouterr()
    assert "all equal to native runs" in out
    assert "3/3 programs" in err


@pytest.mark.parametrize("change", [{"stdout": b"other\n"}, {"returncode": 1}, {"stderr": b"a word"}])
def test_a_difference_fails(
    change: dict[str, object], busybox: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(Ended(0, b"hello\n", b""), **change)  # type: ignore[arg-type]
    monkeypatch.setattr(demo, "collect", lambda _: [Job("busybox echo", (str(busybox), "echo", "hello"))])
    monkeypatch.setattr(demo_programs.Job, "run_natively", lambda _: wrong)
    assert demo.main(["--runs", "2"]) == 1
    out, err = capsys.readouterr()
    assert "2 DIFFER" in out
    assert "differs:" in err
