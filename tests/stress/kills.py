"""Kills: lives ended at chosen or random moments, with each kill judged: none missed, none that hit somebody else.

The contract that is held (asynckvm/platform/context.py): a cancelled task ends cancelled, with its context off its vCPU; an
exit that met a cancellation is kept for the next switch(); an interrupt ends its run, or else the next switch(); a life that
nobody killed ends exactly, and so does one that goes on after its kill. Contexts are used again at once, so that a kick that
comes late has a victim.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import time
import traceback
from typing import TYPE_CHECKING, Final

from stress.histogram import Histogram
from stress.lives import Kind, Life, Living

from asynckvm.model.exits import Interrupted, InterruptReason
from asynckvm.model.states import ContextState
from asynckvm.platform import VcpuState
from asynckvm.platform.layout import FIELD_GENERATION, WORD_STARTED_NS
from support.pace import paced

if TYPE_CHECKING:
    import random
    from typing import Any

    from stress.lives import Body

    from asynckvm.platform import Context, Exit, Machine

# A kill must have worked after the first time, and whoever nobody killed must have ended after the second.
KILL_SECONDS: Final = paced(20)
LIFE_SECONDS: Final = paced(40)
_HELD_NS: Final = int(paced(300_000))  # how long the loop may be held up to meet a moment
_BOUNCED: Final = Interrupted(InterruptReason.BOUNCED)


class Weapon(enum.Enum):
    """How those who use the platform end a run: cancel(), asyncio.timeout(), or interrupt() with a reason."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    BOUNCED = InterruptReason.BOUNCED
    CANCELLED = InterruptReason.CANCELLED
    TIMED_OUT = InterruptReason.TIMEOUT

    @property
    def interrupts(self) -> bool:
        return isinstance(self.value, InterruptReason)


class Moment(enum.Enum):
    """Where a kill finds its victim."""

    UNSTARTED = enum.auto()  # before the task's first step
    QUEUED = enum.auto()  # behind others, in the ready queue
    MAILED = enum.auto()  # given to a vCPU that is busy with somebody else
    GUEST = enum.auto()
    SERVED = enum.auto()  # on the vCPU's thread between two entries, for a fault or a call answered there
    COMPLETED = enum.auto()  # its exit is there and nobody has looked
    RETURNING = enum.auto()  # the loop has its exit, its coroutine not yet
    HOST = enum.auto()  # in the host's own coroutine
    ENDED = enum.auto()


# Nobody has to aim at MAILED; what is hard to meet is aimed at twice as often.
AIMS: Final = [*(moment for moment in Moment if moment is not Moment.MAILED), Moment.SERVED, Moment.GUEST]
_HARD: Final = {Moment.SERVED, Moment.GUEST}
_SUITS: Final = {
    Moment.SERVED: (Kind.PAGE, Kind.COPY, Kind.NATIVE),
    Moment.HOST: (Kind.WAIT,),
    Moment.RETURNING: (Kind.CALL, Kind.CALL, Kind.PAGE, Kind.SPIN, Kind.LOAD),
    Moment.COMPLETED: (Kind.CALL, Kind.SPIN, Kind.VECTOR, Kind.INVALID, Kind.PAGE),
}


class KillError(AssertionError):
    """A kill that did not work, or worked on somebody else, or a result that is not exact."""


class Eye:
    """Sees where a context is, behind the platform's public face, which tells less than a kill has to know."""

    def __init__(self, machine: Machine) -> None:
        binding = machine._core.binding
        self._native = machine._core.native
        self._look = binding.lib.akvm_vcpu_status
        self._status = binding.ffi.new("struct akvm_vcpu_status *")
        self._vcpus = machine.config.vcpus

    def moment(self, context: Context, switched_ns: int) -> Moment:
        """Of a context whose task has started and not ended; `switched_ns`: when it called switch()."""
        passage: Any = context._passage
        if passage.state != ContextState.RUNNING:
            return {ContextState.IDLE: Moment.HOST, ContextState.QUEUED: Moment.QUEUED}.get(passage.state, Moment.RETURNING)
        running = self.running(passage)
        if running is not None:
            return Moment.GUEST if running == VcpuState.GUEST else Moment.SERVED
        return Moment.COMPLETED if passage.words[WORD_STARTED_NS] >= switched_ns else Moment.MAILED

    def running(self, passage: Any) -> int | None:
        """The state of the vCPU that runs it; None when none does."""
        status = self._status
        for vcpu in range(self._vcpus):
            self._look(self._native, vcpu, status)
            if status.started_ns and (status.context, status.generation) == (passage.index, passage.fields[FIELD_GENERATION]):
                return int(status.state)
        return None


