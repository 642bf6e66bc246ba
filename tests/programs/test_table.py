"""Real programs, unmodified: each row of the table gives the same output, errors, status and files natively and inside.

PYTHONPATH=tests .venv/bin/python -m programs [--native] [PATTERN]     rows without pytest, with their differences
"""

from __future__ import annotations

import asyncio

import pytest

from programs.row import Row, place, reads
from programs.table import ROWS
from support import native, sandbox


def test_names_of_rows_are_their_own() -> None:
    names = [row.name for row in ROWS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_inside_as_natively(row: Row) -> None:
    if missing := row.missing():
        pytest.skip(f"{missing} is not installed")
    with place() as path:
        with row.folder(path) as folder:
            expected = row.seen(await asyncio.to_thread(native.run, row.command(folder)), folder)
        assert expected.status == f"exit {row.status}" if row.status >= 0 else f"signal {-row.status}", expected
        with row.folder(path) as folder:
            binds = [(str(folder), "rw"), *((str(prefix), "ro") for prefix in reads())]
            found = row.seen(await sandbox.run(row.command(folder), binds), folder)
    assert found == expected
