"""Whatever an emulator does, its run ends in time, tells how, and leaves no process behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.hwvm.machines import Bash, limits, machine

from hwvm import emulator
from hwvm.emulator import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwvm.emulator import Outcome

READY, DONE = "echo 'hwvm: ready' >>$console\n", "echo 'hwvm: done' >>$console\n"
# Says who it is, then hangs without a child that could outlive it.
HANG = "echo $$ >pid\nexec sleep 600\n"


@pytest.fixture
def lines() -> list[bytes]:
    return []


@pytest.fixture
def run(tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.setattr(emulator, "POWEROFF_SECONDS", 0.2)
    monkeypatch.setattr(emulator, "STOP_SECONDS", 1)
    return lambda script, bounds: emulator.run(Bash(script), machine(tmp_path), bounds, lines.append)


def gone(folder: Path) -> bool:
    """Whether the process that left its number has ended; one that only waits for its parent to notice has."""
    try:
        return Path("/proc", (folder / "pid").read_text().strip(), "stat").read_text().split()[2] in "ZX"
    except FileNotFoundError:
        return True


def test_a_machine_that_is_done(run: Callable[..., Outcome], lines: list[bytes]) -> None:
    outcome = run(
        f"{READY}printf 'one\\r\\ntw' >>$console\nsleep 0.3\nprintf 'o\\nrest' >>$console\necho >>$console\n{DONE}", limits()
    )
    assert (outcome.end, outcome.ready) == (End.DONE, True)
    assert lines == [b"hwvm: ready", b"one", b"two", b"rest", b"hwvm: done"]


def test_a_machine_that_is_done_but_stays_on(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(READY + DONE + HANG, limits())
    assert outcome.end is End.DONE
    assert outcome.seconds < 10
    assert (tmp_path / "pid").exists()
    assert gone(tmp_path)


@pytest.mark.parametrize(("script", "ready"), [("exit 0", False), ("kill -SEGV $$", False), (f"{READY}exit 1", True)])
def test_a_machine_that_died(run: Callable[..., Outcome], script: str, ready: bool) -> None:
    outcome = run(script, limits())
    assert (outcome.end, outcome.ready) == (End.DIED, ready)


def test_a_machine_that_does_not_come_up(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(HANG, limits(boot=0.5))
    assert (outcome.end, outcome.ready) == (End.NO_BOOT, False)
    assert (tmp_path / "pid").exists()
    assert gone(tmp_path)


def test_a_machine_that_hangs(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run(READY + HANG, limits(boot=0.5, total=1))
    assert (outcome.end, outcome.ready) == (End.LIMIT, True)
    assert (tmp_path / "pid").exists()
    assert gone(tmp_path)


def test_an_emulator_that_does_not_obey(run: Callable[..., Outcome], tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = run(f"trap '' TERM\n{HANG}", limits(total=0.5))
    assert outcome.end is End.LIMIT
    assert time.monotonic() - started < 10
    assert (tmp_path / "pid").exists()
    assert gone(tmp_path)


def test_a_machine_that_floods_its_console(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "MOST_CONSOLE", 1000)
    assert run(f"{READY}head -c 2000 /dev/zero >>$console\n{HANG}", limits()).end is End.FLOOD


def test_a_run_that_is_cancelled(run: Callable[..., Outcome]) -> None:
    assert run(READY + HANG, limits(cancelled=True)).end is End.CANCELLED


def test_an_emulator_that_is_not_there(tmp_path: Path) -> None:
    class Missing(Bash):
        def command(self, machine: emulator.Machine) -> list[str]:
            return ["/no/such/emulator"]

    outcome = emulator.run(Missing(""), machine(tmp_path), limits(), lambda line: None)
    assert outcome.end is End.DIED
    assert "/no/such/emulator" in (tmp_path / "log").read_text()
