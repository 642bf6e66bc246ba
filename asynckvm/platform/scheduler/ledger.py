"""Fairness as numbers: how long contexts waited, and how far their shares of vCPU time are from what their weights allow.

Costs two additions an exit; the shares are computed only when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.platform.scheduler.entity import Entity

__all__ = ["Fairness", "measure"]

# A context counts as always runnable when it ran or waited for this part of the window.
_HUNGRY: Final = 0.9


class Fairness(NamedTuple):
    """What `Scheduler.fairness` found since the window began.

    `window_ns`: its length. `hungry`: contexts that wanted a vCPU nearly all the time. `share_error`: the largest
    |share / entitled share - 1| among them, 0.0 for perfect; entitled by weight within equal priority. `max_wait_ns` and
    `mean_wait_ns`: from switch() to the pick from the ready queue.
    """

    window_ns: int
    hungry: int
    share_error: float
    max_wait_ns: int
    mean_wait_ns: int
    picks: int
    preemptions: int
    refused: int


def measure(entities: Iterable[Entity | None], window_start_ns: int, now_ns: int) -> tuple[int, float]:
    """(hungry contexts, share error) of the window. O(n): not for the hot path."""
    groups: dict[int, list[Entity]] = {}
    hungry = 0
    for entity in entities:
        if entity is None:
            continue
        wanted = entity.ran_ns + entity.waited_ns
        if entity.joined_ns <= window_start_ns and wanted >= _HUNGRY * (now_ns - window_start_ns) and entity.ran_ns + wanted > 0:
            groups.setdefault(entity.priority, []).append(entity)
            hungry += 1
    worst = 0.0
    for group in groups.values():
        ran = sum(entity.ran_ns for entity in group)
        weight = sum(entity.weight for entity in group)
        for entity in group:
            entitled = ran * entity.weight / weight
            if entitled > 0:
                worst = max(worst, abs(entity.ran_ns / entitled - 1))
    return hungry, worst