class Tally:
    """What has been seen, for the report."""

    def __init__(self) -> None:
        self.runs = self.shots = self.killed = self.outlived = self.kept = self.owed = self.resumed = 0
        self.moments: collections.Counter[Moment] = collections.Counter()
        self.weapons: collections.Counter[Weapon] = collections.Counter()
        self.kinds: collections.Counter[Kind] = collections.Counter()
        self.latency = Histogram()

    def report(self) -> dict[str, object]:
        return {
            "runs": self.runs,
            "shots": self.shots,
            "killed": self.killed,
            "outlived, exact": self.outlived,
            "gone on after the kill, exact": self.resumed,
            "exits kept": self.kept,
            "interrupts left for the next switch": self.owed,
            **{f"latency {name} ms": value for name, value in self.latency.milliseconds().items()},
            "worst was": self.latency.worst_was,
            **{f"found {moment.name}": self.moments[moment] for moment in Moment},
            **{f"by {weapon.name}": self.weapons[weapon] for weapon in Weapon},
            **{f"of {kind.name}": self.kinds[kind] for kind in Kind},
        }


class Range:
    """What the runs of one machine share: the eye, the tally, and who waits for a victim's exit to be drained."""

    def __init__(self, machine: Machine, tally: Tally) -> None:
        self.machine, self.tally = machine, tally
        self.eye = Eye(machine)
        self.hunting: list[Run] = []

    def coroutine_resumed(self) -> None:
        for run in list(self.hunting):
            if not run.task.done() and run.living.started and run.where() is Moment.RETURNING:
                run.fire()

    async def one(self, body: Body, source: random.Random) -> None:
        """One life, killed or not, judged; the body can be used again. Raises KillError."""
        run = Run(self, body, source)
        await run.go()


