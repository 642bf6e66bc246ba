"""Kills of real programs: busybox ended by signals, cancellation and time-outs, or by itself with a known result."""

from __future__ import annotations

import asyncio
import enum
import os
import signal
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from stress.histogram import Histogram
from stress.kills import KILL_SECONDS, LIFE_SECONDS, KillError

from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals import send
from asynckvm.sandbox import Reason, Sandbox

if TYPE_CHECKING:
    import random

    from asynckvm.platform import Machine
    from asynckvm.sandbox import CompletedProcess


class Errand(NamedTuple):
    """What a program is started with; `code` None for one that never ends by itself, a negative number for its signal."""

    arguments: tuple[str, ...]
    code: int | None
    output: bytes = b""
    waits: bool = False  # for input that never comes


ERRANDS: Final = (
    Errand(("echo", "a", "word"), 0, b"a word\n"),
    Errand(("seq", "1", "300"), 0, b"".join(b"%d\n" % number for number in range(1, 301))),
    Errand(("sleep", "0.004"), 0),
    Errand(("sh", "-c", "echo before; exit 7"), 7, b"before\n"),
    Errand(("sh", "-c", "kill -9 $$"), -9),
    Errand(("sleep", "1000"), None),
    Errand(("sh", "-c", "while :; do :; done"), None),
    Errand(("cat",), None, waits=True),
    # Several processes: what the first one leaves behind ends with the run, whatever ended that.
    Errand(("sh", "-c", "sleep 1000 & echo left; exit 3"), 3, b"left\n"),
    Errand(("sh", "-c", "seq 1 50 | sort -n | tail -n 1; exit $(echo 5)"), 5, b"50\n"),
    Errand(("sh", "-c", "while :; do sleep 1000 & :; sleep 0.002; done | cat"), None),
)


class Weapon(enum.Enum):
    """How a program is ended from outside: a signal, the run's task cancelled, a time-out around it, or that of the run."""

    KILL = signal.SIGKILL
    TERM = signal.SIGTERM
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    LIMIT = "limit"


class Programs:
    """Runs errands on one machine, each in a sandbox of its own. `input`: a descriptor on which nothing ever comes."""

    def __init__(self, machine: Machine, program: str, input_: int) -> None:
        self.machine, self.program, self.input = machine, program, input_
        self.runs = self.shots = self.killed = self.outlived = 0
        self.latency = Histogram()

    async def one(self, source: random.Random) -> None:
        """One program, killed or not. Raises KillError."""
        errand = source.choice(ERRANDS)
        weapon = source.choice(list(Weapon)) if errand.code is None or source.random() < 0.3 else None
        async with Sandbox(machine=self.machine) as sandbox:
            result = await Run(self, sandbox, errand, weapon, source).go()
        if weapon is None and (result is None or result.stdout != errand.output):
            raise KillError(f"{errand} gave {result!r}")


class Run:
    """One program and the shot at it, if there is one."""

    def __init__(
        self, programs: Programs, sandbox: Sandbox, errand: Errand, weapon: Weapon | None, source: random.Random
    ) -> None:
        self.programs, self.sandbox, self.errand, self.weapon, self.source = programs, sandbox, errand, weapon, source
        self.bound: asyncio.Timeout | None = None
        self.fired_ns = self.done_ns = 0
        self.ended_before = False
        # The run's own time-out is decided beforehand.
        self.limit = source.choice((0.0, source.random() * 0.004, source.random() * 0.03)) if weapon is Weapon.LIMIT else None

    async def go(self) -> CompletedProcess | None:
        """Its result; None when the call was ended."""
        programs, source = self.programs, self.source
        programs.runs += 1
        task = asyncio.create_task(self._timed())
        task.add_done_callback(self._done)
        if self.weapon is not None:
            programs.shots += 1
            moment = source.random()
            if self.weapon is Weapon.LIMIT:
                self.fired_ns = time.monotonic_ns() + int(1e9 * (self.limit or 0))
            elif moment < 0.2 and self.errand.code is not None:
                await asyncio.wait([task], timeout=LIFE_SECONDS)
            elif moment < 0.9:  # else before the task's first step
                await asyncio.sleep(source.choice((0, source.random() * 0.004, source.random() * 0.02)))
            self._fire(task)
        await asyncio.wait([task], timeout=LIFE_SECONDS if self.weapon is None else KILL_SECONDS)
        if not task.done():
            raise self._missed("it did not end")
        if left := self.sandbox.kernel.tasks:
            raise self._missed(f"{len(left)} threads are left")
        killed = self._judge(task)
        programs.killed += killed
        if killed:
            programs.latency.add(max(0, self.done_ns - self.fired_ns) / 1e9, str(self.errand))
        elif self.weapon is not None:
            programs.outlived += 1
        return None if task.cancelled() or task.exception() is not None else task.result()

    async def _timed(self) -> CompletedProcess:
        errand = self.errand
        async with asyncio.timeout(None) as self.bound:
            return await self.sandbox.run(
                [self.programs.program, *errand.arguments],
                input=self.programs.input if errand.waits else b"",
                timeout=self.limit,
            )

    def _done(self, _: object) -> None:
        self.done_ns = time.monotonic_ns()

    def _fire(self, task: asyncio.Task[CompletedProcess]) -> None:
        if self.weapon is Weapon.LIMIT:
            return
        self.ended_before = task.done()
        self.fired_ns = time.monotonic_ns()
        if self.weapon is Weapon.TIMEOUT and self.bound is not None:
            if not task.done():
                self.bound.reschedule(asyncio.get_running_loop().time())
        elif self.weapon is not None and isinstance(self.weapon.value, signal.Signals) and self.bound is not None:
            first = next((process for process in self.sandbox.kernel.processes.values() if process.origin is process), None)
            if first is not None:
                send.send_to_process(first, infos.from_user(self.weapon.value, 0, 0, reason="the test wants it"))
        elif self.weapon is not None:
            # What has not begun has no time-out and no process yet.
            self.weapon = Weapon.CANCEL
            task.cancel()

    def _judge(self, task: asyncio.Task[CompletedProcess]) -> bool:
        """Whether it was killed, rightly. Raises KillError."""
        weapon, code = self.weapon, self.errand.code
        if task.cancelled():
            if weapon is not Weapon.CANCEL or self.ended_before:
                raise self._missed("a false kill")
            return True
        if isinstance(task.exception(), TimeoutError):
            if weapon is not Weapon.TIMEOUT:
                raise self._missed("a false kill")
            return True
        result = task.result()
        if result.reason is Reason.TIMEOUT:
            if weapon is not Weapon.LIMIT:
                raise self._missed("a false kill")
            return True
        by_signal = weapon in {Weapon.KILL, Weapon.TERM} and not self.ended_before and result.detail == "the test wants it"
        if by_signal and weapon is not None and result.signal == weapon.value:
            return True
        if (weapon is Weapon.CANCEL and not self.ended_before) or code is None:
            raise self._missed(f"a missed kill: {result}")
        if result.returncode != code:
            raise self._missed(f"it {result}")
        return False

    def _missed(self, what: str) -> KillError:
        return KillError(f"{what}: {self.errand} shot at with {self.weapon}\n{self.programs.machine.dump()}")


def never() -> tuple[int, int]:
    """A pipe on which nothing comes while its second end is open."""
    return os.pipe2(os.O_CLOEXEC)
