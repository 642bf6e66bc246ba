"""The owner of an open file: who gets a signal when the file, with O_ASYNC, becomes ready.

Source: fcntl(2) F_SETOWN and F_SETSIG, fs/fcntl.c (send_sigio).

An owner hears every wake-up of its file from the moment it is named and looks at O_ASYNC then, so that turning the flag on and
off has nothing to arrange.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
import weakref
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.groups import ProcessGroup
from asynckvm.linux.process import Process
from asynckvm.linux.signals import info as siginfo
from asynckvm.linux.signals import send
from asynckvm.linux.signals.numbers import SI_SIGIO, SIGNALS
from asynckvm.linux.wait import POLLIN, POLLOUT, POLLPRI, READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.task import Task

# si_code of SIGPOLL and the band that goes with it, by what happened.
_POLL_IN, _POLL_OUT, _POLL_PRI = 1, 2, 5
POLL_MSG: Final = 3
MESSAGE: Final = READABLE | 0x400
_BANDS: Final = ((POLLIN, _POLL_IN, READABLE), (POLLOUT, _POLL_OUT, WRITABLE | 0x200), (POLLPRI, _POLL_PRI, POLLPRI | 0x80))
# Signals whose codes mean something of their own: they say SI_SIGIO instead.
_WITH_CODES: Final = frozenset(
    {signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP, signal.SIGCHLD, signal.SIGPOLL, signal.SIGSYS}
)


class Kind(enum.IntEnum):
    """F_OWNER_*."""

    THREAD = 0
    PROCESS = 1
    GROUP = 2


class Owner:
    """Of one open file. `number` is 0 while nobody is named, `signal` 0 for a plain SIGIO."""

    def __init__(self, kernel: Kernel, file: OpenFile) -> None:
        self.kind = Kind.PROCESS
        self.number = 0
        # Who had the number when it was named: somebody else may have it later.
        self._who: weakref.ref[Task | Process | ProcessGroup] | None = None
        self.signal = 0
        self._kernel = kernel
        self._file = file
        self._descriptor = -1
        self._users = (0, 0)  # real and effective user of who named the owner

    def name(self, task: Task, kind: Kind, number: int) -> None:
        """F_SETOWN and F_SETOWN_EX. ESRCH when there is nobody of that number; 0 is nobody."""
        who = self._find(kind, number)
        if number and who is None:
            raise SyscallError(errno.ESRCH)
        self.kind, self.number, self._who = kind, number, weakref.ref(who) if who is not None else None
        credentials, files = task.process.credentials, task.process.files
        self._users = credentials.ruid, credentials.euid
        self._descriptor = next((fd for fd in files if files.get(fd) is self._file), -1)
        (self._file.queue.watch if number else self._file.queue.unwatch)(self._happened)

    def set_signal(self, number: int) -> None:
        """F_SETSIG."""
        if not 0 <= number <= SIGNALS:
            raise SyscallError(errno.EINVAL)
        self.signal = number

    @property
    def named(self) -> int:
        """Whom F_GETOWN names: 0 when the owner is gone."""
        return self.number if self._targets() else 0

    def claim(self, task: Task) -> None:
        """The caller is to be told, unless somebody was named already: F_NOTIFY, F_SETLEASE."""
        if not self.number:
            self.name(task, Kind.PROCESS, task.process.pid)

    def _find(self, kind: Kind, number: int) -> Task | Process | ProcessGroup | None:
        kernel = self._kernel
        tables: dict[Kind, Mapping[int, Task | Process | ProcessGroup]] = {
            Kind.THREAD: kernel.tasks,
            Kind.PROCESS: kernel.processes,
            Kind.GROUP: kernel.groups,
        }
        return tables[kind].get(number)

    def _targets(self) -> list[tuple[Process, Task | None]]:
        """Processes, or one of their threads; nobody once who was named is gone."""
        who = self._who() if self._who is not None else None
        if who is None or self._find(self.kind, self.number) is not who:
            return []
        if isinstance(who, ProcessGroup):
            return [(process, None) for process in who.processes.values()]
        return [(who, None)] if isinstance(who, Process) else [(who.process, who)]

    def _happened(self, events: int) -> None:
        if not self._file.flags & os.O_ASYNC:
            return
        for event, code, band in _BANDS:
            if events & event:
                self.tell(code, band)
                return

    def tell(self, code: int, band: int) -> None:
        """Send the signal, whatever O_ASYNC says: POLL_* and the events that go with it."""
        for process, task in self._targets():
            if not process.exited and self._may(process):
                self._send(process, task, code, band)

    def _send(self, process: Process, task: Task | None, code: int, band: int) -> None:
        if self.signal:
            own = SI_SIGIO if self.signal in _WITH_CODES and self.signal != signal.SIGPOLL else code
            try:
                _send(process, task, siginfo.from_descriptor(self.signal, own, band, self._descriptor))
            except SyscallError:
                pass  # the queue is full: a SIGIO says that something was lost
            else:
                return
        _send(process, task, siginfo.from_kernel(signal.SIGIO))

    def _may(self, process: Process) -> bool:
        real, effective = self._users
        theirs = process.credentials
        return effective == 0 or bool({real, effective} & {theirs.ruid, theirs.suid})


def _send(process: Process, task: Task | None, info: siginfo.SigInfo) -> None:
    if task is None:
        send.send_to_process(process, info)
    else:
        send.send_to_task(task, info)


def owner_of(task: Task, file: OpenFile) -> Owner:
    """The file's; made when it is first asked for."""
    if file.signalled is None:
        file.signalled = Owner(task.process.kernel, file)
    return file.signalled
