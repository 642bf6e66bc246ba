"""One thing is broken on purpose, in a process of its own: what its history and its size are must not hide that.

python -m soak.planted NAME      one of BREAKS, or a method of which every fifth call is lost; prints the broken rows as JSON
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog
from kvm.guestcode import DATA
from soak import session
from soak.actors import killer
from soak.session import Session
from soak.table import summary
from stress import kills
from stress.lives import CELL

from asynckvm.platform import Context
from asynckvm.platform.passage import Passage
from asynckvm.run import run
from support.pace import paced

if TYPE_CHECKING:
    import random

KEPT: list[Any] = []
MORE_BYTES = 16 << 20


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


def lose_every_fifth(owner: Any, method: str) -> None:
    """An interrupt on its way into the core, or a task's cancellation on its way to its switch()."""
    real, calls = getattr(owner, method), itertools.count(1)

    def lossy(self: Any, *arguments: Any) -> Any:
        return True if next(calls) % 5 == 0 else real(self, *arguments)

    setattr(owner, method, lossy)


LOSSES = {"interrupt": Context, "cancel": Passage}


async def broken_rows(actors: dict[Any, int]) -> dict[str, str]:
    """By name, of a short soak."""
    soak = Session(actors, seconds=paced(1.2), checkpoint_seconds=paced(0.3))
    await soak.run()
    assert "BROKEN" in summary(soak)
    assert not soak.held
    return {row.name: row.broken for row in soak.rows if row.broken}


def main(name: str) -> None:
    # Bounds short enough to be reached.
    session.SETTLE_SECONDS = paced(0.2)  # type: ignore[misc]
    session.ACTION_SECONDS = paced(4)  # type: ignore[misc]
    session.GATE_SECONDS = paced(6)  # type: ignore[misc]
    Session._crowding = lambda self: 1.0  # type: ignore[method-assign]
    kills.KILL_SECONDS = paced(1)  # type: ignore[misc]
    if name in LOSSES:
        lose_every_fifth(LOSSES[name], name)
        actors: dict[Any, int] = {killer: 4}
    else:
        actors = {killer: 1, next(plant for plant in BREAKS if plant.__name__ == name): 1}
    print(json.dumps(run(broken_rows(actors))), flush=True)
    os._exit(0)  # what was leaked is not tidied up


if __name__ == "__main__":
    main(sys.argv[1])
