"""Runs rows of the table outside pytest and prints what differs; with --native, natively twice, which shows rows that vary."""

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
from support import native, sandbox


async def _seen(row: Row, path: Path, *, inside: bool) -> tuple[Seen, float]:
    with row.folder(path) as folder:
        command = row.command(folder)
        if not inside:
            outcome = await asyncio.to_thread(native.run, command)
        else:
            binds = [(str(folder), "rw"), *((str(prefix), "ro") for prefix in reads())]
            async with asyncio.timeout(row.seconds + 30):
                outcome = await sandbox.run(command, binds)
        return row.seen(outcome, folder), outcome.seconds


def _differences(expected: Seen, found: Seen) -> Iterator[str]:
    if expected.status != found.status:
        yield f"status: {expected.status}, inside {found.status}"
    for name in ("stdout", "stderr"):
        theirs, ours = (getattr(seen, name).decode(errors="backslashreplace").splitlines() for seen in (expected, found))
        for line in difflib.unified_diff(theirs, ours, lineterm="", n=0):
            if not line.startswith(("---", "+++", "@@")):
                yield f"{name}: {line}"
    for name in sorted(expected.files.keys() | found.files.keys()):
        wanted, got = expected.files.get(name, "none"), found.files.get(name, "none")
        if wanted != got:
            yield f"file {name}: {wanted[:200]}, inside {got[:200]}"


async def _check(row: Row, *, inside: bool) -> tuple[str, list[str]]:
    if missing := row.missing():
        return f"skipped, {missing} is not installed", []
    with place() as path:
        expected, seconds = await _seen(row, path, inside=False)
        wanted = f"exit {row.status}" if row.status >= 0 else f"signal {-row.status}"
        if expected.status != wanted:
            return "WRONG ROW", [
                f"natively {expected.status}, not {wanted}",
                *expected.stderr.decode(errors="replace").splitlines()[-8:],
            ]
        try:
            found, spent = await _seen(row, path, inside=inside)
        except Exception as error:  # noqa: BLE001
            return "BROKEN", [f"{type(error).__name__}: {error}"]
    differences = list(_differences(expected, found))
    return f"{'DIFFERS' if differences else 'same'} {seconds:.2f} s, {spent:.2f} s", differences


def main() -> None:
    parser = argparse.ArgumentParser(prog="programs", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--lines", type=int, default=12, help="of differences, per row")
    options = parser.parse_args()
    rows = [row for row in ROWS if re.search(options.pattern, row.name)]
    bad, started = [], time.monotonic()
    for row in rows:
        verdict, differences = asyncio.run(_check(row, inside=not options.native))
        print(f"{row.name}: {verdict}", flush=True)
        for line in differences[: options.lines]:
            print(f"    {line[:300]}", flush=True)
        if not verdict.startswith(("same", "skipped")):
            bad.append(row.name)
    print(f"{len(rows) - len(bad)} of {len(rows)} rows are the same, in {time.monotonic() - started:.0f} s; not: {' '.join(bad)}")


main()
