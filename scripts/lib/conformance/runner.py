"""Runs the cases of a suite on one side, natively or in sandboxes, and keeps what came out, case by case.

What a case is, and what its output means, is the suite's to say: it hands over cases, and judges outcomes. Results are saved
after every case, so that a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from support import native, sandbox
from support.native import Command, Outcome

Side: TypeAlias = Literal["native", "inside"]
# What one test of a case came to: passed, failed or skipped, and why.
Verdict: TypeAlias = tuple[str, str]

# Beyond a case's own time: what a sandbox may take to open and close, before it is called hung.
_GRACE_SECONDS: Final = 30.0
_KEPT_OUTPUT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """One program to run, in an empty folder of its own. `files` are copied there first."""

    area: str
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 60.0
    # What it reads beyond the programs of the system.
    reads: tuple[str, ...] = ()
    files: Path | None = None
    user: int | None = None


@dataclass(slots=True)
class Result:
    """What came of a case on one side."""

    area: str
    status: str
    seconds: float
    tests: dict[str, Verdict]
    # The end of its output, when it did not simply pass.
    output: str = ""


Judge: TypeAlias = Callable[[Case, Outcome], dict[str, Verdict]]


class Results:
    """A file of results by the names of cases."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases: dict[str, Result] = {}
        if path.exists():
            self.cases = {name: Result(**value) for name, value in json.loads(path.read_text()).items()}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({name: asdict(result) for name, result in self.cases.items()}, indent=1))
        partial.replace(self.path)


async def run(
    cases: Sequence[Case], side: Side, judge: Judge, results: Results, *, jobs: int, told: Callable[[str, Result], None]
) -> None:
    """Runs the cases that have no result yet, `jobs` at a time."""
    waiting = [case for case in cases if case.name not in results.cases]
    turns = asyncio.Semaphore(jobs)

    async def one(case: Case) -> None:
        async with turns:
            outcome = await _outcome(case, side)
        tests = judge(case, outcome)
        result = Result(case.area, outcome.status, round(outcome.seconds, 2), tests)
        if any(verdict != "passed" for verdict, _ in tests.values()):
            result.output = (outcome.stdout + outcome.stderr)[-_KEPT_OUTPUT:].decode(errors="replace")
        results.cases[case.name] = result
        results.save()
        told(case.name, result)

    await asyncio.gather(*(one(case) for case in waiting))


async def _outcome(case: Case, side: Side) -> Outcome:
    # The same path on both sides of one case would need the two runs to take turns; the length at least is the same.
    folder = Path(tempfile.mkdtemp(prefix="conformance-", dir="/tmp"))
    try:
        if case.files is not None:
            shutil.copytree(case.files, folder, symlinks=True, dirs_exist_ok=True)
        if case.user is not None:
            _give(folder, case.user)
        where = str(folder)
        command = Command(
            argv=tuple(word.replace("{folder}", where) for word in case.argv),
            cwd=where,
            env={name: value.replace("{folder}", where) for name, value in case.env.items()},
            seconds=case.seconds,
            user=case.user,
        )
        if side == "native":
            return await asyncio.to_thread(native.run, command)
        return await _inside(command, [(where, "rw"), *((path, "ro") for path in case.reads)])
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _inside(command: Command, binds: Sequence[sandbox.Bind]) -> Outcome:
    limit = command.seconds + _GRACE_SECONDS
    try:
        async with asyncio.timeout(limit):
            return await sandbox.run(command, binds)
    except TimeoutError:
        return Outcome(None, b"", b"the sandbox did not end in its time", limit)
    # A suite goes on with its other cases, whatever one of them did to its sandbox: the report names it.
    except Exception as error:  # noqa: BLE001
        return Outcome(-256, b"", f"sandbox: {type(error).__name__}: {error}".encode(), 0.0)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, user, user, follow_symlinks=False)
