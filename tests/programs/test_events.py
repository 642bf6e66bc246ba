"""Pipes, polls, files of events and terminals as programs see them: sources/events.c natively and as a guest, line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]

CASES = ("pipes", "fifos", "polls", "epolls", "counters", "timers", "signals", "processes", "terminals")


@pytest.mark.parametrize("case", CASES)
async def test_what_a_program_sees(case: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("events")), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b"")
    assert expected.stdout.count(b"\n") > 8
    assert await inside(argv) == expected
