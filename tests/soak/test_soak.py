"""The soak itself: a short one holds, and each invariant is seen to break when something breaks it on purpose."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from kvm.guestcode import DATA
from soak import invariants, session
from soak.actors import ACTORS, killer
from soak.invariants import Snapshot, climb, judge
from soak.session import Session
from soak.table import summary
from stress import kills
from stress.histogram import Histogram
from stress.lives import CELL

from asynckvm.platform import Context
from support.pace import paced

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

pytestmark = [pytest.mark.kvm, pytest.mark.stress]

KEPT: list[Any] = []
MORE_BYTES = 16 << 20


@pytest.mark.timeout(240)
async def test_a_short_soak_holds() -> None:
    lines: list[str] = []
    soak = Session(ACTORS, seconds=paced(8), checkpoint_seconds=paced(2), progress=lines.append)
    await soak.run()
    print(summary(soak))
    assert soak.held, summary(soak)
    assert len(soak.snapshots) >= 4
    assert soak.tally.killed > 0
    assert any("RSS" in line for line in lines)


# ------------------------------------------------------------ planted breaks: one thing wrong, and the row that must tell


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bounds short enough to be reached, and nothing kept afterwards."""
    monkeypatch.setattr(session, "SETTLE_SECONDS", paced(0.2))
    monkeypatch.setattr(session, "ACTION_SECONDS", paced(4))
    monkeypatch.setattr(session, "GATE_SECONDS", paced(6))
    monkeypatch.setattr(Session, "_crowding", lambda self: 1.0)
    monkeypatch.setattr(kills, "KILL_SECONDS", paced(1))
    yield
    for thing in KEPT:
        if isinstance(thing, int):
            os.close(thing)
        elif isinstance(thing, threading.Event):
            thing.set()
        elif isinstance(thing, asyncio.Task):
            thing.cancel()
    KEPT.clear()


async def leaks_a_descriptor(soak: Session, source: random.Random) -> None:
    KEPT.append(os.dup(0))
    await asyncio.sleep(0.05)


async def leaks_a_space(soak: Session, source: random.Random) -> None:
    KEPT.append(soak.nursery.space.fork())
    KEPT[-1].write(CELL, b"kept")
    await asyncio.sleep(0.05)


async def leaks_a_context(soak: Session, source: random.Random) -> None:
    KEPT.append(soak.machine.create_context(soak.nursery.space.fork()))
    await asyncio.sleep(0.05)


async def leaks_a_thread(soak: Session, source: random.Random) -> None:
    KEPT.append(threading.Event())
    threading.Thread(target=KEPT[-1].wait, daemon=True).start()
    await asyncio.sleep(0.2)


async def leaks_a_task(soak: Session, source: random.Random) -> None:
    KEPT.append(asyncio.create_task(asyncio.Event().wait()))
    await asyncio.sleep(0.05)


async def leaks_bytes(soak: Session, source: random.Random) -> None:
    KEPT.append(bytearray(b"\x01") * MORE_BYTES)
    await asyncio.sleep(0.1)


async def leaks_objects(soak: Session, source: random.Random) -> None:
    KEPT.append([[] for _ in range(2000)])
    await asyncio.sleep(0.1)


async def holds_the_loop_up(soak: Session, source: random.Random) -> None:
    time.sleep(1.5 * session.LAG_P99_SECONDS)
    await asyncio.sleep(0)


async def logs_what_nobody_expects(soak: Session, source: random.Random) -> None:
    structlog.get_logger("asynckvm").error("abnormal_end", context=1)
    await asyncio.sleep(0.2)


async def kills_somebody_else(soak: Session, source: random.Random) -> None:
    source.choice([context for context in soak.machine._contexts if not context.closed]).interrupt()
    await asyncio.sleep(0.01)


async def writes_into_a_witness(soak: Session, source: random.Random) -> None:
    soak.witnesses[0].guest.space.write(DATA, b"not yours")
    await asyncio.sleep(0.2)


