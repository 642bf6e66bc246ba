"""`Sandbox.terminal`: a terminal for runs that somebody shows elsewhere, through pipes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator

import pytest

from asynckvm.errors import UsageError
from asynckvm.platform import Machine
from asynckvm.sandbox import Reason, Sandbox
from support.pace import paced

SECONDS = paced(20)


class Remote:
    """Somebody with two pipes: `type` what `until` has waited for."""

    def __init__(self) -> None:
        self.keyboard, self._keys = os.pipe()
        self._seen, self.screen = os.pipe()
        os.set_blocking(self._seen, False)
        self.shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    def hang_up(self) -> None:
        os.close(self._keys)
        self._keys = -1

    async def until(self, pattern: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            while (found := re.search(pattern, self.shown, re.MULTILINE)) is None:
                try:
                    self.shown += os.read(self._seen, 1 << 16)
                except BlockingIOError:
                    await asyncio.sleep(0.01)  # between looks
        self.shown = self.shown[found.end() :]

    def close(self) -> None:
        for fd in (self.keyboard, self._keys, self._seen, self.screen):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def remote(machine: Machine) -> Iterator[Remote]:
    remote = Remote()
    yield remote
    remote.close()


async def test_runs_one_after_the_other(sandbox: Sandbox, remote: Remote) -> None:
    async with sandbox.terminal(remote.keyboard, remote.screen) as terminal:
        terminal.resize(40, 132)
        result = await sandbox.run(
            ["sh", "-c", "tty; stty size; test -O $(tty) && echo mine"], terminal=terminal, timeout=SECONDS
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        await remote.until(rb"/dev/pts/0\r\n40 132\r\nmine\r\n")
        running = asyncio.create_task(sandbox.run(["cat"], terminal=terminal, timeout=SECONDS))
        remote.type(b"line\r")
        await remote.until(rb"line\r\nline\r\n")
        with pytest.raises(UsageError, match="another run"):
            await sandbox.run(["true"], terminal=terminal)
        remote.type(b"\x1a")  # nobody could continue it: as without job control
        await remote.until(rb"\^Z")
        remote.type(b"more\r")
        await remote.until(rb"more\r\nmore\r\n")
        remote.type(b"\x03")
        assert (await running).signal == signal.SIGINT
    assert sandbox.kernel.terminals.numbers == []


async def test_streams_that_are_given_are_no_terminal(sandbox: Sandbox, remote: Remote) -> None:
    look = "for n in 0 1 2; do test -t $n && echo $n > /dev/tty; done; cat; echo error >&2; read line < /dev/tty; echo $line"
    readable, writable = os.pipe()
    async with sandbox.terminal(remote.keyboard, remote.screen) as terminal:
        remote.type(b"typed\r")
        result = await sandbox.run(["sh", "-c", look], input=b"given\n", stdout=writable, terminal=terminal, timeout=SECONDS)
    os.close(writable)
    assert os.read(readable, 100) == b"given\ntyped\n"
    os.close(readable)
    assert result.returncode == 0
    await remote.until(rb"^2\r\nerror\r\n")


async def test_a_line_that_breaks(sandbox: Sandbox, remote: Remote) -> None:
    async with sandbox.terminal(remote.keyboard, remote.screen) as terminal:
        running = asyncio.create_task(sandbox.run(["sh", "-c", "echo ready; read line"], terminal=terminal, timeout=SECONDS))
        await remote.until(rb"ready\r\n")
        remote.hang_up()
        result = await running
    assert (result.reason, result.signal) == (Reason.SIGNALED, signal.SIGHUP)


async def test_a_cancelled_run_gives_it_back(sandbox: Sandbox, remote: Remote) -> None:
    """Though nobody looks at what is shown."""

    async def run() -> None:
        async with sandbox.terminal(remote.keyboard, remote.screen) as terminal:
            await sandbox.run(["sh", "-c", "echo ready; while :; do echo much; done"], terminal=terminal)

    running = asyncio.create_task(run())
    await remote.until(rb"ready\r\n")
    running.cancel()
    async with asyncio.timeout(SECONDS):
        await asyncio.wait([running])
    assert running.cancelled()
    assert sandbox.kernel.terminals.numbers == []
