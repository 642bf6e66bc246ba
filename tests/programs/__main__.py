"""Runs rows of the table outside pytest, natively and on every platform that works here, and prints what differs.

With --native, natively twice, which shows rows that vary.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from programs.row import Row, Seen, place, reads
from programs.table import ROWS
from support import native, platforms, sandbox

NATIVE = "natively"


async def _seen(row: Row, path: Path, where: str) -> tuple[Seen, float]:
    """On a platform, or natively."""
    with row.folder(path) as folder:
        command = row.command(folder)
        if where == NATIVE:
            outcome = await asyncio.to_thread(native.run, command)
        else:
            binds = [(str(folder), "rw"), *((str(prefix), "ro") for prefix in reads())]
            with platforms.using(where):
                async with asyncio.timeout(row.seconds + 30):
                    outcome = await sandbox.run(command, binds)
        return row.seen(outcome, folder), outcome.seconds


def _differences(expected: Seen, found: Seen) -> Iterator[str]:
    if expected.status != found.status:
        yield f"status: {expected.status}, here {found.status}"
    for name in ("stdout", "stderr"):
        theirs, ours = (getattr(seen, name).decode(errors="backslashreplace").splitlines() for seen in (expected, found))
        for line in difflib.unified_diff(theirs, ours, lineterm="", n=0):
            if not line.startswith(("---", "+++", "@@")):
                yield f"{name}: {line}"
    for name in sorted(expected.files.keys() | found.files.keys()):
        wanted, got = expected.files.get(name, "none"), found.files.get(name, "none")
        if wanted != got:
            yield f"file {name}: {wanted[:200]}, here {got[:200]}"


async def _check(row: Row, places: list[str]) -> tuple[str, list[str]]:
    """A verdict that begins with "same" where all places agree with the native run, and the differences."""
    if missing := row.missing():
        return f"skipped, {missing} is not installed", []
    with place() as path:
        expected, seconds = await _seen(row, path, NATIVE)
        wanted = f"exit {row.status}" if row.status >= 0 else f"signal {-row.status}"
        if expected.status != wanted:
            return "WRONG ROW", [
                f"natively {expected.status}, not {wanted}",
                *expected.stderr.decode(errors="replace").splitlines()[-8:],
            ]
        verdict, differences, spent = "same", [], [f"{seconds:.2f} s {NATIVE}"]
        for where in places:
            try:
                found, seconds = await _seen(row, path, where)
            except Exception as error:  # noqa: BLE001
                verdict = "BROKEN"
                differences.append(f"{where}: {type(error).__name__}: {error}")
                continue
            spent.append(f"{seconds:.2f} s {where}")
            lines = [f"{where}: {line}" for line in _differences(expected, found)]
            differences += lines
            verdict = "DIFFERS" if lines and verdict == "same" else verdict
    return f"{verdict}, {', '.join(spent)}", differences


def main() -> None:
    parser = argparse.ArgumentParser(prog="programs", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--native", action="store_true", help="natively twice, instead of inside")
    where.add_argument(
        "--platform", action="append", choices=platforms.NAMES, help="instead of all that work; may be given again"
    )
    parser.add_argument("--lines", type=int, default=12, help="of differences, per row")
    options = parser.parse_args()
    places = [NATIVE] if options.native else options.platform or list(platforms.usable())
    if not places:
        parser.error("; ".join(f"{name} runs no guest here: {verdict[2]}" for name, verdict in platforms.known().items()))
    rows = [row for row in ROWS if re.search(options.pattern, row.name)]
    bad, started = [], time.monotonic()
    for row in rows:
        verdict, differences = asyncio.run(_check(row, places))
        print(f"{row.name}: {verdict}", flush=True)
        for line in differences[: options.lines]:
            print(f"    {line[:300]}", flush=True)
        if not verdict.startswith(("same", "skipped")):
            bad.append(row.name)
    same, seconds = len(rows) - len(bad), time.monotonic() - started
    print(f"{same} of {len(rows)} rows are the same, natively and: {', '.join(places)}; in {seconds:.0f} s; not: {' '.join(bad)}")


main()
