"""Somebody at a terminal: starts a command on a pseudoterminal of this host, types, and waits for what is shown, bounded."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from typing import Any, Self

from support.pace import paced

SECONDS = paced(40)


class Typist:
    """The command is a session leader whose controlling terminal this is; `streams` replaces some of 0 to 2."""

    def __init__(self, argv: Sequence[str], size: tuple[int, int] = (30, 100), **streams: Any) -> None:
        self.shown = b""
        self._at = 0
        self.master, terminal = os.openpty()
        self.terminal = terminal
        termios.tcsetwinsize(terminal, size)
        self.modes = termios.tcgetattr(terminal)
        given = {"stdin": terminal, "stdout": terminal, "stderr": terminal} | streams
        # A session leader's first terminal controls it.
        start = ["sh", "-c", 'exec "$@" 9<>"$0"', os.ttyname(terminal), *argv]
        self.process = subprocess.Popen(start, start_new_session=True, **given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self.master)
        os.close(self.terminal)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until what is shown after the last match matches."""
        until = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.shown[self._at :], re.MULTILINE)) is None:
            left = until - time.monotonic()
            assert left > 0, f"not shown: {pattern!r}; but {self.shown[self._at :]!r}"
            if select.select([self.master], [], [], min(left, 1))[0]:
                self.shown += os.read(self.master, 65536)
            elif self.process.poll() is not None:
                raise AssertionError(f"not shown: {pattern!r}, and it has ended; but {self.shown[self._at :]!r}")
        self._at += found.end()
        return found

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.terminal, (rows, columns))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status; what is still shown is read meanwhile."""
        until = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < until, f"has not ended; shown: {self.shown[self._at :]!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 65536)
        return self.process.returncode

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.modes
