"""A terminal: two sides, the line discipline between them, and the session whose jobs it controls.

The slave side is what programs know as their terminal, the master side is who shows it to a user. Who may read and write, and
who hears of what is typed, is job control; how a signal is sent is the business of the `send` that was given.
Source: tty_ioctl(4), credentials(7), drivers/tty/tty_jobctrl.c, drivers/tty/pty.c.
"""

from __future__ import annotations

import errno
import signal
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.discipline import Discipline
from asynckvm.linux.tty.output import Output
from asynckvm.linux.tty.termios import Termios, WindowSize
from asynckvm.linux.wait import ANYTHING, READABLE, WRITABLE, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asynckvm.linux.groups import ProcessGroup, Session
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

# Send a signal, as the kernel, to each of these.
Send: TypeAlias = "Callable[[Iterable[Process], int], None]"
# VTIME counts tenths of a second.
_TENTH: Final = 100_000_000


class Terminal:
    """Number `number` of /dev/pts. `slave_queue` is woken for programs, `master_queue` for who shows the terminal."""

    def __init__(self, number: int, send: Send) -> None:
        self.number: int = number
        self.window: WindowSize = WindowSize()
        self.session: Session | None = None
        self.foreground: ProcessGroup | None = None
        self.slave_queue = WaitQueue()
        self.master_queue = WaitQueue()
        # The master is gone: nothing comes and nothing goes any more.
        self.hung_up = False
        # TIOCSPTLCK: the slave cannot be opened yet.
        self.locked = True
        self.exclusive: bool = False
        # Open files of the slave side, and whether there ever was one.
        self.slaves = 0
        self.used = False
        self.output = Output(lambda: self.master_queue.wake(READABLE))
        self.discipline = Discipline(self.output, self._interrupt)
        self.born_ns = time.time_ns()
        self._send = send
        self._received_ns = 0

    # ------------------------------------------------------------ settings

    @property
    def termios(self) -> Termios:
        return self.discipline.termios

    def set_termios(self, termios: Termios) -> None:
        self.discipline.set_termios(termios)
        self.output.termios = termios
        self.slave_queue.wake()

    def set_window(self, window: WindowSize) -> None:
        """The foreground hears of a change."""
        if window != self.window:
            self.window = window
            self.signal_foreground(signal.SIGWINCH)

    def flush(self, *, typed: bool, shown: bool) -> None:
        """tcflush(3), from the slave's point of view."""
        if typed:
            self.discipline.flush()
            self.master_queue.wake(WRITABLE)
        if shown:
            self.output.flush()
            self.slave_queue.wake(WRITABLE)

    # ------------------------------------------------------------ the slave side

    def readable(self, length: int | None = None) -> bool:
        """Whether a read of `length`, or of any size, need not wait for more; VTIME is not looked at."""
        if self.termios.lflag & t.ICANON:
            return self.discipline.has_line
        wanted = max(1, self.termios.cc[t.VMIN])
        if length is None and self.termios.cc[t.VTIME]:
            wanted = 1
        return self.discipline.available >= (wanted if length is None else min(wanted, length))

    def deadline(self, began_ns: int) -> int | None:
        """When a read that began then takes what there is, though it is less than VMIN or nothing; None for never."""
        minimum, tenths = self.termios.cc[t.VMIN], self.termios.cc[t.VTIME]
        if self.termios.lflag & t.ICANON:
            return None
        if not minimum:
            return began_ns + tenths * _TENTH
        if tenths and self.discipline.available:
            return max(began_ns, self._received_ns) + tenths * _TENTH
        return None

    def take(self, length: int) -> bytes:
        """What was typed; room for more is made."""
        data = self.discipline.take(length)
        self.master_queue.wake(WRITABLE)
        return data

    @property
    def writable(self) -> bool:
        return not self.discipline.stopped and self.output.room > 0

    def write(self, data: bytes) -> int:
        """What a program shows; how much was taken."""
        return 0 if self.discipline.stopped else self.output.write(data)

    def set_stopped(self, *, stopped: bool) -> None:
        """tcflow(3), or VSTOP and VSTART."""
        self.discipline.stopped = stopped
        if not stopped:
            self.slave_queue.wake(WRITABLE)

    # ------------------------------------------------------------ the master side

    def receive(self, data: bytes) -> int:
        """What is typed; how much was taken."""
        was_stopped = self.discipline.stopped
        taken = self.discipline.receive(data)
        self._received_ns = time.monotonic_ns()
        if self.discipline.has_line:
            self.slave_queue.wake(READABLE)
        if was_stopped and not self.discipline.stopped:
            self.slave_queue.wake(WRITABLE)
        return taken

    def show(self, length: int) -> bytes:
        """What is to be shown."""
        data = self.output.take(length)
        if data:
            self.slave_queue.wake(WRITABLE)
        return data

    def disconnect(self) -> None:
        """The master side was closed, as if the line broke: the session loses its terminal."""
        self.hung_up = True
        session, group = self.session, self.foreground
        self._let_go()
        self.slave_queue.wake(ANYTHING)
        if session is None:
            return
        if session.leader is not None:
            self._send([session.leader], signal.SIGHUP)
            self._send([session.leader], signal.SIGCONT)
        if group is not None:
            others = [process for process in group.processes.values() if process is not session.leader]
            self._send(others, signal.SIGHUP)
            self._send(others, signal.SIGCONT)

    # ------------------------------------------------------------ job control

    def signal_foreground(self, number: int) -> None:
        """To the group that has the terminal, if any."""
        if self.foreground is not None:
            self._send(list(self.foreground.processes.values()), number)

    def _interrupt(self, number: int) -> None:
        """A character that means a signal was typed."""
        self.signal_foreground(number)
        self.slave_queue.wake()

    def controls(self, process: Process) -> bool:
        """Whether this is the process's controlling terminal."""
        return self.session is not None and process.session is self.session

    def check_change(self, task: Task, number: int = signal.SIGTTOU) -> None:
        """The task reads, writes or sets something: one in the background is stopped instead, or refused with EIO."""
        process = task.process
        if not self.controls(process) or self.foreground is None or process.group is self.foreground:
            return
        if process.actions.is_ignored(number) or task.mask >> (number - 1) & 1:
            if number == signal.SIGTTIN:
                raise SyscallError(errno.EIO)
            return
        if process.group.orphaned:
            raise SyscallError(errno.EIO)
        self._send(list(process.group.processes.values()), number)
        raise SyscallError(ERESTARTSYS)

    def check_write(self, task: Task) -> None:
        """A write from the background stops only with TOSTOP."""
        if self.termios.lflag & t.TOSTOP:
            self.check_change(task)

    def become_controlling(self, process: Process, *, steal: bool = False) -> None:
        """TIOCSCTTY: of a session leader that has none. EPERM for anybody else."""
        session = process.session
        if session.leader is process and self.session is session:
            return
        if session.leader is not process or session.terminal is not None:
            raise SyscallError(errno.EPERM)
        if self.session is not None:
            if not steal:
                raise SyscallError(errno.EPERM)
            self._let_go()
        self.session = session
        self.foreground = process.group
        session.terminal = self

    def give_up(self, process: Process) -> None:
        """TIOCNOTTY: from the leader it means that the whole session has the terminal no longer."""
        if not self.controls(process):
            raise SyscallError(errno.ENOTTY)
        if process.session.leader is process:
            self._leave((signal.SIGHUP, signal.SIGCONT))

    def hang_up(self, session: Session) -> None:
        """The leader of the session has ended."""
        if self.session is session:
            self._leave((signal.SIGHUP,))

    def _leave(self, numbers: tuple[int, ...]) -> None:
        group = self.foreground
        self._let_go()
        if group is not None:
            members = list(group.processes.values())
            for number in numbers:
                self._send(members, number)

    def _let_go(self) -> None:
        if self.session is not None:
            self.session.terminal = None
        self.session = self.foreground = None

    def set_foreground(self, task: Task, number: int) -> None:
        """TIOCSPGRP: another group of the same session."""
        process = task.process
        try:
            self.check_change(task)
        except SyscallError as error:
            raise SyscallError(errno.ENOTTY if error.number == errno.EIO else error.number) from None
        if not self.controls(process):
            raise SyscallError(errno.ENOTTY)
        if number < 0:
            raise SyscallError(errno.EINVAL)
        group = process.kernel.groups.get(number)
        if group is None:
            raise SyscallError(errno.ESRCH)
        if group.session is not self.session:
            raise SyscallError(errno.EPERM)
        self.foreground = group
