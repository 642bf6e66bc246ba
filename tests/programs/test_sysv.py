"""System V semaphores and shared memory as programs see them: sources/sysv.c natively and as a guest, line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]


@pytest.mark.parametrize("case", ["semaphores", "segments"])
async def test_what_a_program_sees(case: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("sysv")), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b"")
    assert expected.stdout.count(b"\n") > 8
    assert await inside(argv) == expected
