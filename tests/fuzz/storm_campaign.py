"""A campaign of storms: one program after the other, a few at a time, in a scratch folder that must stay as it was. Ends with the
first broken invariant."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzz import storm
from fuzz.campaign import LATE
from fuzz.judge import BrokenError
from fuzz.ledger import Ledger, descriptors
from fuzz.witness import Witness

from asynckvm.linux.report import Reporter
from asynckvm.sandbox import CompletedProcess, Limits, Reason, Sandbox
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.linux.process import Process
    from asynckvm.linux.status import ExitStatus
    from asynckvm.linux.task import Task
    from asynckvm.platform import Machine

_AT_ONCE: Final = 4
_WITNESS_EVERY: Final = 4
_LIMITS: Final = Limits(memory=32 << 20, processes=16, output=1 << 20, files=16 << 20)
# Host descriptors that one program may make this process hold, and the highest number of a call that it may make it remember.
_DESCRIPTORS: Final = 1500
_CALL_NUMBERS: Final = 1024
_LOOK_EVERY: Final = 4
DEEP: Final = Path(*["d"] * 24)


class _Watch(Reporter):
    """Counts the calls of all processes of a storm. `highest`: the highest number that is kept of them. `failure`: the first
    exception that no program should cause."""

    calls = highest = 0

    failure: Exception | None = None

    def failed(self, task: Task, error: Exception) -> None:
        self.failure = self.failure or error
        super().failed(task, error)

    def ended(self, process: Process, status: ExitStatus) -> None:
        self.calls += sum(process.calls.values())
        self.highest = max(self.highest, *process.calls, 0)
        super().ended(process, status)


@dataclass
class Totals:
    """What the storms have done so far. `stall_seconds`: the longest time the event loop was held up."""

    cases: int = 0
    witness_turns: int = 0
    calls: int = 0
    kills: int = 0
    stall_seconds: float = 0.0
    seconds: float = 0.0
    ends: dict[str, int] = field(default_factory=dict)


def furnish(folder: Path) -> None:
    """A few paths for storms to find."""
    (folder / "folder").mkdir()
    (folder / "inside").write_bytes(b"content\n" * 100)
    (folder / "link").symlink_to("inside")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / DEEP).mkdir(parents=True)


def picture(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything a program could change in the folder: names, modes, sizes, times, contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


class StormCampaign:
    """`await run(storms)`, in `folder`, which it furnishes. `after_case` as in Campaign."""

    def __init__(
        self,
        machine: Machine,
        folder: Path,
        *,
        late: float = LATE,
        checkpoint: int = 500,
        after_case: Callable[[StormCampaign], None] | None = None,
        note: Callable[[int, int], None] | None = None,
    ) -> None:
        self.machine = machine
        self.totals = Totals()
        self._folder = folder / "scratch"
        self._folder.mkdir()
        furnish(self._folder)
        self._file = folder / "storm"
        self._file.write_bytes(storm.program())
        self._file.chmod(0o755)
        self._late = late
        self._checkpoint = checkpoint
        self._after_case = after_case
        self._note = note
        self._witness = Witness(machine, 0)
        self._witness_turn = asyncio.Lock()
        self.ledger = Ledger(machine, time.monotonic, late)
        self.running: dict[int, storm.Storm] = {}

    async def run(self, storms: Iterator[storm.Storm]) -> Totals:
        """Raises BrokenError."""
        started = time.monotonic()
        try:
            for _ in range(2):
                await self._witness.turn()
            await self._one(0, storm.Storm(0, 0, (storm.CallRecord(39, (0,) * 6),), 50))  # what is made once is made now
            await self.ledger.open()
            before = picture(self._folder)
            while await self._stretch(storms):
                await self.ledger.check()
                if (after := picture(self._folder)) != before:
                    raise BrokenError(f"files changed: {set(before.items()) ^ set(after.items())}")
        finally:
            self.totals.seconds += time.monotonic() - started
        return self.totals

    def close(self) -> None:
        self._witness.close()

    async def _stretch(self, storms: Iterator[storm.Storm]) -> bool:
        begun = self.totals.cases
        quota = [self._checkpoint]
        tasks = [asyncio.create_task(self._work(place, storms, quota)) for place in range(_AT_ONCE)]
        pulse = asyncio.create_task(self._pulse(tasks))
        try:
            done, _ = await asyncio.wait([*tasks, pulse], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in [*tasks, pulse]:
                task.cancel()
            await asyncio.wait([*tasks, pulse], timeout=self._late)
        return self.totals.cases > begun

    async def _pulse(self, tasks: list[asyncio.Task[None]]) -> None:
        """No program may hold up the event loop."""
        last, idle = time.monotonic(), descriptors()
        for look in itertools.count():
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(0.001)
            if not look % _LOOK_EVERY and (found := descriptors() - idle) > _DESCRIPTORS * max(1, len(self.running)):
                raise BrokenError(f"the programs hold {found} descriptors of this process", self.suspects())
            now = time.monotonic()
            self.totals.stall_seconds = max(self.totals.stall_seconds, now - last)
            if now - last > self._late:
                raise BrokenError(f"the event loop stood still for {now - last:.3f} s", self.suspects())
            last = now

    async def _work(self, place: int, storms: Iterator[storm.Storm], quota: list[int]) -> None:
        while quota[0] > 0 and (case := next(storms, None)) is not None:
            quota[0] -= 1
            if self._note is not None:
                self._note(case.seed, case.number)
            await self._one(place, case)
            self.totals.cases += 1
            if not self.totals.cases % _WITNESS_EVERY:
                async with self._witness_turn:
                    await self._witness.turn()
                self.totals.witness_turns += 1
            if self._after_case is not None:
                self._after_case(self)

    async def _one(self, place: int, case: storm.Storm) -> None:
        self.running[place] = case
        try:
            async with asyncio.timeout(self._late):
                result = await self._storm(case)
        except TimeoutError:
            raise BrokenError("killed, but it did not end", self.suspects()) from None
        except BrokenError:
            raise
        except Exception as error:
            raise BrokenError(f"{type(error).__name__} escaped: {error}", self.suspects()) from error
        ended = str(result)
        self.totals.ends[ended] = self.totals.ends.get(ended, 0) + 1
        del self.running[place]

    async def _storm(self, case: storm.Storm) -> CompletedProcess:
        # Loading the program takes its part, beside three others.
        seconds = paced(0.05 + 0.002 * case.kill_after_ms)
        binds = [(str(self._folder), "/scratch"), (str(self._file), "/storm")]
        watch = _Watch()
        async with Sandbox(machine=self.machine, binds=binds, cwd="/scratch", limits=_LIMITS, observer=watch) as sandbox:
            result = await sandbox.run(["/storm"], input=storm.encode(case), timeout=seconds)
            if left := sandbox.kernel.tasks:
                raise BrokenError(f"{len(left)} threads are left of an ended program", self.suspects())
        if watch.failure is not None:
            raise watch.failure
        self.totals.kills += result.reason is Reason.TIMEOUT
        self.totals.calls += watch.calls
        if watch.highest > _CALL_NUMBERS:
            raise BrokenError(f"call number {watch.highest}, of a guest's own making, is remembered", self.suspects())
        return result

    def suspects(self) -> tuple[tuple[int, int], ...]:
        """The storms under way."""
        return tuple((case.seed, case.number) for case in self.running.values())
