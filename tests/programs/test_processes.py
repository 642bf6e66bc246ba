"""Processes and threads as programs see them: sources/processes.c natively and as a guest, equal line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]

CASES = ("wait", "memory", "orphans", "groups", "exec", "exec-threads", "exit", "mutexes", "clone", "limits")


@pytest.mark.parametrize("case", CASES)
async def test_what_a_program_sees(case: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("processes")), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b""), expected.stdout
    assert expected.stdout.endswith(b"done\n")
    assert await inside(argv) == expected
