"""The user's terminal while a program inside has one: raw, so that every key is the program's, and given back in every case.

Which streams become the program's terminal is decided here too. What is typed and shown is `asynckvm.linux.tty`'s to carry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Final

from asynckvm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from asynckvm.linux.tty import HostTerminal
    from asynckvm.sandbox import Sandbox

_CONTROLLING: Final = "/dev/tty"


@contextlib.asynccontextmanager
async def attached(sandbox: Sandbox, streams: Sequence[int], *, wanted: bool | None) -> AsyncIterator[HostTerminal | None]:
    """A terminal for the program, or None where its streams are passed on as they are.

    It gets one when its input and its output are a terminal whose foreground this command is; else another program of the same
    pipeline may want the terminal for itself. `wanted`: in any case, with the keyboard of this command's own terminal; or never.
    """
    if wanted is None and is_interactive(*streams[:2]):
        keyboard, screen = streams[:2]
    elif wanted:
        keyboard = screen = _open_controlling()
    else:
        yield None
        return
    raw = _Raw(keyboard, screen)
    try:
        async with sandbox.terminal(keyboard, screen) as terminal:
            raw.set()
            with _handled(raw, terminal):
                yield terminal
    finally:
        raw.restore()
        if wanted:
            os.close(keyboard)


def is_interactive(keyboard: int, screen: int) -> bool:
    """Whether somebody sits there: both are terminals, and this command is not in the background."""
    if min(keyboard, screen) < 0 or not (os.isatty(keyboard) and os.isatty(screen)):
        return False
    return _in_foreground(keyboard)


def _in_foreground(fd: int) -> bool:
    """Who is not may not change the terminal: it would be stopped. A terminal that is not the controlling one stops nobody."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True


def _open_controlling() -> int:
    try:
        return os.open(_CONTROLLING, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError("--tty: this command has no terminal") from error


class _Raw:
    """Raw mode for terminals, and the way back to what they were."""

    def __init__(self, *fds: int) -> None:
        self._saved: list[tuple[int, list[Any]]] = [(fd, termios.tcgetattr(fd)) for fd in fds]

    def set(self) -> None:
        if self._may_change():
            for fd, _ in self._saved:
                tty.setraw(fd, termios.TCSANOW)
            _end_lines("\r\n")

    def restore(self) -> None:
        """In the background there is nothing to give back: the shell has its own modes again."""
        if self._may_change():
            for fd, modes in reversed(self._saved):
                # A terminal that is gone needs nothing any more.
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(fd, termios.TCSANOW, modes)
        _end_lines("\n")

    def _may_change(self) -> bool:
        return _in_foreground(self._saved[0][0])


def _end_lines(end: str) -> None:
    """What is said on a raw terminal needs its carriage returns."""
    if sys.stderr is not None and sys.stderr.isatty() and hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(newline=end)


@contextlib.contextmanager
def _handled(raw: _Raw, terminal: HostTerminal) -> Any:
    """Follow the window's size; give the terminal back while this command is stopped."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        raw.restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def go_on() -> None:
        raw.set()
        terminal.resize()

    handlers: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGWINCH: terminal.resize,
        signal.SIGTSTP: stop,
        signal.SIGCONT: go_on,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    # A change just before.
    terminal.resize()
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
