"""One soak: actors in random mixes on one machine, stopped now and then for a look at what must be flat.

Endless spinners and witnesses run through everything, checkpoints too. Every wait is bounded: whatever hangs is told with a dump
of all machines and ends the soak. What actors do is theirs (`actors`), what must hold is `invariants`.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvm.guestcode import KEPT, Witness, vcpu_threads
from soak import invariants
from soak.invariants import Row, Snapshot
from soak.records import Records, Ticker
from stress.kills import Range, Tally
from stress.lives import Body, Kind, Life, Living, Nursery
from stress.programs import Programs, never

from asynckvm.platform import EngineConfig, Machine, open_machines
from support.hangs import dump_of_open_machines, stacks
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from soak.actors import Actor

MEMORY: Final = 256 << 20
SPINNERS: Final = 4
# Bounds on an ordinary machine: of one action, of the way to a checkpoint, of memory that dead spaces hold.
ACTION_SECONDS: Final = paced(90)
GATE_SECONDS: Final = paced(120)
SETTLE_SECONDS: Final = paced(20)
# Far longer than a vCPU that always has a guest lets dead spaces wait.
STILL_SECONDS: Final = 0.5
LAG_P99_SECONDS: Final = paced(0.25)
# Spread of the spinners' shares of vCPU time over the whole soak: standard deviation by mean. A short one has few slices.
SPREAD_MOST: Final = 0.25
SPREAD_LEAST_NS: Final = 2_000_000_000
# On a crowded host a vCPU's thread waits seconds for a processor, and a run that was told to return waits with it.
OVERDUE_NS: Final = int(paced(20) * 1e9)
_POOL: Final = 4
# Checkpoints that only warm up caches and allocators.
WARM_UP: Final = 1
CHECKPOINTS_LEAST: Final = WARM_UP + 3


async def within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but not longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def processor_times() -> tuple[int, int]:
    """Nanoseconds in which this process's loop and vCPU threads ran, and in which they were ready and did not."""
    ran = waited = 0
    for task in [os.getpid(), *vcpu_threads()]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/self/task/{task}/schedstat").read_text(encoding="ascii").split()
            ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran, waited


class BrokenError(Exception):
    """An invariant that does not hold."""


