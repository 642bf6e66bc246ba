"""A campaign of storms: one program after the other, a few at a time, in a scratch folder that must stay as it was. Ends with the
first broken invariant."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzz import storm
from fuzz.campaign import LATE
from fuzz.judge import BrokenError
from fuzz.ledger import Ledger, descriptors
from fuzz.witness import Witness

from asynckvm import linux
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.platform import Machine

_AT_ONCE: Final = 4
_CAPTURE_BYTES: Final = 1 << 20
_WITNESS_EVERY: Final = 4
_LIMIT_PAGES: Final = 8192
# Host descriptors that one program may make this process hold, and the highest number of a call that it may make it remember.
_DESCRIPTORS: Final = 1500
_CALL_NUMBERS: Final = 1024
_LOOK_EVERY: Final = 4
DEEP: Final = Path(*["d"] * 24)


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
                status = await self._storm(case)
        except TimeoutError:
            raise BrokenError("killed, but it did not end", self.suspects()) from None
        except BrokenError:
            raise
        except Exception as error:
            raise BrokenError(f"{type(error).__name__} escaped: {error}", self.suspects()) from error
        ended = str(status)
        self.totals.ends[ended] = self.totals.ends.get(ended, 0) + 1
        del self.running[place]

    async def _storm(self, case: storm.Storm) -> linux.ExitStatus:
        out = linux.Capture(_CAPTURE_BYTES)
        loop = asyncio.get_running_loop()
        with linux.Program(self._file) as program:
            async with linux.Guest(
                self.machine, program, ["storm"], directory=self._folder, stdin=storm.encode(case), stdout=out, stderr=out
            ) as guest:
                guest.process.space.limit(_LIMIT_PAGES)
                timer = loop.call_later(paced(0.001 * (5 + case.kill_after_ms)), self._kill, guest)
                try:
                    status = await guest.run()
                finally:
                    timer.cancel()
                self.totals.calls += sum(guest.process.calls.values())
                if (number := max(guest.process.calls, default=0)) > _CALL_NUMBERS:
                    raise BrokenError(f"call number {number}, of a guest's own making, is remembered", self.suspects())
        if not isinstance(status, linux.ExitStatus) or (status.code is None) == (status.signal is None):
            raise BrokenError(f"ended in no way a program can end: {status!r}", self.suspects())
        return status

    def _kill(self, guest: linux.Guest) -> None:
        self.totals.kills += 1
        guest.kill(signal.SIGKILL)

    def suspects(self) -> tuple[tuple[int, int], ...]:
        """The storms under way."""
        return tuple((case.seed, case.number) for case in self.running.values())
