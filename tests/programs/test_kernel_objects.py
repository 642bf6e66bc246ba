"""Owners, leases, notices, busy programs, asynchronous I/O, message queues and locked memory: sources/kernel_objects.c natively
and as a guest, line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]

CASES = ("owners", "leases", "notices", "busy", "aio", "messages", "locks")


@pytest.mark.parametrize("case", CASES)
async def test_what_a_program_sees(case: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("kernel_objects")), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b"")
    assert expected.stdout.count(b"\n") > 4
    assert await inside(argv) == expected
