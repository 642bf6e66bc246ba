"""Properties of the scheduler's parts against the simplest model that could be right."""

from __future__ import annotations

import contextlib
from collections import deque

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asynckvm.errors import InternalError
from asynckvm.model.config import SchedulerConfig
from asynckvm.platform.scheduler import Scheduler
from asynckvm.platform.scheduler.entity import NOWHERE, Entity
from asynckvm.platform.scheduler.messages import DONE, JOIN, LEAVE, READY, REFUSE, SUBMIT, WITHDRAW
from asynckvm.platform.scheduler.placement import Placement
from asynckvm.platform.scheduler.policy import UNNOTED
from asynckvm.platform.scheduler.runqueue import AGED_EVERY, RunQueue

CONTEXTS = 12


class EqualContexts(RuleBasedStateMachine):
    """Contexts of equal weight and priority with short runs: strictly first in, first out, each in one place."""

    @initialize(vcpus=st.integers(1, 3), ahead=st.integers(0, 2), most=st.integers(1, 6))
    def build(self, vcpus: int, ahead: int, most: int) -> None:
        self.scheduler = Scheduler(vcpus, CONTEXTS, SchedulerConfig(brief_ahead=0, ahead=ahead, max_waiting=most))
        self.places = vcpus * (1 + ahead)
        self.most = most
        self.now = 0
        self.idle: set[int] = set()
        self.queue: deque[int] = deque()
        self.flight: dict[int, int] = {}

    def step(self, *event: int) -> None:
        self.now += 1000
        for kind, index, argument in self.scheduler.step(self.now, [event]):
            if kind == SUBMIT:
                assert self.queue.popleft() == index
                assert index not in self.flight
                self.flight[index] = argument
            elif kind == REFUSE:
                assert len(self.queue) == self.most + 1
                assert self.queue.pop() == index
                self.idle.add(index)

    @rule(index=st.integers(0, CONTEXTS - 1))
    def join(self, index: int) -> None:
        if index not in self.idle and index not in self.queue and index not in self.flight:
            self.step(JOIN, index, 1, 1)
            self.idle.add(index)
        else:
            with pytest.raises(InternalError):
                self.scheduler.step(self.now, [(JOIN, index, 1, 1)])

    @rule(data=st.data(), short=st.booleans())
    @precondition(lambda self: self.idle)
    def ready(self, data: st.DataObject, short: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.idle)))
        self.idle.remove(index)
        self.queue.append(index)
        vcpu = self.scheduler.enqueue(self.now, index) if short else UNNOTED
        if vcpu == UNNOTED:
            self.step(READY, index)
        elif vcpu != NOWHERE:
            assert self.queue.popleft() == index
            self.flight[index] = vcpu

    @rule(data=st.data(), short=st.booleans())
    @precondition(lambda self: self.flight)
    def done(self, data: st.DataObject, short: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.flight)))
        vcpu = self.flight.pop(index)
        self.idle.add(index)
        if not (short and self.scheduler.finish(self.now, index, 500, vcpu)):
            self.step(DONE, index, 500, vcpu)

    @rule(data=st.data())
    @precondition(lambda self: self.queue)
    def withdraw(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.queue)))
        self.queue.remove(index)
        self.idle.add(index)
        self.step(WITHDRAW, index)

    @rule(data=st.data())
    @precondition(lambda self: self.idle)
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.idle)))
        self.idle.remove(index)
        self.step(LEAVE, index)

    @rule(index=st.integers(0, CONTEXTS - 1), kind=st.sampled_from((READY, LEAVE, WITHDRAW)))
    def contradictions_are_internal_errors(self, index: int, kind: int) -> None:
        """Of contexts in flight, nothing else than DONE may be said."""
        if index in self.flight:
            with pytest.raises(InternalError):
                self.scheduler.step(self.now, [(kind, index)])
            assert self.scheduler.enqueue(self.now, index) == UNNOTED

    @invariant()
    def books_agree(self) -> None:
        with contextlib.suppress(AttributeError):  # before build()
            assert self.scheduler.waiting == len(self.queue)
            assert self.scheduler.flight == len(self.flight)
            assert not self.queue or len(self.flight) == self.places


TestEqualContexts = EqualContexts.TestCase
TestEqualContexts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(("add", "drop", "choose"))), max_size=80), st.integers(0, 3))
def test_placement_is_the_least_loaded_with_room(actions: list[tuple[int, str]], ahead: int) -> None:
    placement = Placement(6, 1 + ahead)
    depths = [0] * 6
    for vcpu, action in actions:
        if action == "add" and depths[vcpu] < 1 + ahead:
            placement.add(vcpu)
            depths[vcpu] += 1
        elif action == "drop" and depths[vcpu]:
            placement.drop(vcpu)
            depths[vcpu] -= 1
        chosen = placement.choose(vcpu, 1 + ahead)
        room = [each for each in range(6) if depths[each] < 1 + ahead]
        assert (chosen == NOWHERE) is (not room)
        if room:
            assert chosen in room
            least = min(depths[each] for each in room)
            assert chosen == vcpu or depths[chosen] == least
            if least == 0:
                assert depths[chosen] == 0
            if depths[vcpu] == 0:
                assert chosen == vcpu
        assert placement.flight == sum(depths)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_queue_orders_by_priority_round_brevity_and_arrival(kinds: list[tuple[int, bool, bool]]) -> None:
    queue = RunQueue(1 << 60)
    expected = []
    for index, (priority, brief, spent) in enumerate(kinds):
        entity = Entity(index, 1.0, priority, 1000, 0)
        entity.brief = brief
        entity.credit_ns = 0 if spent else 1000
        queue.push(entity)
        expected.append((-priority, spent, not brief, index))
    assert [queue.pop(1).index for _ in kinds] == [index for *_, index in sorted(expected)]
    assert queue.count == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=40), st.data())
def test_nobody_starves_whoever_else_comes(kinds: list[tuple[int, bool]], data: st.DataObject) -> None:
    """However many newcomers of any kind arrive, everybody queued leaves within AGED_EVERY picks for each of them."""
    queue = RunQueue(1000)
    old = set()
    for index, (priority, brief) in enumerate(kinds):
        entity = Entity(index, 1.0, priority, 1000, 0)
        entity.brief = brief
        queue.push(entity)
        old.add(index)
    now = 1000
    for pick in range(AGED_EVERY * len(kinds)):
        now += 1
        taken = queue.pop(now)
        old.discard(taken.index)
        newcomer = Entity(1000 + pick, 1.0, data.draw(st.integers(0, 2)), 1000, now)
        queue.push(newcomer)
    assert not old
