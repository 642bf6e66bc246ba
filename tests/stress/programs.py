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

from asynckvm.linux import Capture, ExitStatus, Guest

if TYPE_CHECKING:
    import random

    from asynckvm.linux import Program
    from asynckvm.platform import Machine


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
)


class Weapon(enum.Enum):
    """How a program is ended from outside."""

    KILL = signal.SIGKILL
    TERM = signal.SIGTERM
    CANCEL = "cancel"
    TIMEOUT = "timeout"


class Programs:
    """Runs errands on one machine, one after the other or side by side. `input`: a descriptor on which nothing ever comes."""

    def __init__(self, machine: Machine, program: Program, input_: int) -> None:
        self.machine, self.program, self.input = machine, program, input_
        self.runs = self.shots = self.killed = self.outlived = 0
        self.latency = Histogram()

    async def one(self, source: random.Random) -> None:
        """One program, killed or not. Raises KillError."""
        errand = source.choice(ERRANDS)
        weapon = source.choice(list(Weapon)) if errand.code is None or source.random() < 0.3 else None
        output = Capture()
        arguments = ["busybox", *errand.arguments]
        guest = Guest(
            self.machine, self.program, arguments, stdin=self.input if errand.waits else b"", stdout=output, stderr=output
        )
        await Run(self, guest, errand, weapon, source).go()
        if weapon is None and bytes(output.data) != errand.output:
            raise KillError(f"{errand} wrote {bytes(output.data)!r}")


class Run:
    """One program and the shot at it, if there is one."""

    def __init__(self, programs: Programs, guest: Guest, errand: Errand, weapon: Weapon | None, source: random.Random) -> None:
        self.programs, self.guest, self.errand, self.weapon, self.source = programs, guest, errand, weapon, source
        self.bound: asyncio.Timeout | None = None
        self.fired_ns = self.done_ns = 0
        self.ended_before = False

    async def go(self) -> None:
        programs, source = self.programs, self.source
        programs.runs += 1
        task = asyncio.create_task(self._timed())
        task.add_done_callback(self._done)
        if self.weapon is not None:
            programs.shots += 1
            moment = source.random()
            if moment < 0.2 and self.errand.code is not None:
                await asyncio.wait([task], timeout=LIFE_SECONDS)
            elif moment < 0.9:  # else before the task's first step
                await asyncio.sleep(source.choice((0, source.random() * 0.004, source.random() * 0.02)))
            self._fire(task)
        await asyncio.wait([task], timeout=LIFE_SECONDS if self.weapon is None else KILL_SECONDS)
        if not task.done():
            raise self._missed("it did not end")
        killed = self._judge(task)
        programs.killed += killed
        if killed:
            programs.latency.add((self.done_ns - self.fired_ns) / 1e9, str(self.errand))
        elif self.weapon is not None:
            programs.outlived += 1
        self.guest.close()

    async def _timed(self) -> ExitStatus:
        async with asyncio.timeout(None) as self.bound:
            return await self.guest.run()

    def _done(self, _: object) -> None:
        self.done_ns = time.monotonic_ns()

    def _fire(self, task: asyncio.Task[ExitStatus]) -> None:
        self.ended_before = task.done()
        self.fired_ns = time.monotonic_ns()
        if self.weapon is Weapon.CANCEL:
            task.cancel()
        elif self.weapon is Weapon.TIMEOUT:
            if self.bound is not None and not task.done():
                self.bound.reschedule(asyncio.get_running_loop().time())
            elif self.bound is None:
                self.weapon = Weapon.CANCEL  # the time-out begins with the task's first step
                task.cancel()
        elif self.weapon is not None:
            self.guest.kill(self.weapon.value, reason="the test wants it")

    def _judge(self, task: asyncio.Task[ExitStatus]) -> bool:
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
        status = task.result()
        by_signal = weapon in {Weapon.KILL, Weapon.TERM} and not self.ended_before and status.reason == "the test wants it"
        if by_signal and weapon is not None and status.signal == weapon.value:
            return True
        if (weapon is Weapon.CANCEL and not self.ended_before) or code is None:
            raise self._missed(f"a missed kill: {status}")
        if status.returncode != code:
            raise self._missed(f"it {status}")
        return False

    def _missed(self, what: str) -> KillError:
        return KillError(f"{what}: {self.errand} shot at with {self.weapon}\n{self.programs.machine.dump()}")


def never() -> tuple[int, int]:
    """A pipe on which nothing comes while its second end is open."""
    return os.pipe2(os.O_CLOEXEC)
