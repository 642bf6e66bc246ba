"""The demonstration: it runs what it says, and notices when a program ends in another way than it had to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import pytest
import structlog

from asynckvm.cli import demo, demo_snippets
from asynckvm.cli.demo_snippets import Snippet
from asynckvm.sandbox import CompletedProcess, Reason
from support.pace import paced

SECONDS = paced(170)
# One of each kind.
ROUND = 23


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.timeout(SECONDS + 10)
def test_every_kind_of_program_ends_as_it_has_to() -> None:
    argv = [sys.executable, "-m", "asynckvm", "demo", "--runs", str(ROUND), "--json"]
    done = subprocess.run(argv, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert (summary["runs"], summary["vcpus"], summary["wrong"]) == (ROUND, 2, 0)
    assert sum(group["runs"] for group in summary["programs"].values()) == ROUND
    assert len(summary["programs"]) >= 20


def test_a_round_has_every_kind() -> None:
    first = [snippet.kind for snippet in islice(demo_snippets.snippets("/secret"), ROUND)]
    more = {snippet.kind for snippet in islice(demo_snippets.snippets("/secret"), 5 * ROUND)}
    assert set(first) == more


def test_progress_and_summary_are_readable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "snippets", lambda _: iter(demo_snippets._crashes(3)))
    assert demo.main(["--runs", "2"]) == 0
    out, err = capsys.readouterr()
    assert "every one ended as it had to" in out
    assert "2/2 programs ended" in err


def test_another_end_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = Snippet("print", "its output", "print('other')", demo_snippets._prints("hello\n"))
    monkeypatch.setattr(demo, "snippets", lambda _: iter([snippet] * 2))
    assert demo.main(["--runs", "2"]) == 1
    out, err = capsys.readouterr()
    assert "2 DID NOT end" in out
    assert "wrong: print: not its output, but exited with 0" in err


def _ends(**fields: object) -> list[CompletedProcess]:
    values = {"args": ("python3",), "returncode": 0, "stdout": b"", "stderr": b"", "reason": Reason.EXITED}
    return [CompletedProcess(**(values | fields))]  # type: ignore[arg-type]


def test_no_end_suits_two_kinds_by_accident() -> None:
    """Every check refuses the ends of the others, and a program that says nothing."""
    ends = [
        *_ends(),
        *_ends(returncode=1, stderr=b"ZeroDivisionError: integer division or modulo by zero\n"),
        *_ends(returncode=-11, signal=11, reason=Reason.SIGNALED),
        *_ends(returncode=-9, signal=9, reason=Reason.TIMEOUT),
        *_ends(returncode=-9, signal=9, reason=Reason.MEMORY),
        *_ends(returncode=-9, signal=9, reason=Reason.OUTPUT),
        *_ends(stdout=b"root:x:0:0\n"),
        *_ends(stdout=b"True\n"),
    ]
    for snippet in islice(demo_snippets.snippets("/secret"), ROUND):
        assert sum(not snippet.check(end) for end in ends) <= 1, snippet.kind
