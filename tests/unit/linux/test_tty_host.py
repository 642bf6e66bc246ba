"""A user's terminal as a guest's: bytes both ways, modes and sizes, a line that breaks, a screen that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pty
import signal
import termios
import tty
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.streams import host_stream
from asynckvm.linux.tty import HostTerminal, Terminals, Termios
from asynckvm.linux.wait import POLLIN, POLLOUT, wait
from support.fake_tasks import SECONDS, lone_task


def ignore(processes: Iterable[Any], number: int) -> None:
    """Nobody is signalled."""


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The user's, and the host's terminal, in raw mode."""
    user, screen = pty.openpty()
    tty.setraw(screen)
    yield user, screen
    for fd in (user, screen):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.every_loop
async def test_everything_is_passed_on(ends: tuple[int, int]) -> None:
    user, screen = ends
    terminals = Terminals(ignore)
    outside = host_stream(user)
    shown = b""

    async def look() -> None:
        nonlocal shown
        while not shown.endswith(b"end\r\n"):
            while not outside.poll() & POLLIN:
                await wait((outside.queue,))
            shown += outside.read(1 << 16)

    async with asyncio.timeout(SECONDS):
        async with HostTerminal(terminals, screen, screen) as terminal:
            terminal.terminal.set_termios(Termios())
            looking = asyncio.create_task(look())
            outside.write(b"hello\r")
            while not terminal.slave.poll() & POLLIN:
                await wait((terminal.slave.queue,))
            assert terminal.terminal.take(100) == b"hello\n"
            left = b"big" * 50_000 + b"end\n"
            while left:
                try:
                    left = left[terminal.slave.write(left) :]
                except BlockingIOError:
                    await wait((terminal.slave.queue,))
        await looking
    assert shown == b"hello\r\n" + b"big" * 50_000 + b"end\r\n"
    assert terminals.numbers == []
    outside.close()


async def test_it_begins_as_the_host_s(ends: tuple[int, int]) -> None:
    _, screen = ends
    terminals = Terminals(ignore)
    modes = termios.tcgetattr(screen)
    modes[6][termios.VERASE] = b"\x08"
    modes[3] |= termios.ECHO
    termios.tcsetattr(screen, termios.TCSANOW, modes)
    termios.tcsetwinsize(screen, (30, 100))
    async with HostTerminal(terminals, screen, screen) as terminal:
        inside = terminal.terminal
        assert dataclasses.astuple(inside.window)[:2] == (30, 100)
        assert inside.termios.cc[2] == 8
        assert inside.termios.lflag == modes[3]
        terminal.resize(20, 40)
        assert dataclasses.astuple(inside.window)[:2] == (20, 40)
        terminal.resize()
        assert dataclasses.astuple(inside.window)[:2] == (30, 100)


@pytest.mark.every_loop
async def test_a_line_that_breaks_hangs_up(ends: tuple[int, int]) -> None:
    user, screen = ends
    sent: list[tuple[int, int]] = []
    terminals = Terminals(lambda processes, number: sent.extend((process.pid, number) for process in processes))
    session = Session(10, None)
    leader = session.leader = lone_task(pid=10, group=ProcessGroup(10, session)).process
    async with asyncio.timeout(SECONDS):
        async with HostTerminal(terminals, screen, screen) as terminal:
            terminal.terminal.become_controlling(leader)
            os.close(user)
            while not terminal.terminal.hung_up:
                await wait((terminal.slave.queue,))
    assert (10, signal.SIGHUP) in sent


async def test_a_screen_that_is_full_does_not_hold_up_a_cancellation() -> None:
    terminals = Terminals(ignore)
    keyboard, typed = os.pipe()
    seen, screen = os.pipe()

    async def attach(entered: asyncio.Event) -> None:
        async with HostTerminal(terminals, keyboard, screen) as terminal:
            while terminal.slave.poll() & POLLOUT:
                terminal.slave.write(b"x" * 4096)
                await asyncio.sleep(0)
            entered.set()

    async with asyncio.timeout(SECONDS):
        entered = asyncio.Event()
        attached = asyncio.create_task(attach(entered))
        await entered.wait()
        await asyncio.sleep(0)
        assert not attached.done(), "it shows what is left"
        attached.cancel()
        await asyncio.wait([attached])
    assert attached.cancelled()
    assert terminals.numbers == []
    for fd in (keyboard, typed, seen, screen):
        os.close(fd)
