"""Signals as programs see them: sources/signal_handlers.c and signal_waits.c natively and as a guest, equal line by line."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]

CASES = {
    "info": "signal_handlers",
    "queue": "signal_handlers",
    "nest": "signal_handlers",
    "altstack": "signal_handlers",
    "overflow": "signal_handlers",
    "fault": "signal_handlers",
    "fp": "signal_handlers",
    "fp-edit": "signal_handlers",
    "restart": "signal_waits",
    "sleep": "signal_waits",
    "suspend": "signal_waits",
    "timedwait": "signal_waits",
    "timer": "signal_waits",
    "cpu-timer": "signal_waits",
    "thread": "signal_waits",
    "job": "signal_waits",
    "child": "signal_waits",
}
# What a handler does to its own frame, and with what Linux answers: "alive", or the signal that its return raises.
DAMAGES = {
    "mxcsr": signal.SIGSEGV,
    "magic1": None,
    "magic2": None,
    "xstate_bv": signal.SIGSEGV,
    "xcomp_bv": signal.SIGSEGV,
    "unaligned": signal.SIGSEGV,
    "wild": signal.SIGSEGV,
    "nofp": None,
    "cs": signal.SIGSEGV,
    "rip": signal.SIGSEGV,
    "rsp": signal.SIGBUS,
    "flags": None,
    "mask": None,
    "stack": None,
}


@pytest.mark.parametrize("kind", ["glibc", "musl"])
@pytest.mark.parametrize("case", CASES)
async def test_what_a_program_sees(case: str, kind: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build(CASES[case], kind)), case]
    expected = native(argv)
    assert (expected.returncode, expected.stderr) == (0, b"")
    assert expected.stdout.count(b"\n") > 0
    assert await inside(argv) == expected


async def test_an_ignored_fault_ends_the_program(build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("signal_handlers")), "skip"]
    result = await inside(argv)
    assert result == native(argv)
    assert (result.returncode, result.stdout) == (-signal.SIGSEGV, b"went on with 77\n")


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_frame(damage: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("signal_handlers")), "corrupt", damage]
    result = await inside(argv)
    number = DAMAGES[damage]
    assert result.stdout.startswith(b"alive" if number is None else b"signal %d code 128" % number)
    assert result == native(argv)
