"""A user's terminal as a guest's: what is typed there goes to the master of a pseudoterminal, what the guest shows comes from it.

The line discipline in between is the sandbox's own, so the host's terminal has to be in raw mode meanwhile; that, and SIGWINCH,
is the business of who owns the host's terminal. The two descriptors may be pipes or sockets as well, of somebody who shows the
terminal elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.streams import host_stream
from asynckvm.linux.tty import requests
from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.termios import Termios, WindowSize
from asynckvm.linux.wait import wait

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.tty.pty import Master, Slave, Terminals
    from asynckvm.linux.tty.terminal import Terminal

# The other side of a terminal is closed; nobody reads the pipe or socket.
_GONE: Final = frozenset({errno.EIO, errno.EPIPE, errno.ECONNRESET})
# What is moved between two turns of the loop: every character that is typed or shown is looked at.
_PIECE: Final = 4096


class HostTerminal:
    """A terminal for programs, shown on `screen` and typed into from `keyboard`: host descriptors, which stay the caller's.

        async with sandbox.terminal(0, 1) as terminal:
            await sandbox.run(["bash"], terminal=terminal)

    It begins with the modes and the size of the host's terminal, where there is one. When the host's side is gone, programs are
    hung up on. Leaving it returns when everything is shown; a cancellation does not wait for that. Thread: loop.
    """

    def __init__(self, terminals: Terminals, keyboard: int, screen: int) -> None:
        """OSError for a descriptor that cannot be used."""
        self._screen_fd = screen
        self._keyboard: OpenFile = host_stream(keyboard)
        try:
            self._screen: OpenFile = host_stream(screen)
        except BaseException:
            self._keyboard.close()
            raise
        self._master: Master = terminals.open_master(os.O_RDWR)
        self._master.hold()
        self._pumps: list[asyncio.Task[None]] = []
        self._leaving = False
        self.terminal: Terminal = self._master.terminal
        self.terminal.locked = False
        if (image := _ask(keyboard, requests.TCGETS, t.BYTES)) is not None:
            self.terminal.set_termios(Termios.unpack(image))
        self.resize()
        # The programs' open file. It is held here: when all leave it others may come, only this object's end is the terminal's.
        self.slave: Slave = terminals.slave_of(self.terminal)
        self.slave.hold()

    def resize(self, rows: int | None = None, columns: int | None = None) -> None:
        """To this size, or to that of the host's terminal if there is one; for SIGWINCH. The foreground job gets one too."""
        if rows is not None and columns is not None:
            self.terminal.set_window(WindowSize(rows, columns))
        elif (image := _ask(self._screen_fd, requests.TIOCGWINSZ, t.WINDOW_BYTES)) is not None:
            self.terminal.set_window(WindowSize.unpack(image))

    async def __aenter__(self) -> Self:
        for way in (self._type(), self._show()):
            pump = asyncio.ensure_future(way)
            pump.add_done_callback(self._hang_up)
            self._pumps.append(pump)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving = True
        self.terminal.master_queue.wake()
        typing, showing = self._pumps
        try:
            typing.cancel()
            if kind is None:
                await asyncio.wait([showing])
        finally:
            showing.cancel()
            self._master.release()
            self.slave.release()
            await asyncio.wait(self._pumps)
            self._keyboard.close()
            self._screen.close()
        for pump in self._pumps:
            if not pump.cancelled() and (failure := pump.exception()) is not None:
                raise failure

    def _hang_up(self, _: asyncio.Task[None]) -> None:
        """Nobody types or nobody looks any more: as if the line broke."""
        if not self._leaving:
            self.terminal.disconnect()

    async def _type(self) -> None:
        while True:
            try:
                data = self._keyboard.read(_PIECE)
            except BlockingIOError:
                await wait((self._keyboard.queue,))
                continue
            except OSError as error:
                if error.errno in _GONE:
                    return
                raise
            if not data:
                return
            await _write(self._master, data)

    async def _show(self) -> None:
        while True:
            try:
                data = self._master.read(_PIECE)
            except BlockingIOError:
                if self._leaving:
                    return
                await wait((self._master.queue,))
                continue
            try:
                await _write(self._screen, data)
            except OSError as error:
                if error.errno in _GONE:
                    return
                raise


async def _write(target: OpenFile, data: bytes) -> None:
    """All of it; others have a turn after each piece."""
    done = 0
    while done < len(data):
        try:
            done += target.write(data[done:])
        except BlockingIOError:
            await wait((target.queue,))
        else:
            await asyncio.sleep(0)


def _ask(fd: int, request: int, size: int) -> bytes | None:
    """What a terminal answers, None for what is none."""
    try:
        return fcntl.ioctl(fd, request, bytes(size))
    except OSError:
        return None
