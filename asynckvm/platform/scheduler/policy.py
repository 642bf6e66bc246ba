"""`Scheduler.step`: the one place where events become commands.

First in, first out with weights and priorities (`runqueue`), near the last vCPU (`placement`), a slice that ends only when
somebody waits, a bound on those who wait, and books about all of it (`ledger`). Invariant between steps: while a
context is queued, every mailbox holds 1 + `ahead`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.errors import InternalError, UsageError
from asynckvm.platform.scheduler import ledger
from asynckvm.platform.scheduler.entity import NOWHERE, Entity
from asynckvm.platform.scheduler.messages import (
    ARM_TICK,
    DONE,
    INTERRUPT,
    JOIN,
    LEAVE,
    READY,
    REFUSE,
    SUBMIT,
    TICK,
    TUNE,
    WITHDRAW,
)
from asynckvm.platform.scheduler.placement import Placement
from asynckvm.platform.scheduler.runqueue import RunQueue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.model.config import SchedulerConfig
    from asynckvm.platform.scheduler.messages import Command, Event, Running

__all__ = ["UNNOTED", "Scheduler"]

# What `enqueue` answers when only `step` can tell.
UNNOTED: Final = -2

# A run shorter than this part of the quantum that ended by itself marks a context as brief.
_BRIEF_PART: Final = 8
# A slice is never worth less than this part of itself, whatever debt an earlier overrun left.
_LEAST_PART: Final = 4


class Scheduler:
    """Deciding state of one machine. Not thread-safe; the engine's loop thread owns it."""

    def __init__(self, vcpus: int, contexts: int, config: SchedulerConfig) -> None:
        self._config = config
        self._quantum_ns = config.quantum_ns
        self._brief_ns = config.quantum_ns // _BRIEF_PART
        self._max_waiting = config.max_waiting
        self._entities: list[Entity | None] = [None] * contexts
        self._queue = RunQueue(config.starvation_ns)
        self._shallow = 1 + config.ahead
        self._deep = self._shallow + config.brief_ahead
        self._placement = Placement(vcpus, self._deep)
        self._armed = False
        self._window_ns = 0
        self._max_wait_ns = 0
        self._total_wait_ns = 0
        self._picks = 0
        self._preemptions = 0
        self._refused = 0

    @property
    def waiting(self) -> int:
        """Contexts in the ready queue."""
        return self._queue.count

    @property
    def flight(self) -> int:
        """Contexts submitted and not done."""
        return self._placement.flight

    def depth(self, vcpu: int) -> int:
        """Contexts submitted to one vCPU and not done."""
        return self._placement.depth(vcpu)

    def step(self, now_ns: int, events: Iterable[Event]) -> list[Command]:
        """Take note of events, in order; returns what to do, in order. O(1) in the number of contexts for each event."""
        commands: list[Command] = []
        for event in events:
            kind = event[0]
            if kind == DONE:
                self._done(now_ns, event, commands)
            elif kind == READY:
                self._ready(now_ns, event[1], commands)
            else:
                self._rare(now_ns, event, commands)
        if not self._armed and (self._queue.count or self._placement.flight > 1):
            self._armed = True
            commands.append((ARM_TICK, now_ns + self._quantum_ns, 0))
        return commands

    def enqueue(self, now_ns: int, index: int) -> int:
        """READY in short: the vCPU to submit it to, or NOWHERE: it waits behind others. UNNOTED: call `step` instead."""
        entity = self._entities[index]
        if entity is None or entity.lane is not None or entity.vcpu >= 0:
            return UNNOTED
        queue, placement = self._queue, self._placement
        if queue.count:
            if not self._armed or queue.count >= self._max_waiting:
                return UNNOTED
            entity.ready_ns = now_ns
            queue.push(entity)
            return NOWHERE
        if placement.flight and not self._armed:
            return UNNOTED
        vcpu = self._room(entity)
        if vcpu < 0:
            return UNNOTED
        entity.ready_ns = now_ns
        self._send(entity, vcpu)
        return vcpu

    def finish(self, now_ns: int, index: int, ran_ns: int, ran_on: int) -> bool:
        """DONE in short, for when nobody waits: True, with nothing to do. False: nothing was noted, call `step`."""
        entity = self._entities[index]
        if self._queue.count or entity is None or entity.vcpu < 0:
            return False
        self._book(now_ns, entity, ran_ns, ran_on)
        return True

    def fairness(self, now_ns: int) -> ledger.Fairness:
        """Measure since the last `restart_window`. O(n) in contexts."""
        hungry, error = ledger.measure(self._entities, self._window_ns, now_ns)
        mean = self._total_wait_ns // self._picks if self._picks else 0
        return ledger.Fairness(
            max(0, now_ns - self._window_ns),
            hungry,
            error,
            self._max_wait_ns,
            mean,
            self._picks,
            self._preemptions,
            self._refused,
        )

    def restart_window(self, now_ns: int) -> None:
        """Begin a new measuring window. O(n) in contexts."""
        self._window_ns = now_ns
        self._max_wait_ns = self._total_wait_ns = self._picks = self._preemptions = self._refused = 0
        for entity in self._entities:
            if entity is not None:
                entity.ran_ns = entity.waited_ns = 0

    def _ready(self, now_ns: int, index: int, commands: list[Command]) -> None:
        entity = self._entities[index]
        if entity is None or entity.vcpu >= 0 or entity.lane is not None:
            raise InternalError(f"context {index} became ready while it was queued or submitted")
        entity.ready_ns = now_ns
        if not self._queue.count:
            vcpu = self._room(entity)
            if vcpu >= 0:
                self._send(entity, vcpu)
                commands.append((SUBMIT, index, vcpu))
                return
        elif self._queue.count >= self._max_waiting:
            self._refused += 1
            commands.append((REFUSE, index, 0))
            return
        self._queue.push(entity)

    def _room(self, entity: Entity) -> int:
        """A vCPU for a context that has nobody before it; NOWHERE when every mailbox is as deep as may be."""
        known_brief = entity.brief and entity.last >= 0
        return self._placement.choose(entity.last, self._deep if known_brief else self._shallow)

    def _send(self, entity: Entity, vcpu: int) -> None:
        # Nobody waits in the queue: what was used up before was used up at nobody's cost.
        entity.credit_ns = entity.slice_ns
        entity.vcpu = vcpu
        self._placement.add(vcpu)

    def _done(self, now_ns: int, event: Event, commands: list[Command]) -> None:
        _, index, ran_ns, ran_on = event
        entity = self._entities[index]
        if entity is None:
            return  # an operation: it bypasses the queue and the books
        vcpu = entity.vcpu
        if vcpu < 0:
            raise InternalError(f"context {index} is done and was not submitted")
        self._book(now_ns, entity, ran_ns, ran_on)
        if self._queue.count:
            self._refill(now_ns, vcpu, commands)

    def _book(self, now_ns: int, entity: Entity, ran_ns: int, ran_on: int) -> None:
        self._placement.drop(entity.vcpu)
        entity.vcpu = NOWHERE
        entity.last = ran_on
        entity.credit_ns -= ran_ns
        entity.ran_ns += ran_ns
        entity.waited_ns += now_ns - entity.ready_ns - ran_ns
        entity.brief = ran_ns < self._brief_ns

    def _refill(self, now_ns: int, vcpu: int, commands: list[Command]) -> None:
        """Give the room that opened on `vcpu` to those who wait: to whoever is next while the mailbox is shallow, deeper down
        only to the brief. Two for one, so that a mailbox which ran low fills up again."""
        placement, queue = self._placement, self._queue
        for _ in range(2):
            depth = placement.depth(vcpu)
            if depth >= self._deep or not queue.count:
                return
            entity = queue.pop(now_ns) if depth < self._shallow else queue.pop_brief(now_ns)
            if entity is None:
                return
            if entity.credit_ns <= 0:
                slice_ns = entity.slice_ns
                entity.credit_ns = max(entity.credit_ns + slice_ns, slice_ns // _LEAST_PART)
            waited = now_ns - entity.ready_ns
            self._picks += 1
            self._total_wait_ns += waited
            if waited > self._max_wait_ns:
                self._max_wait_ns = waited
            entity.vcpu = vcpu
            placement.add(vcpu)
            commands.append((SUBMIT, entity.index, vcpu))

    def _rare(self, now_ns: int, event: Event, commands: list[Command]) -> None:
        kind, index = event[0], event[1]
        if kind == TICK:
            self._tick(now_ns, index, commands)
        elif kind == JOIN:
            if self._entities[index] is not None:
                raise InternalError(f"context {index} joined twice")
            self._entities[index] = Entity(index, event[2], event[3], self._quantum_ns, now_ns)
        elif kind == LEAVE:
            entity = self._entities[index]
            if entity is None or entity.vcpu >= 0 or entity.lane is not None:
                raise InternalError(f"context {index} left while it was queued or submitted")
            self._entities[index] = None
        elif kind == TUNE:
            self._tune(index, event[2], event[3])
        elif kind == WITHDRAW:
            entity = self._entities[index]
            if entity is None or not self._queue.remove(entity):
                raise InternalError(f"context {index} was withdrawn and is not queued")
            entity.waited_ns += now_ns - entity.ready_ns
        else:
            raise InternalError(f"unknown event {event!r}")

    def _tune(self, index: int, weight: float, priority: int) -> None:
        entity = self._entities[index]
        if entity is None:
            raise UsageError(f"context {index} is closed")
        queued = self._queue.remove(entity)
        entity.weight = weight
        entity.priority = priority
        entity.slice_ns = max(1, int(self._quantum_ns * weight))
        entity.credit_ns = min(entity.credit_ns, entity.slice_ns)
        if queued:
            self._queue.push(entity)

    def _tick(self, now_ns: int, running: list[Running], commands: list[Command]) -> None:
        """Interrupt whoever has used its slice, if somebody waits for the vCPU; ask for the next tick."""
        self._armed = False
        placement = self._placement
        waiting = self._queue.count + placement.flight - placement.vcpus
        if waiting <= 0:
            return  # `step` asks for the next tick while several are submitted
        quantum = self._quantum_ns
        soonest = quantum
        over: list[tuple[int, int, int]] = []
        for _, index, generation, started_ns in running:
            entity = self._entities[index] if index < len(self._entities) else None
            if entity is None or entity.vcpu < 0:
                continue  # an operation, or drained since
            left = started_ns + entity.credit_ns - now_ns
            if left <= 0:
                over.append((left, index, generation))
            elif left < soonest:
                soonest = left
        # Those who overran most make room, and no more of them than are waited for.
        over.sort()
        for _, index, generation in over[:waiting]:
            self._preemptions += 1
            commands.append((INTERRUPT, index, generation))
        self._armed = True
        commands.append((ARM_TICK, now_ns + max(soonest, quantum // _LEAST_PART), 0))
