"""Runs a program on the host, bounded, with nothing left behind: what a run in a sandbox is compared with.

A Command is what both sides are given, an Outcome what both give back; support/sandbox.py is the other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run, the same natively and inside: every path in it is the same on both sides."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    seconds: float = 60.0
    # Numbers of user and group; None: those of the caller.
    user: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: returncode as subprocess has it, None when its time was over."""

    returncode: int | None
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def status(self) -> str:
        if self.returncode is None:
            return "timeout"
        return f"exit {self.returncode}" if self.returncode >= 0 else f"signal {-self.returncode}"


def run(command: Command) -> Outcome:
    """Runs it in a session of its own. When it ends, or its time does, whatever it started is killed."""
    _prepare()
    others = _children()
    started = time.monotonic()
    with subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=command.cwd,
        env=dict(command.env),
        start_new_session=True,
        user=command.user,
        group=command.user,
        extra_groups=None if command.user is None else [],
        umask=0o022,
    ) as process:
        # Orphans hold the pipes open, and output ends only when they do.
        sweeper = threading.Thread(target=_sweep_after, args=(process.pid, others), daemon=True)
        sweeper.start()
        timer = threading.Timer(command.seconds, _kill_session, (process.pid,))
        timer.start()
        try:
            stdout, stderr = process.communicate(command.stdin)
        finally:
            late = not timer.is_alive()
            timer.cancel()
            _kill_session(process.pid)
            sweeper.join()
    return Outcome(None if late else process.returncode, stdout, stderr, time.monotonic() - started)


@functools.cache
def _prepare() -> None:
    """From now on orphans of our children become ours: prctl(2), PR_SET_CHILD_SUBREAPER. And no child leaves a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between the two steps.
        with contextlib.suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return frozenset(found)


def _kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _sweep_after(leader: int, others: frozenset[int]) -> None:
    """Waits for the leader without reaping it, which is its Popen's to do, and then kills whom it left."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    while left := _children() - others - {leader}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
