"""What the scheduler remembers of one context. Data only; `policy` changes it."""

from __future__ import annotations

from typing import Any

__all__ = ["NOWHERE", "Entity"]

NOWHERE = -1


class Entity:
    """One context in the scheduler's books; times in nanoseconds."""

    __slots__ = (
        "brief",
        "credit_ns",
        "index",
        "joined_ns",
        "lane",
        "last",
        "level",
        "priority",
        "ran_ns",
        "ready_ns",
        "slice_ns",
        "vcpu",
        "waited_ns",
        "weight",
    )

    def __init__(self, index: int, weight: float, priority: int, quantum_ns: int, now_ns: int) -> None:
        self.index = index
        self.weight = weight
        self.priority = priority
        self.slice_ns = max(1, int(quantum_ns * weight))
        self.credit_ns = self.slice_ns  # guest time left in this round
        self.brief = True  # the last run ended by itself and early
        self.vcpu = NOWHERE  # submitted to
        self.last = NOWHERE  # ran on, the last time
        self.lane: Any = None  # of the run queue; None when not queued
        self.level: Any = None
        # The ledger.
        self.joined_ns = now_ns
        self.ready_ns = now_ns  # when switch() was called
        self.ran_ns = 0
        self.waited_ns = 0
