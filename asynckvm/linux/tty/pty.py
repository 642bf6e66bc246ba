"""The two sides of a terminal as open files, and a sandbox's terminals: /dev/ptmx, /dev/pts, /dev/tty. Source: pty(7)."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import would_block
from asynckvm.linux.files.open_file import CHUNK, OpenFile
from asynckvm.linux.tty import requests
from asynckvm.linux.tty.terminal import Terminal
from asynckvm.linux.wait import POLLERR, POLLHUP, READABLE, WRITABLE

if TYPE_CHECKING:
    from asynckvm.linux.task import Task
    from asynckvm.linux.tty.terminal import Send

TERMINALS_MAX: Final = 256
# Each character is looked at: so many of those that are typed or shown in one go.
_TYPED_MAX: Final = 512
_SHOWN_MAX: Final = 2048
_TTY_GROUP: Final = 5
# What seems to be the device of /dev/pts, and its first inode that is a terminal.
_DEVPTS: Final = 24
_FIRST_INODE: Final = 3
_PTMX_INODE: Final = 2


class Master(OpenFile):
    """The side that shows the terminal and types into it."""

    def __init__(self, terminals: Terminals, terminal: Terminal, flags: int) -> None:
        super().__init__(flags)
        self.terminal = terminal
        self.queue = terminal.master_queue
        self._terminals = terminals

    @property
    def _abandoned(self) -> bool:
        """The slave side was open and is no longer."""
        return self.terminal.used and not self.terminal.slaves

    def read(self, length: int) -> bytes:
        data = self.terminal.show(min(length, CHUNK))
        if data or not length:
            return data
        if self._abandoned:
            raise SyscallError(errno.EIO)
        raise would_block()

    def write(self, data: bytes) -> int:
        taken = self.terminal.receive(data[:_TYPED_MAX])
        if not taken and data:
            raise would_block()
        return taken

    def poll(self) -> int:
        mask = READABLE if len(self.terminal.output) else 0
        mask |= WRITABLE if self.terminal.discipline.room else 0
        return mask | (POLLHUP if self._abandoned else 0)

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if request == requests.TIOCGPTPEER:
            slave = self._terminals.open_slave(task, self.terminal.number, argument & ~os.O_CLOEXEC, unlocked=True)
            return task.process.files.add(slave, close_on_exec=bool(argument & os.O_CLOEXEC))
        return requests.master(task, self.terminal, request, argument)

    def attributes(self) -> Attributes:
        born = self.terminal.born_ns
        return Attributes(
            _DEVPTS, _PTMX_INODE, stat.S_IFCHR | 0o666, special=os.makedev(5, 2), accessed=born, modified=born, changed=born
        )  # fmt: skip

    def describe(self) -> bytes:
        return super().describe() if self.location is not None else b"/dev/ptmx"

    def close(self) -> None:
        self._terminals.forget(self.terminal)
        self.terminal.disconnect()


class Slave(OpenFile):
    """The side that programs use."""

    def __init__(self, terminals: Terminals, terminal: Terminal, flags: int) -> None:
        super().__init__(flags)
        self.terminal = terminal
        self.queue = terminal.slave_queue
        self._terminals = terminals
        terminal.slaves += 1
        terminal.used = True

    async def read_for(self, task: Task, length: int) -> bytes:
        terminal = self.terminal
        if not length or terminal.hung_up:
            return b""
        began = time.monotonic_ns()
        # Looked at once: who goes to the background while it reads keeps what it gets.
        terminal.check_change(task, signal.SIGTTIN)
        while not terminal.hung_up and not terminal.readable(1 if self.nonblocking else length):
            until = terminal.deadline(began)
            if until is not None and until <= time.monotonic_ns():
                break
            if self.nonblocking:
                raise would_block()
            await task.wait(self.queue, until=until)
        return b"" if terminal.hung_up else terminal.take(min(length, CHUNK))

    def read(self, length: int) -> bytes:  # noqa: ARG002
        """Who reads is not known here, and matters: nobody may."""
        raise would_block()

    def write_for(self, task: Task, data: bytes) -> int:
        if not self.terminal.hung_up:
            self.terminal.check_write(task)
        return self.write(data)

    def write(self, data: bytes) -> int:
        if self.terminal.hung_up:
            raise SyscallError(errno.EIO)
        taken = self.terminal.write(data[:_SHOWN_MAX])
        if not taken and data:
            raise would_block()
        return taken

    def poll(self) -> int:
        if self.terminal.hung_up:
            return READABLE | WRITABLE | POLLERR | POLLHUP
        return (READABLE if self.terminal.readable() else 0) | (WRITABLE if self.terminal.writable else 0)

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if self.terminal.hung_up:
            raise SyscallError(errno.ENOTTY if request == requests.TIOCSPGRP else errno.EIO)
        return requests.slave(task, self.terminal, request, argument)

    def attributes(self) -> Attributes:
        return self._terminals.attributes(self.terminal)

    def describe(self) -> bytes:
        return super().describe() if self.location is not None else b"/dev/pts/%d" % self.terminal.number

    def close(self) -> None:
        self.terminal.slaves -= 1
        if not self.terminal.slaves:
            self.terminal.exclusive = False
            self.terminal.master_queue.wake(READABLE | POLLHUP)


class Terminals:
    """The terminals of a sandbox. `send` is how they signal processes, `user` owns their nodes."""

    def __init__(self, send: Send) -> None:
        self.user = 0
        self._send = send
        self._terminals: dict[int, Terminal] = {}

    @property
    def numbers(self) -> list[int]:
        """What /dev/pts lists."""
        return sorted(self._terminals)

    def __getitem__(self, number: int) -> Terminal:
        """KeyError when there is none."""
        return self._terminals[number]

    def open_master(self, flags: int) -> Master:
        """open(2) of /dev/ptmx: a new terminal, with the lowest number. ENOSPC when there are too many."""
        number = next((number for number in range(TERMINALS_MAX) if number not in self._terminals), None)
        if number is None:
            raise SyscallError(errno.ENOSPC)
        terminal = self._terminals[number] = Terminal(number, self._send)
        return Master(self, terminal, flags)

    def open_slave(self, task: Task, number: int, flags: int, *, unlocked: bool = False) -> Slave:
        """open(2) of /dev/pts/N. The first terminal that a session leader opens without O_NOCTTY becomes its controlling one."""
        terminal = self._terminals.get(number)
        if terminal is None:
            raise SyscallError(errno.ENXIO)
        if terminal.locked and not unlocked:
            raise SyscallError(errno.EIO)
        process = task.process
        if terminal.exclusive and not process.credentials.is_root:
            raise SyscallError(errno.EBUSY)
        slave = Slave(self, terminal, flags & ~os.O_NOCTTY)
        session = process.session
        if not flags & os.O_NOCTTY and session.leader is process and session.terminal is None and terminal.session is None:
            terminal.become_controlling(process)
        return slave

    def slave_of(self, terminal: Terminal) -> Slave:
        """The slave side, for a first process, which gets its controlling terminal from whoever starts it."""
        return Slave(self, terminal, os.O_RDWR)

    def open_controlling(self, task: Task, flags: int) -> Slave:
        """open(2) of /dev/tty. ENXIO for a process without controlling terminal."""
        terminal = task.process.session.terminal
        if terminal is None:
            raise SyscallError(errno.ENXIO)
        return Slave(self, terminal, flags & ~os.O_NOCTTY)

    def attributes(self, terminal: Terminal) -> Attributes:
        """Of the node in /dev/pts, and of every open file of it."""
        born = terminal.born_ns
        return Attributes(
            _DEVPTS, _FIRST_INODE + terminal.number, stat.S_IFCHR | 0o620, user=self.user, group=_TTY_GROUP, block_size=1024,
            special=os.makedev(136, terminal.number), accessed=born, modified=born, changed=born,
        )  # fmt: skip

    def forget(self, terminal: Terminal) -> None:
        """Its master is closed: the number is free, and /dev/pts has it no longer."""
        self._terminals.pop(terminal.number, None)
