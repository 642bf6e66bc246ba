"""A campaign: many cases, several attackers in flight on few vCPUs, witnesses between and beside them, and the clock that
bounces whatever runs too long. Ends with the first broken invariant."""

from __future__ import annotations

import asyncio
import collections
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fuzz.attacker import Attacker
from fuzz.judge import BrokenError
from fuzz.ledger import Ledger
from fuzz.shared_file import SharedFile
from fuzz.witness import Computer, Witness

from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fuzz.case import Case

    from asynckvm.platform import Machine

PATIENCE: Final = paced(0.002)
LATE: Final = paced(10.0)
_TICK_SECONDS: Final = 0.001
_ATTACKERS_PER_VCPU: Final = 3
_WITNESS_EVERY, _COMPUTER_EVERY = 3, 31


@dataclass
class Totals:
    """What a campaign has done so far."""

    cases: int = 0
    witness_turns: int = 0
    computations: int = 0
    bounces: int = 0
    seconds: float = 0.0


class Campaign:
    """`await run(cases)`. `window`: what was begun last. `after_case` is called after each case: for progress, and for tests that
    plant a break.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        late: float = LATE,
        checkpoint: int = 5000,
        after_case: Callable[[Campaign], None] | None = None,
    ) -> None:
        self.machine = machine
        self.totals = Totals()
        self._clock = time.monotonic
        self._late = late
        self._checkpoint = checkpoint
        self._after_case = after_case
        vcpus = machine.config.vcpus
        self.witnesses = [Witness(machine, number) for number in range(vcpus + 1)]
        self._computers = [Computer(machine, number) for number in range(vcpus)]
        secrets = frozenset().union(*(witness.secrets for witness in self.witnesses))
        self._free: collections.deque[Witness] = collections.deque(self.witnesses)
        self._idle: collections.deque[Computer] = collections.deque(self._computers)
        self._file = SharedFile(machine)
        self.attackers = [Attacker(machine, self._file, secrets, PATIENCE) for _ in range(vcpus * _ATTACKERS_PER_VCPU)]
        self.window: collections.deque[tuple[int, int]] = collections.deque(maxlen=2 * len(self.attackers))
        self.ledger = Ledger(machine, self._clock, late)

    async def run(self, cases: Iterator[Case]) -> Totals:
        """Raises BrokenError."""
        started = self._clock()
        try:
            for guest in self._well_behaved():
                for _ in range(2):
                    await guest.turn()
            await self.ledger.open()
            while await self._stretch(cases):
                await self.ledger.check()
        finally:
            self.totals.seconds += self._clock() - started
        return self.totals

    def close(self) -> None:
        """Give everything back but the machine."""
        for attacker in self.attackers:
            attacker.retire()
        for guest in self._well_behaved():
            guest.close()
        self._file.close()

    def _well_behaved(self) -> list[Witness | Computer]:
        return [*self.witnesses, *self._computers]

    # ------------------------------------------------------------ one stretch, from checkpoint to checkpoint

    async def _stretch(self, cases: Iterator[Case]) -> bool:
        """All attackers at work until the next checkpoint; False when there was no case left."""
        begun = self.totals.cases
        quota = [self._checkpoint]
        tasks = [asyncio.create_task(self._attack(attacker, cases, quota)) for attacker in self.attackers]
        clock = asyncio.create_task(self._watch(tasks))
        try:
            done, _ = await asyncio.wait([*tasks, clock], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except BrokenError as broken:
            # A witness cannot tell who it was: everybody who runs or ran lately is under suspicion.
            broken.cases = broken.cases or tuple(self.window)
            raise
        finally:
            for task in [*tasks, clock]:
                task.cancel()
            await asyncio.wait([*tasks, clock], timeout=self._late)
        for attacker in self.attackers:
            attacker.retire()
        return self.totals.cases > begun

    async def _watch(self, tasks: list[asyncio.Task[None]]) -> None:
        """Bounce what has run for too long, and raise BrokenError when a bounce does not come back."""
        while not all(task.done() for task in tasks):
            await asyncio.sleep(_TICK_SECONDS)
            now = self._clock()
            for attacker in self.attackers:
                try:
                    self.totals.bounces += sum(thread.watch(now, self._late) for thread in attacker.threads)
                except BrokenError as broken:
                    broken.cases = attacker.suspects()
                    raise

    async def _attack(self, attacker: Attacker, cases: Iterator[Case], quota: list[int]) -> None:
        totals = self.totals
        while quota[0] > 0 and (case := next(cases, None)) is not None:
            quota[0] -= 1
            self.window.append((case.seed, case.number))
            await attacker.run(case)
            totals.cases += 1
            if not totals.cases % _WITNESS_EVERY:
                await self._witness()
            if not totals.cases % _COMPUTER_EVERY:
                await self._compute()
            if self._after_case is not None:
                self._after_case(self)

    async def _witness(self) -> None:
        if self._free:
            witness = self._free.popleft()
            await witness.turn()
            self._free.append(witness)
            self.totals.witness_turns += 1

    async def _compute(self) -> None:
        if self._idle:
            computer = self._idle.popleft()
            if self.totals.cases & 1:
                asyncio.get_running_loop().call_soon(computer.interrupt)
            await computer.turn()
            self._idle.append(computer)
            self.totals.computations += 1
