"""The ready queue: first in, first out, within a priority, in rounds that share time by weight.

Each priority has two halves. A context enters the current one while it has slice left, and the next one when its slice is used
up; when the current half is empty the halves swap, which is a new round. So in one round everybody gets one slice,
whether it comes as one long run or as a thousand short ones. In each half those whose last run was brief go before
those who keep a vCPU until they are thrown off: a program that makes system calls waits for what is in a mailbox already and not
for a queue of spinners, and its slice bounds what it can take from them. All operations are O(1) in the number of contexts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from asynckvm.model.config import Priority
from asynckvm.platform.scheduler.entity import Entity

__all__ = ["RunQueue"]

_Lane: TypeAlias = "OrderedDict[int, Entity]"

# While somebody has waited for starvation_ns, every so many picks the longest waiting head is taken: with n contexts waiting,
# none waits for more than AGED_EVERY * n further picks, whatever priorities and newcomers there are.
AGED_EVERY: Final = 4


class _Level:
    """One priority: current and next half, each with a lane for the brief and one for the long."""

    __slots__ = ("count", "lanes")

    def __init__(self) -> None:
        self.count = 0
        self.lanes: list[_Lane] = [OrderedDict(), OrderedDict(), OrderedDict(), OrderedDict()]


class RunQueue:
    """Ready contexts in the order in which vCPUs take them."""

    __slots__ = ("_calm_ns", "_downwards", "_levels", "_picks", "_starvation_ns", "count")

    def __init__(self, starvation_ns: int) -> None:
        self.count = 0
        self._levels = [_Level() for _ in Priority]
        self._downwards = tuple(reversed(self._levels))
        self._picks = 0
        self._starvation_ns = starvation_ns
        self._calm_ns = 0  # nobody can be starving before this time

    def push(self, entity: Entity) -> None:
        """Queue an entity at the end of its lane. It must not be queued."""
        level = self._levels[entity.priority]
        lane = level.lanes[(0 if entity.credit_ns > 0 else 2) + (0 if entity.brief else 1)]
        lane[entity.index] = entity
        entity.lane = lane
        entity.level = level
        level.count += 1
        self.count += 1

    def remove(self, entity: Entity) -> bool:
        """Take an entity out of the middle; False when it is not queued."""
        lane = entity.lane
        if lane is None:
            return False
        del lane[entity.index]
        entity.lane = None
        entity.level.count -= 1
        self.count -= 1
        return True

    def pop(self, now_ns: int) -> Entity:
        """The next one to run. The queue must not be empty."""
        if now_ns >= self._calm_ns:
            entity = self._pop_aged(now_ns)
            if entity is not None:
                return entity
        for level in self._downwards:
            if level.count:
                lanes = level.lanes
                lane = lanes[0] or lanes[1]
                if not lane:  # the next round
                    lanes[0], lanes[1], lanes[2], lanes[3] = lanes[2], lanes[3], lanes[0], lanes[1]
                    lane = lanes[0] or lanes[1]
                _, taken = lane.popitem(last=False)
                taken.lane = None
                level.count -= 1
                self.count -= 1
                return taken
        raise AssertionError("pop from an empty run queue")

    def pop_brief(self, now_ns: int) -> Entity | None:
        """The next one to run if it is brief and nobody may be starving; else None."""
        if now_ns < self._calm_ns:
            for level in self._downwards:
                if level.count:
                    lane = level.lanes[0]
                    if not lane:
                        return None
                    _, taken = lane.popitem(last=False)
                    taken.lane = None
                    level.count -= 1
                    self.count -= 1
                    return taken
        return None

    def _pop_aged(self, now_ns: int) -> Entity | None:
        """Every AGED_EVERY-th time: the longest waiting head, if it has waited too long."""
        self._picks += 1
        if self._picks % AGED_EVERY:
            return None
        heads = [next(iter(lane.values())) for level in self._levels for lane in level.lanes if lane]
        oldest = min(heads, key=lambda entity: entity.ready_ns)
        starving_ns = oldest.ready_ns + self._starvation_ns
        if now_ns < starving_ns:
            self._calm_ns = starving_ns  # whoever comes later starves later
            return None
        self.remove(oldest)
        return oldest