async def hangs(soak: Session, source: random.Random) -> None:
    await asyncio.Event().wait()


BREAKS = {
    leaks_a_descriptor: "descriptors",
    leaks_a_space: "frames",
    leaks_a_context: "contexts",
    leaks_a_thread: "native_threads",
    leaks_a_task: "tasks",
    leaks_bytes: "rss",
    leaks_objects: "objects",
    holds_the_loop_up: "loop lag p99 ms",
    logs_what_nobody_expects: "log records",
    kills_somebody_else: "no hang, kill or result wrong",
    writes_into_a_witness: "no hang, kill or result wrong",
    hangs: "no hang, kill or result wrong",
}


async def broken_rows(actors: dict[Any, int]) -> dict[str, str]:
    soak = Session(actors, seconds=paced(1.2), checkpoint_seconds=paced(0.3))
    await soak.run()
    assert "BROKEN" in summary(soak)
    assert not soak.held
    return {row.name: row.broken for row in soak.rows if row.broken}


@pytest.mark.usefixtures("let_go")
@pytest.mark.parametrize("plant", BREAKS)
async def test_a_planted_break_is_found(plant: Any) -> None:
    broken = await broken_rows({killer: 1, plant: 1})
    assert BREAKS[plant] in broken, broken
    if plant is hangs:
        assert "vCPU 0" in broken[BREAKS[plant]], "the dump of all machines is told"


@pytest.mark.usefixtures("let_go")
@pytest.mark.parametrize("method", ["interrupt", "cancel"])
async def test_a_swallowed_kill_is_found(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Every fifth is lost: an interrupt on its way into the core, or a task's cancellation on its way to its switch()."""
    owner: Any = Context
    if method == "cancel":
        from asynckvm.platform.passage import Passage

        owner = Passage
    real, calls = getattr(owner, method), itertools.count(1)

    def lossy(self: Any, *arguments: Any) -> Any:
        return True if next(calls) % 5 == 0 else real(self, *arguments)

    monkeypatch.setattr(owner, method, lossy)
    broken = await broken_rows({killer: 4})
    assert "no hang, kill or result wrong" in broken, broken


# ------------------------------------------------------------ arithmetic


def snapshots(**series: list[int]) -> list[Snapshot]:
    length = len(next(iter(series.values())))
    zeroes = dict.fromkeys(Snapshot._fields, 0)
    return [
        Snapshot(**{**zeroes, "seconds": float(number), **{name: values[number] for name, values in series.items()}})
        for number in range(length)
    ]


def test_a_line_through_noise_is_flat_and_through_growth_is_not() -> None:
    assert climb(snapshots(rss=[0, 9, 1, 8, 2, 7, 0, 9, 0]), "rss") < 3
    assert climb(snapshots(rss=[0, 10, 20, 30, 40]), "rss") == pytest.approx(40)
    assert climb(snapshots(rss=[5]), "rss") == 0


def test_growth_that_the_ends_hide_is_found_by_the_line() -> None:
    most = invariants.RSS_TOLERANCE
    hidden = snapshots(rss=[0, most, 2 * most, 3 * most, 4 * most, 5 * most, 0])
    assert [row.name for row in judge(hidden) if row.broken] == ["rss"]
    assert not any(row.broken for row in judge(snapshots(rss=[most // 2, 0, most // 2, 0, most // 2])))


def test_a_histogram_knows_percentiles_and_the_worst() -> None:
    histogram = Histogram()
    for number in range(1, 1001):
        histogram.add(number / 1e3, str(number))
    assert histogram.percentile(0.5) == pytest.approx(0.5, rel=0.05)
    assert histogram.percentile(0.99) == pytest.approx(0.99, rel=0.05)
    assert (histogram.worst, histogram.worst_was) == (1.0, "1000")
    assert math.isclose(histogram.milliseconds()["worst"], 1000)
    assert Histogram().percentile(0.5) == 0
