"""Starts the process that runs guests, waits for it within a bound, and when it broke, finds the least that breaks it again."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzz.journal import Journal

from support.pace import paced

if TYPE_CHECKING:
    import argparse

# No case begun for this long: the process hangs. Closing and checkpoints are within it.
_HANG_SECONDS: Final = paced(60.0)
_LAST_WORDS_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2
_REPLAYS: Final = 20
_REDUCE_SECONDS: Final = paced(120.0)
Pairs = list[tuple[int, int]]


def supervise(options: argparse.Namespace) -> int:
    """The exit status of the whole: 0 only when everything held."""
    with tempfile.TemporaryDirectory(prefix="asynckvm-fuzz-") as folder:
        journal = Journal(Path(folder) / "journal")
        status = _run(options, _arguments(options), journal, Path(folder) / "journal")
        if status:
            _blame(options, status, journal, Path(folder))
        journal.close()
    return 1 if status else 0


def _arguments(options: argparse.Namespace) -> list[str]:
    found = ["--seed", str(options.seed), "--start", str(options.start), "--repeat", str(options.repeat)]
    if options.replay:
        return [*found, "--replay", _text(options.replay)]
    return [*found, "--cases", str(options.cases), "--seconds", str(options.seconds)]


def _machine(options: argparse.Namespace) -> list[str]:
    switches = [("--linux", options.linux), ("--guest-edits", options.guest_edits), ("--no-pcid", options.no_pcid)]
    return ["--vcpus", str(options.vcpus), *(name for name, on in switches if on)]


def _text(pairs: Pairs) -> str:
    return ",".join(f"{seed}:{index}" for seed, index in pairs)


def _run(options: argparse.Namespace, arguments: list[str], journal: Journal, path: Path, *, quiet: bool = False) -> int:
    """One worker to its end; its exit status, negative for a signal, as subprocess has it."""
    command = [sys.executable, "-m", "fuzz", "--worker", "--journal", str(path), *_machine(options), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None) as process:
        try:
            return _wait(process, journal)
        except BaseException:
            process.kill()
            raise


def _wait(process: subprocess.Popen[bytes], journal: Journal) -> int:
    begun, since = journal.begun, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SECONDS)
        if journal.begun != begun:
            begun, since = journal.begun, time.monotonic()
        elif time.monotonic() - since > _HANG_SECONDS:
            print(f"no case begun for {_HANG_SECONDS:.0f} s: the process hangs; its stacks:", flush=True)
            process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_LAST_WORDS_SECONDS)
            process.kill()


# ---------------------------------------------------------------- after a break


def _blame(options: argparse.Namespace, status: int, journal: Journal, folder: Path) -> None:
    """Print the window, and the one case or the shortest run of cases that breaks it again."""
    if status < 0:
        print(f"BROKEN: the process died of signal {-status}")
    window = journal.window()
    print(f"begun last, oldest first: {_text(window)}", flush=True)
    until = time.monotonic() + _REDUCE_SECONDS
    if not window:
        return
    found = _reduce(options, window, folder, until)
    command = ["scripts/fuzz", *_machine(options), "--replay"]
    if found is None:
        print(f"not again, neither one alone nor all together; more tries: {' '.join(command)} {_text(window)} --repeat 100")
    else:
        print(f"breaks again: {' '.join(command)} {_text(found)} --repeat {_REPLAYS}")
    sys.stdout.flush()


def _reduce(options: argparse.Namespace, window: Pairs, folder: Path, until: float) -> Pairs | None:
    for pair in reversed(window):
        if time.monotonic() > until:
            break
        if _breaks(options, [pair], folder):
            return [pair]
    if not _breaks(options, window, folder):
        return None
    while len(window) > 1 and time.monotonic() < until:
        half = len(window) // 2
        shorter = next((part for part in (window[half:], window[:half]) if _breaks(options, part, folder)), None)
        if shorter is None:
            break
        window = shorter
    return window


def _breaks(options: argparse.Namespace, pairs: Pairs, folder: Path) -> bool:
    path = folder / "replay"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    try:
        arguments = ["--seed", "0", "--start", "0", "--replay", _text(pairs), "--repeat", str(_REPLAYS)]
        return _run(options, arguments, journal, path, quiet=True) != 0
    finally:
        journal.close()
