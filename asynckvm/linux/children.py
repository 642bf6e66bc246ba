"""What wait4(2) and waitid(2) have in common: which children are meant, and which of them has something to report."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.linux import ending
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

WNOHANG, WUNTRACED, WSTOPPED, WEXITED, WCONTINUED = 1, 2, 2, 4, 8
WNOWAIT: Final = 0x0100_0000
_WNOTHREAD, _WALL, _WCLONE = 0x2000_0000, 0x4000_0000, 0x8000_0000
WAIT4_OPTIONS: Final = WNOHANG | WUNTRACED | WCONTINUED | _WNOTHREAD | _WALL | _WCLONE
WAITID_OPTIONS: Final = WNOHANG | WSTOPPED | WEXITED | WCONTINUED | WNOWAIT | _WNOTHREAD | _WALL | _WCLONE


@dataclass(frozen=True, slots=True)
class Report:
    """What happened to a child: `code` is CLD_*, `status` an exit code or a signal number, `cpu_ns` its processor time."""

    pid: int
    user: int
    code: int
    status: int
    cpu_ns: int
    resident_max: int

    @property
    def wait_status(self) -> int:
        """As wait4(2) encodes it."""
        if self.code == numbers.CLD_EXITED:
            return self.status << 8
        if self.code == numbers.CLD_STOPPED:
            return self.status << 8 | 0x7F
        if self.code == numbers.CLD_CONTINUED:
            return 0xFFFF
        return self.status


async def wait_for(task: Task, wanted: Callable[[Process], bool], options: int) -> Report | None:
    """The next report of a child that is wanted. None with WNOHANG when there is none yet; ECHILD when there is no such child."""
    process = task.process
    interrupted: SyscallError | None = None
    while True:
        candidates = [child for child in process.children.values() if wanted(child) and _is_meant(child, options)]
        for child in candidates:
            report = _report(child, options)
            if report is not None:
                return report
        if not candidates:
            raise SyscallError(errno.ECHILD)
        if options & WNOHANG:
            return None
        # A child that ends sends a signal, too: what there is to report comes before the signal's handler.
        if interrupted is not None:
            raise interrupted
        try:
            await task.wait(process.child_queue)
        except SyscallError as error:
            interrupted = error


def _is_meant(child: Process, options: int) -> bool:
    """Children that report with another signal than SIGCHLD are "clone" children. Source: wait(2), Linux notes."""
    return bool(options & _WALL) or (child.exit_signal != signal.SIGCHLD) == bool(options & _WCLONE)


def _report(child: Process, options: int) -> Report | None:
    if child.exited:
        if not options & WEXITED or child.ended is None:
            return None
        ended = child.ended
        code, status = (numbers.CLD_EXITED, ended.code or 0) if ended.signal is None else (numbers.CLD_KILLED, ended.signal)
        report = _about(child, code, status)
        if not options & WNOWAIT:
            ending.collect(child)
        return report
    job = child.job
    wanted = (WSTOPPED if job.news == numbers.CLD_STOPPED else 0) | (WCONTINUED if job.news == numbers.CLD_CONTINUED else 0)
    if not wanted & options:
        return None
    code = job.news
    if not options & WNOWAIT:
        job.news = 0
    return _about(child, code, job.stopped if code == numbers.CLD_STOPPED else signal.SIGCONT)


def _about(child: Process, code: int, status: int) -> Report:
    return Report(child.pid, child.credentials.ruid, code, status, child.cpu_ns + child.children_ns, child.resident_max)
