"""A machine of pure time: vCPUs with native mailboxes and stealing, guests that compute, call and block, all from one seed.

Drives `Scheduler.step` as the engine does, and checks after every step what must hold whatever happens.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, deque

from asynckvm.model.config import SchedulerConfig
from asynckvm.platform.scheduler import Scheduler
from asynckvm.platform.scheduler.entity import NOWHERE
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
    Command,
    Event,
)
from asynckvm.platform.scheduler.policy import UNNOTED

FOREVER = 1 << 62
KICK_NS = 100_000


@dataclasses.dataclass(eq=False)
class Guest:
    """What the world knows of one context, independently of the scheduler's books."""

    index: int
    run_ns: int  # mean length of a run; FOREVER for a spinner
    think_ns: int  # mean time between exit and next switch; 0 for none
    weight: float = 1.0
    priority: int = 1
    state: str = "idle"  # idle, queued, mailbox, running
    since_ns: int = 0
    left_ns: int = 0
    generation: int = 0
    ran_ns: int = 0
    runs: int = 0
    longest_wait_ns: int = 0


class FakeMachine:
    """Virtual time; `turn` advances to the next thing that happens."""

    def __init__(self, seed: int, vcpus: int, scheduler: Scheduler, config: SchedulerConfig) -> None:
        self.random = random.Random(seed)
        self.scheduler = scheduler
        self.vcpus = vcpus
        self.shallow = 1 + config.ahead
        self.deep = self.shallow + config.brief_ahead
        self.now_ns = 1
        self.guests: dict[int, Guest] = {}
        self.mailboxes: list[deque[Guest]] = [deque() for _ in range(vcpus)]
        self.running: list[Guest | None] = [None] * vcpus
        self.started_ns = [0] * vcpus
        self.submitted_to: dict[int, int] = {}
        self.done: list[tuple[int, int, int]] = []
        self.tick_ns: int | None = None
        self.refused = 0
        self.preempted = 0
        self.picks: list[int] = []

    def join(self, guest: Guest) -> None:
        self.guests[guest.index] = guest
        guest.since_ns = self.now_ns + self._spread(guest.think_ns)
        self.step([(JOIN, guest.index, guest.weight, guest.priority)])

    def leave(self, guest: Guest) -> None:
        assert guest.state == "idle"
        del self.guests[guest.index]
        self.step([(LEAVE, guest.index)])

    def tune(self, guest: Guest, weight: float, priority: int) -> None:
        guest.weight, guest.priority = weight, priority
        self.step([(TUNE, guest.index, weight, priority)])

    def withdraw(self, guest: Guest) -> None:
        assert guest.state == "queued"
        guest.state, guest.since_ns = "idle", self.now_ns + self._spread(guest.think_ns)
        self.step([(WITHDRAW, guest.index)])

    def ready(self, guest: Guest) -> None:
        """switch(); by the short way when the scheduler offers it, as the engine does."""
        guest.state, guest.since_ns = "queued", self.now_ns
        vcpu = self.scheduler.enqueue(self.now_ns, guest.index)
        if vcpu == UNNOTED:
            self.step([(READY, guest.index)])
        elif vcpu != NOWHERE:
            self._apply((SUBMIT, guest.index, vcpu))
        self.check()

    def step(self, events: list[Event]) -> None:
        for command in self.scheduler.step(self.now_ns, events):
            self._apply(command)
        self.check()

    def turn(self) -> None:
        """The next moment at which anything happens: a run ends, a coroutine switches, or the tick comes."""
        moments = [guest.since_ns for guest in self.guests.values() if guest.state == "idle"]
        moments += [self.started_ns[vcpu] + guest.left_ns for vcpu, guest in enumerate(self.running) if guest is not None]
        if self.tick_ns is not None:
            moments.append(self.tick_ns)
        self.now_ns = max(self.now_ns, min(moments))
        self._run_vcpus()
        if self.done:
            events: list[Event] = []
            for index, ran_ns, vcpu in self.done:
                if events or not self.scheduler.finish(self.now_ns, index, ran_ns, vcpu):
                    events.append((DONE, index, ran_ns, vcpu))
            for index, _, _ in self.done:
                guest = self.guests[index]
                del self.submitted_to[index]
                guest.state, guest.since_ns = "idle", self.now_ns + self._spread(guest.think_ns)
            self.done.clear()
            self.step(events)
        if self.tick_ns is not None and self.now_ns >= self.tick_ns:
            self.tick_ns = None
            running = [
                (vcpu, guest.index, guest.generation, self.started_ns[vcpu])
                for vcpu, guest in enumerate(self.running)
                if guest is not None
            ]
            self.step([(TICK, running)])
        for guest in [each for each in self.guests.values() if each.state == "idle" and each.since_ns <= self.now_ns]:
            self.ready(guest)

    def check(self) -> None:
        """No context is lost or doubled, no mailbox is overfull, nobody queues beside an empty place."""
        where = Counter(guest.index for mailbox in self.mailboxes for guest in mailbox)
        where.update(guest.index for guest in self.running if guest is not None)
        where.update(index for index, _, _ in self.done)
        assert all(count == 1 for count in where.values())
        assert set(where) == set(self.submitted_to)
        depths = Counter(self.submitted_to.values())
        for vcpu in range(self.vcpus):
            assert depths[vcpu] == self.scheduler.depth(vcpu) <= self.deep
        queued = sum(guest.state == "queued" for guest in self.guests.values())
        assert queued == self.scheduler.waiting
        assert self.scheduler.flight == len(where)
        if queued:
            assert all(depths[vcpu] >= self.shallow for vcpu in range(self.vcpus))
            assert self.tick_ns is not None

    def _apply(self, command: Command) -> None:
        kind, index, argument = command
        if kind == SUBMIT:
            guest = self.guests[index]
            assert guest.state == "queued"
            guest.longest_wait_ns = max(guest.longest_wait_ns, self.now_ns - guest.since_ns)
            guest.state = "mailbox"
            guest.generation += 1
            guest.left_ns = guest.run_ns if guest.run_ns == FOREVER else self._spread(guest.run_ns)
            self.submitted_to[index] = argument
            self.mailboxes[argument].append(guest)
            self.picks.append(index)
            self._start_idle()
        elif kind == INTERRUPT:
            for vcpu, running in enumerate(self.running):
                if running is not None and (running.index, running.generation) == (index, argument):
                    running.left_ns = min(running.left_ns, self.now_ns + KICK_NS - self.started_ns[vcpu])
                    self.preempted += 1
        elif kind == ARM_TICK:
            assert self.tick_ns is None
            assert index > self.now_ns
            self.tick_ns = index
        else:
            assert kind == REFUSE
            self.refused += 1
            guest = self.guests[index]
            guest.state, guest.since_ns = "idle", self.now_ns + self._spread(1_000_000)

    def _run_vcpus(self) -> None:
        for vcpu, guest in enumerate(self.running):
            if guest is not None and self.started_ns[vcpu] + guest.left_ns <= self.now_ns:
                ran_ns = self.now_ns - self.started_ns[vcpu]
                guest.ran_ns += ran_ns
                guest.runs += 1
                self.done.append((guest.index, ran_ns, vcpu))
                self.running[vcpu] = None
        self._start_idle()

    def _start_idle(self) -> None:
        """Idle vCPUs take their next context, or steal the newest of the fullest mailbox."""
        for vcpu in range(self.vcpus):
            if self.running[vcpu] is None:
                own = self.mailboxes[vcpu]
                fullest = max(self.mailboxes, key=len)
                guest = own.popleft() if own else fullest.pop() if fullest else None
                if guest is not None:
                    guest.state = "running"
                    self.running[vcpu] = guest
                    self.started_ns[vcpu] = self.now_ns

    def _spread(self, mean_ns: int) -> int:
        return int(self.random.expovariate(1 / mean_ns)) + 1 if mean_ns else 0
