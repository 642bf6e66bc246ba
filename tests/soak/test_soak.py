"""The soak itself: a short one holds, and each invariant is seen to break when something breaks it on purpose."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from soak import invariants
from soak.actors import ACTORS
from soak.invariants import Snapshot, climb, judge
from soak.planted import BREAKS, LOSSES, hangs
from soak.session import Session
from soak.table import summary
from stress.histogram import Histogram

from support import tree
from support.pace import paced

pytestmark = [pytest.mark.guests, pytest.mark.stress]


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


def broken_by(name: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(tree.ROOT / "tests")}
    command = [sys.executable, "-m", "soak.planted", name]
    found = subprocess.run(
        command, cwd=tree.ROOT, env=environment, capture_output=True, text=True, timeout=paced(50), check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    broken: dict[str, str] = json.loads(found.stdout.splitlines()[-1])
    return broken


@pytest.mark.parametrize("plant", BREAKS)
def test_a_planted_break_is_found(plant: Any) -> None:
    broken = broken_by(plant.__name__)
    assert BREAKS[plant] in broken, broken
    if plant is hangs:
        assert "vCPU 0" in broken[BREAKS[plant]], "the dump of all machines is told"


@pytest.mark.parametrize("method", LOSSES)
def test_a_swallowed_kill_is_found(method: str) -> None:
    broken = broken_by(method)
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
