"""Real programs, unmodified: each row gives the same output, errors, status and files natively and on every platform.

PYTHONPATH=tests .venv/bin/python -m programs [--native] [PATTERN]     rows without pytest, with their differences
"""

from __future__ import annotations

import asyncio

import pytest

from programs.row import Row, place, reads
from programs.table import ROWS
from support import native, platforms, sandbox


def test_names_of_rows_are_their_own() -> None:
    names = [row.name for row in ROWS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.all_platforms
@pytest.mark.timeout(210)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_inside_as_natively(row: Row, usable_platforms: tuple[str, ...]) -> None:
    if missing := row.missing():
        pytest.skip(f"{missing} is not installed")
    with place() as path:
        with row.folder(path) as folder:
            expected = row.seen(await asyncio.to_thread(native.run, row.command(folder)), folder)
        assert expected.status == f"exit {row.status}" if row.status >= 0 else f"signal {-row.status}", expected
        for platform in usable_platforms:
            with row.folder(path) as folder, platforms.using(platform):
                binds = [(str(folder), "rw"), *((str(prefix), "ro") for prefix in reads())]
                found = row.seen(await sandbox.run(row.command(folder), binds), folder)
            assert found == expected, f"on {platform}"