class Session:
    """Made, run once, then asked for its `rows`, one for each invariant."""

    def __init__(
        self,
        actors: Mapping[Actor, int],
        *,
        seconds: float,
        seed: str = "1",
        vcpus: int = 2,
        checkpoint_seconds: float = 20.0,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.seconds, self.seed, self.vcpus, self.progress = seconds, seed, vcpus, progress
        self.checkpoint_seconds = min(checkpoint_seconds, seconds / 4)
        self.actors = actors
        self.broken: list[str] = []
        self.rows: list[Row] = []
        self.snapshots: list[Snapshot] = []
        self.actions: collections.Counter[str] = collections.Counter()
        self.tally = Tally()
        self.records = Records()
        self.ticker = Ticker()
        self.spinners: list[Body] = []
        self.witnesses: list[Witness] = []
        self.busy: set[Witness] = set()  # witnesses that run just now
        self.shares: list[int] = []
        self.machine: Machine
        self.nursery: Nursery
        self.range: Range
        self.programs: Programs | None = None
        self.folder: Path
        self._open = asyncio.Event()
        self._parked = 0
        self._times = processor_times()
        self._all_parked = asyncio.Event()
        self._over = asyncio.Event()

    # ------------------------------------------------------------ from birth to end

    async def run(self) -> Session:
        pool = concurrent.futures.ThreadPoolExecutor(_POOL)
        asyncio.get_running_loop().set_default_executor(pool)
        barrier = threading.Barrier(_POOL)
        for _ in range(_POOL):
            pool.submit(barrier.wait)  # all of its threads, now
        engine = EngineConfig(overdue_ns=OVERDUE_NS)
        with pool, tempfile.TemporaryDirectory(prefix="soak-") as name, self.records, warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"(context \d+|address space) was not closed", ResourceWarning)  # the forgetter's
            self.folder = Path(name)
            async with Machine.open(vcpus=self.vcpus, memory=MEMORY, engine=engine) as self.machine:
                with Nursery(self.machine, self.folder) as self.nursery:
                    self.range = Range(self.machine, self.tally)
                    await self._with_programs()
        return self

    async def _with_programs(self) -> None:
        path = shutil.which("busybox")
        if path is None:
            await self._play()
            return
        reader, writer = never()
        with open(reader, "rb"), open(writer, "wb"):
            self.programs = Programs(self.machine, path, reader)
            await self._play()

    async def _play(self) -> None:
        background = [asyncio.create_task(self.ticker.run())]
        for number in range(SPINNERS):
            self.spinners.append(Body(self.nursery))
            life = Life.choose(random.Random(number), Kind.SPIN, endless=True)
            background.append(asyncio.create_task(self._spin(self.spinners[-1], life)))
        self.witnesses = [await Witness(self.machine).prepare() for _ in range(2)]
        players = [
            asyncio.create_task(self._perform(actor, number), name=f"{actor.__name__} {number}")
            for actor, count in self.actors.items()
            for number in range(count)
        ]
        self._open.set()
        try:
            await self._conduct(len(players))
        except BrokenError as error:
            self.broken.append(str(error))
        except Exception as error:  # noqa: BLE001  (a witness's complaint, at a checkpoint)
            self.broken.append("".join(traceback.format_exception(error)))
        self._over.set()
        self._open.set()
        await self._stop(players, background)
        if self.broken:  # what still runs ends as it can, with its machine
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        self.rows = self.judge()
        self.rows.append(Row("no hang, kill or result wrong", f"{len(self.broken)} broken", "none", "\n".join(self.broken)))
        if not self.broken:
            self._close()

    async def _stop(self, players: list[asyncio.Task[None]], background: list[asyncio.Task[None]]) -> None:
        done, late = await asyncio.wait(players, timeout=0 if self.broken else GATE_SECONDS)
        for task in [*late, *background]:
            task.cancel()
        _, stuck = await asyncio.wait([*late, *background], timeout=GATE_SECONDS)
        if stuck:
            self.broken.append(self._hang(f"{len(stuck)} tasks do not end"))
        self.broken += [f"{task.get_name()}: {task.exception()!r}" for task in done if not task.cancelled() and task.exception()]

    def _close(self) -> None:
        for body in self.spinners:
            body.close()
        for witness in self.witnesses:
            witness.close()
        KEPT.clear()

    async def _spin(self, body: Body, life: Life) -> None:
        exit_ = await Living(body, life, random.Random(0)).run()
        self._break(f"an endless spinner ended with {exit_}")

    # ------------------------------------------------------------ actors and checkpoints

    async def _perform(self, actor: Actor, number: int) -> None:
        source = random.Random(f"{self.seed} {actor.__name__} {number}")
        while not self._over.is_set():
            if not self._open.is_set():
                self._parked += 1
                self._all_parked.set()
                await self._open.wait()
                self._parked -= 1
                continue
            task = asyncio.create_task(actor(self, source))
            await asyncio.wait([task], timeout=ACTION_SECONDS)
            if not task.done():
                self._break(self._hang(f"{actor.__name__} {number} hangs"))
                task.cancel()
                return
            if not task.cancelled() and task.exception() is not None:
                self._break(f"{actor.__name__} {number}: " + "".join(traceback.format_exception(task.exception())))
                return
            if task.cancelled():
                self._break(f"{actor.__name__} {number}: a kill meant for somebody else")
                return
            self.actions[actor.__name__] += 1

    def _break(self, what: str) -> None:
        self.broken.append(what)
        self._over.set()

    def _hang(self, what: str) -> str:
        return f"{what}\n{dump_of_open_machines()}\n{stacks(asyncio.all_tasks())}"

    async def _conduct(self, players: int) -> None:
        started = time.monotonic()
        # On a crowded host the time is over before enough has been seen.
        while not self._over.is_set() and (time.monotonic() < started + self.seconds or len(self.snapshots) < CHECKPOINTS_LEAST):
            until = time.monotonic() + self.checkpoint_seconds
            while (left := until - time.monotonic()) > 0 and not self._over.is_set():
                await within(min(left, 5.0), self._over)
                self.progress(self._line(time.monotonic() - started))
            if not self._over.is_set():
                await self._checkpoint(players, time.monotonic() - started)

    async def _checkpoint(self, players: int, seconds: float) -> None:
        self._open.clear()
        until = time.monotonic() + GATE_SECONDS
        while self._parked < players and not self._over.is_set():
            self._all_parked.clear()
            if time.monotonic() > until:
                raise BrokenError(self._hang(f"{players - self._parked} actors do not come to the checkpoint"))
            await within(1.0, self._all_parked)
        if self._over.is_set():
            return
        for witness in self.witnesses:
            await witness.check()
        KEPT.clear()
        await self._take(seconds)
        self.shares = self.shares or [body.context.counters.ran_ns for body in self.spinners]
        self._open.set()

    async def _take(self, seconds: float) -> None:
        """A snapshot, as soon as what dead spaces hold has come back; within a bound. The first one has none to be compared
        with: it is taken when nothing comes back any more."""
        until = time.monotonic() + SETTLE_SECONDS
        before = self.snapshots[0] if self.snapshots else None
        while True:
            snapshot = invariants.take(self.machine, len(open_machines()), seconds)
            settled = before is not None and all(getattr(snapshot, name) == getattr(before, name) for name in invariants.LATE)
            if settled or time.monotonic() > until:
                self.snapshots.append(snapshot)
                return
            if not self.snapshots:
                before = snapshot
            await asyncio.sleep(0.02 if self.snapshots else STILL_SECONDS)  # between looks

    # ------------------------------------------------------------ what came of it

    def _line(self, seconds: float) -> str:
        lag = self.ticker.lag.milliseconds()
        return (
            f"{seconds:6.0f} s  {sum(self.actions.values())} actions  {self.tally.shots} shots  {len(self.snapshots)} checkpoints"
            f"  RSS {invariants.resident_bytes() >> 20} MiB  lag p99 {lag['p99']} ms  worst {lag['worst']} ms"
        )

    def _crowding(self) -> float:
        """Time in which our threads wanted a processor, by time in which they had one: bounds that neighbours break scale."""
        ran, waited = processor_times()
        return 1 + (waited - self._times[1]) / max(1, ran - self._times[0])

    def _spread(self) -> Row:
        """How far the spinners' shares of guest time since the first checkpoint are apart."""
        most = SPREAD_MOST * self._crowding()
        bound = f"{most:.2f} of the mean"
        if not self.shares:
            return Row("spinners' spread", "no checkpoint", bound, "there was no checkpoint")
        ran = [body.context.counters.ran_ns - before for body, before in zip(self.spinners, self.shares, strict=True)]
        mean = statistics.fmean(ran)
        spread = statistics.pstdev(ran) / mean if mean else 1.0
        broken = f"shares of guest time in ns: {ran}" if spread > most and mean > SPREAD_LEAST_NS else ""
        broken = broken or ("" if min(ran) else f"a spinner starved: {ran}")
        return Row("spinners' spread", f"{spread:.3f} of {mean / 1e9:.2f} s", bound, broken)

    @property
    def held(self) -> bool:
        """Whether every invariant did."""
        return bool(self.rows) and not any(row.broken for row in self.rows)

    def judge(self) -> list[Row]:
        """Every invariant, while the machine is still open."""
        lag, records = self.ticker.lag.milliseconds(), self.records
        rows = invariants.judge(self.snapshots[WARM_UP:]) if len(self.snapshots) > WARM_UP else []
        crowding = self._crowding()
        most = LAG_P99_SECONDS * 1e3 * crowding
        rows.append(Row("crowding", f"{crowding:.2f}", "scales the next two", ""))
        rows.append(Row("loop lag p99 ms", f"{lag['p99']}", f"{most:.0f}", "the loop is late" if lag["p99"] > most else ""))
        rows.append(self._spread())
        rows.append(Row("log records", str(dict(records.events)), "ordinary ones", "\n".join(records.unexpected)))
        idle = [actor.__name__ for actor in self.actors if not self.actions[actor.__name__]]
        rows.append(Row("actions", str(sum(self.actions.values())), "some of each", f"nothing done by {idle}" if idle else ""))
        return rows
