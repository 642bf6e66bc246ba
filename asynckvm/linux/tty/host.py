"""A user's terminal as a guest's: what is typed there goes to the master of a pseudoterminal, what the guest shows comes from it.

The line discipline in between is the sandbox's own, so the host's terminal has to be in raw mode meanwhile; that, and SIGWINCH,
is the business of who owns the host's terminal.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.open_file import CHUNK
from asynckvm.linux.streams import host_stream
from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.termios import WindowSize
from asynckvm.linux.wait import wait

if TYPE_CHECKING:
    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.tty.pty import Master, Slave, Terminals

_TIOCGWINSZ: Final = 0x5413


class HostTerminal:
    """`slave` is the guest's terminal, for its three standard streams. Descriptors stay the caller's. Thread: loop."""

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
        self._master.terminal.locked = False
        self.slave: Slave = terminals.slave_of(self._master.terminal)
        self.resize()

    def resize(self) -> None:
        """Take over the size of the host's terminal, if it is one; for SIGWINCH."""
        try:
            image = fcntl.ioctl(self._screen_fd, _TIOCGWINSZ, bytes(t.WINDOW_BYTES))
        except OSError:
            return
        self._master.terminal.set_window(WindowSize.unpack(image))

    async def run(self) -> None:
        """Pass everything on until the guest's side is closed and everything is shown; forever while it is open."""
        typing = asyncio.ensure_future(_pump(self._keyboard, self._master))
        try:
            await _pump(self._master, self._screen)
        finally:
            typing.cancel()
            await asyncio.wait([typing])
        if not typing.cancelled() and (error := typing.exception()) is not None:
            raise error

    def close(self) -> None:
        """Hang up, and give everything back. Not while `run()` is under way."""
        self._master.release()
        self._keyboard.close()
        self._screen.close()


async def _pump(source: OpenFile, target: OpenFile) -> None:
    """From one to the other, until the end of either."""
    while True:
        try:
            data = source.read(CHUNK)
        except BlockingIOError:
            await wait((source.queue,))
            continue
        except (SyscallError, OSError) as error:
            if _is_end(error):
                return
            raise
        if not data or not await _write(target, data):
            return
        await asyncio.sleep(0)


async def _write(target: OpenFile, data: bytes) -> bool:
    """Write all of it; False when nobody is there any more."""
    done = 0
    while done < len(data):
        try:
            done += target.write(data[done:])
        except BlockingIOError:
            await wait((target.queue,))
        except OSError as error:
            if _is_end(error):
                return False
            raise
    return True


def _is_end(error: SyscallError | OSError) -> bool:
    """A terminal whose other side is closed answers EIO, a pipe EPIPE."""
    number = error.number if isinstance(error, SyscallError) else error.errno
    return number in (errno.EIO, errno.EPIPE)
