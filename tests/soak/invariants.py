"""What must stay flat, and how it is measured and judged: of the process, and of a machine in which nothing transient is left.

Numbers that belong to us (descriptors, threads, tasks, frames, spaces, contexts) must be equal at each checkpoint; those that an
allocator has a say in must stay within a tolerance, and must not climb.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from support import descriptors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.platform import Machine

PAGE: Final = 4096
# Bytes and objects by which the last checkpoint may differ from the first one, and the fitted line over all of them may climb.
RSS_TOLERANCE: Final = 24 << 20
OBJECTS_TOLERANCE: Final = 2000
# With fewer checkpoints a line says nothing.
_LEAST_FOR_SLOPE: Final = 4


class Snapshot(NamedTuple):
    """One checkpoint."""

    seconds: float
    rss: int
    objects: int
    descriptors: int
    threads: int
    native_threads: int
    tasks: int
    frames: int
    tables: int
    spaces: int
    contexts: int
    limbo: int
    slots: int
    machines: int


EXACT: Final = (
    "descriptors",
    "threads",
    "native_threads",
    "tasks",
    "frames",
    "tables",
    "spaces",
    "contexts",
    "limbo",
    "slots",
    "machines",
)
TOLERATED: Final = {"rss": RSS_TOLERANCE, "objects": OBJECTS_TOLERANCE}
# What dead spaces hold until their vCPUs come by.
LATE: Final = ("frames", "tables", "spaces", "limbo", "slots", "contexts", "tasks")


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def take(machine: Machine, machines: int, seconds: float) -> Snapshot:
    """Of now; nothing transient may be running."""
    gc.collect()
    counters = machine.counters()
    memory = counters.memory
    return Snapshot(
        seconds=seconds,
        rss=resident_bytes(),
        objects=len(gc.get_objects()),
        descriptors=descriptors.count(),
        threads=threading.active_count(),
        native_threads=len(os.listdir("/proc/self/task")),
        tasks=len(asyncio.all_tasks()),
        frames=memory.frames_used,
        tables=memory.tables_used,
        spaces=memory.spaces,
        contexts=counters.contexts,
        limbo=memory.limbo_frames,
        slots=memory.file_slots,
        machines=machines,
    )


def climb(snapshots: Sequence[Snapshot], name: str) -> float:
    """By how much the least-squares line over all checkpoints climbs from the first to the last."""
    times = [snapshot.seconds for snapshot in snapshots]
    values = [getattr(snapshot, name) for snapshot in snapshots]
    mean_time, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - mean_time) ** 2 for time in times)
    if not spread:
        return 0.0
    slope = sum((time - mean_time) * (value - mean) for time, value in zip(times, values, strict=True)) / spread
    return float(slope * (times[-1] - times[0]))


class Row(NamedTuple):
    """One line of the summary: `broken` says what is wrong, or is empty."""

    name: str
    shown: str
    bound: str
    broken: str


def judge(snapshots: Sequence[Snapshot]) -> list[Row]:
    """Each quantity over all checkpoints since the warm-up."""
    rows = []
    for name in EXACT:
        values = [getattr(snapshot, name) for snapshot in snapshots]
        wrong = [value for value in values if value != values[0]]
        shown = f"{values[0]} .. {values[-1]}"
        rows.append(Row(name, shown, "equal", f"{name} changed: {values}" if wrong else ""))
    for name, tolerance in TOLERATED.items():
        values = [getattr(snapshot, name) for snapshot in snapshots]
        grown = values[-1] - values[0]
        line = climb(snapshots, name) if len(values) >= _LEAST_FOR_SLOPE else 0.0
        broken = f"{name} grew by {grown}, its line by {line:.0f}: {values}" if max(grown, line) > tolerance else ""
        shown = f"{values[0]} .. {values[-1]}, line {line:+.0f}"
        rows.append(Row(name, shown, f"+{tolerance}", broken))
    return rows