class Run:
    """One life and the shot at it, if there is one."""

    def __init__(self, range_: Range, body: Body, source: random.Random) -> None:
        self.range, self.body, self.source = range_, body, source
        self.aim = source.choice(AIMS) if source.random() < 0.5 else None
        self.weapon = source.choice(list(Weapon)) if self.aim else None
        kind = source.choice(_SUITS[self.aim]) if self.aim in _SUITS else None
        endless = self.aim not in {None, Moment.ENDED} and source.random() < (0.9 if self.aim in _HARD else 0.5)
        self.life = Life.choose(source, kind, endless=endless)
        self.living = Living(body, self.life, source)
        self.living.resumed = range_.coroutine_resumed
        self.task: asyncio.Task[Exit]
        self.bound: asyncio.Timeout | None = None
        self.too_late_already = False  # a time-out that is over before the task starts
        self.shot = asyncio.Event()
        self.moment: Moment | None = None
        self.cancelled = False
        self.fired_ns = self.done_ns = 0

    def __str__(self) -> str:
        weapon = self.weapon.name if self.weapon else "nothing"
        return f"{self.life} in context {self.body.context.number}, shot at with {weapon} when {self.moment} (aim {self.aim})"

    async def go(self) -> None:
        tally = self.range.tally
        tally.runs += 1
        tally.kinds[self.life.kind] += 1
        self.task = asyncio.create_task(self._timed())
        self.task.add_done_callback(self._done)
        if self.aim is not None:
            await self._hunt(self.aim)
        await asyncio.wait([self.task], timeout=KILL_SECONDS if self.aim else LIFE_SECONDS)
        if not self.task.done():
            raise self._missed("it did not end")
        killed = self._judge()
        await self._off_its_vcpu()
        await self._settle(killed=killed)

    async def _timed(self) -> Exit:
        async with asyncio.timeout(0 if self.too_late_already else None) as self.bound:
            return await self.living.run()

    def _done(self, _: object) -> None:
        self.done_ns = time.monotonic_ns()

    def where(self) -> Moment:
        if self.task.done():
            return Moment.ENDED
        if not self.living.started:
            return Moment.UNSTARTED
        return self.range.eye.moment(self.body.context, self.living.switched_ns)

    # ------------------------------------------------------------ the shot

    def fire(self) -> None:
        if self.shot.is_set() or self.weapon is None:
            return
        self.shot.set()
        self.moment = self.where()
        self.fired_ns = time.monotonic_ns()
        if self.weapon is Weapon.CANCEL:
            self.cancelled = self.task.cancel()
        elif self.weapon is Weapon.TIMEOUT:
            self.too_late_already = True
            if self.bound is not None and not self.task.done():
                self.bound.reschedule(asyncio.get_running_loop().time())
        else:
            self.body.context.interrupt(self.weapon.value)

    async def _hunt(self, aim: Moment) -> None:
        """Fire at the moment aimed for if it comes, else at another one; the shot tells where it found its victim."""
        source = self.source
        if aim is Moment.QUEUED:
            await asyncio.sleep(0)
        elif aim is Moment.GUEST:
            await asyncio.sleep(source.choice((0, source.random() * 0.003)))
        elif aim in {Moment.SERVED, Moment.COMPLETED}:
            await self._hold(aim)
        elif aim is Moment.RETURNING:
            self.range.hunting.append(self)
            await self._wait_for_shot(paced(0.02))
            self.range.hunting.remove(self)
        elif aim is Moment.HOST:
            self.living.ambush = self._ambush
            await self._wait_for_shot(LIFE_SECONDS)
        elif aim is Moment.ENDED:
            await asyncio.wait([self.task], timeout=LIFE_SECONDS)
        self.fire()

    async def _wait_for_shot(self, seconds: float) -> None:
        shot = asyncio.create_task(self.shot.wait())
        await asyncio.wait([self.task, shot], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        shot.cancel()

    def _ambush(self) -> None:
        """The host's coroutine begins: before it waits, while it does, or a little later."""
        if self.source.random() < 0.4:
            loop = asyncio.get_running_loop()
            way = self.source.randrange(3)
            if way == 0:
                self.fire()
            elif way == 1:
                loop.call_soon(self.fire)
            else:
                loop.call_later(self.source.random() * 0.001, self.fire)

    async def _hold(self, aim: Moment) -> None:
        """Hold up the loop, for some hundred microseconds a time, so that nobody drains what is waited for."""
        for _ in range(20):
            await asyncio.sleep(self.source.choice((0, self.source.random() * 0.002)))
            until_ns = time.monotonic_ns() + _HELD_NS
            while self.where() in {Moment.MAILED, Moment.GUEST, Moment.SERVED, Moment.COMPLETED}:
                if self.where() is aim:
                    return
                if time.monotonic_ns() > until_ns:
                    break
            if self.task.done():
                return

    # ------------------------------------------------------------ the verdict

    def _judge(self) -> bool:
        """Whether it was killed, rightly. Raises KillError."""
        tally, weapon = self.range.tally, self.weapon
        if weapon is not None:
            tally.shots += 1
            assert self.moment is not None
            tally.moments[self.moment] += 1
            tally.weapons[weapon] += 1
        killed, complaint = self._end()
        if complaint:
            raise self._missed(complaint)
        if not killed and self._must_have_died():
            raise self._missed("a missed kill")
        if killed:
            tally.killed += 1
            tally.latency.add((self.done_ns - self.fired_ns) / 1e9, str(self))
        elif weapon is not None:
            tally.outlived += 1
        return killed

    def _end(self) -> tuple[bool, str]:
        """Whether something killed it, and what is wrong with how it ended."""
        task, weapon = self.task, self.weapon
        if task.cancelled():
            return True, "" if self.cancelled else "a false kill"
        error = task.exception()
        if isinstance(error, TimeoutError):
            return True, "" if self.bound is not None and self.bound.expired() else "a false kill"
        if error is not None:
            return False, "it raised " + "".join(traceback.format_exception(error))
        exit_ = task.result()
        if isinstance(exit_, Interrupted):
            rightly = weapon is not None and weapon.interrupts and exit_ == Interrupted(weapon.value)
            return True, "" if rightly else f"a false kill: {exit_}"
        return False, self.living.complaint(exit_)

    def _must_have_died(self) -> bool:
        weapon = self.weapon
        if weapon is None or self.moment is Moment.ENDED:
            return False
        if weapon is Weapon.CANCEL or self.life.endless:
            return True
        if weapon is Weapon.TIMEOUT:
            return self.bound is not None and self.bound.expired()
        return self.moment in {Moment.UNSTARTED, Moment.QUEUED, Moment.HOST}

    async def _off_its_vcpu(self) -> None:
        context = self.body.context
        count = self.body.count()
        if self.range.eye.running(context._passage) is not None:
            raise self._missed("it is still on its vCPU")
        assert len(context.words) > 20  # raises UsageError unless the context is the caller's again
        await asyncio.sleep(0)
        if self.body.count() != count:
            raise self._missed("it still runs")

    async def _settle(self, *, killed: bool) -> None:
        """Make the body fit for another life, in one of the ways that users have."""
        tally, body, way = self.range.tally, self.body, self.source.random()
        owed = self.weapon if self.weapon and self.weapon.interrupts and not killed else None
        tally.owed += owed is not None
        if way < 0.3:
            body.renew(space=way < 0.15)
        elif owed is not None:
            if (exit_ := await self._at_once()) != Interrupted(owed.value):
                raise self._missed(f"the interrupt that came too late for its run was lost: {exit_}")
        elif killed and not self.life.endless and way < 0.7:
            await self._go_on()
        elif killed:
            body.context.interrupt()
            if (exit_ := await self._at_once()) != _BOUNCED:
                tally.kept += 1
                if (exit_ := await self._at_once()) != _BOUNCED:
                    raise self._missed(f"one exit may be kept, and then there was {exit_}")

    async def _at_once(self) -> Exit:
        """A switch() that has no reason to run the guest."""
        before = bytes(self.body.context.words[:20])
        async with asyncio.timeout(KILL_SECONDS):
            exit_ = await self.body.context.switch()
        if bytes(self.body.context.words[:20]) != before:
            raise self._missed(f"the guest ran although {exit_} was due")
        return exit_

    async def _go_on(self) -> None:
        """After its kill it lives to its end: nothing was lost and nothing happened twice."""
        self.living.ambush = None
        task = asyncio.create_task(self.living.run())
        await asyncio.wait([task], timeout=LIFE_SECONDS)
        if not task.done():
            raise self._missed("after its kill it did not end")
        if complaint := self.living.complaint(task.result()):
            raise self._missed(f"after its kill: {complaint}")
        self.range.tally.resumed += 1

    def _missed(self, what: str) -> KillError:
        return KillError(f"{what}: {self}\n{self.range.machine.dump()}")
