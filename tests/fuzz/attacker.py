"""An attacker: carries out one case after the other, in an address space and with guest threads of its own.

Owns what a case needs and gives it back; which case comes next, and what all attackers together may not do, is the campaign's.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from fuzz import script
from fuzz.case import FORKED, RIP, SET, SKIP
from fuzz.judge import BrokenError
from fuzz.places import CODE, CODE_BYTES, DATA, DATA_BYTES, EDGE, ONES, PAGE, STACK, STACK_BYTES
from fuzz.thread import Thread

from asynckvm.errors import GuestMemoryError, GuestStringError, OutOfMemoryError, UsageError
from asynckvm.platform import Access, Restore, Syscall

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.case import Case, Turn
    from fuzz.script import Step
    from fuzz.shared_file import SharedFile

    from asynckvm.platform import AddressSpace, Context, Machine

# 4 KiB pages an attacker may have resident: all of them together stay below what a machine has.
LIMIT_PAGES: Final = 1536
_TYPED: Final = (UsageError, GuestMemoryError, GuestStringError, OutOfMemoryError)
_LATER_SECONDS: Final = 0.001
_XSAVE_HEAD: Final = 576
_ACCESS: Final = tuple(Access(bits) for bits in range(8))
_BASE: Final = ((DATA, DATA_BYTES), (STACK, STACK_BYTES))
# System calls answered on the vCPU's thread, for the cases that have some answered there.
_ANSWERS: Final = {number: number - 8 for number in range(16)}
_TWIN_EXITS: Final = 12

_ON_MEMORY: Final[dict[str, Callable[[AddressSpace, Step], object]]] = {
    "map": lambda space, step: space.map(step.address, step.length, _ACCESS[step.argument & 7]),
    "unmap": lambda space, step: space.unmap(step.address, step.length),
    "protect": lambda space, step: space.protect(step.address, step.length, _ACCESS[step.argument & 7]),
    "discard": lambda space, step: space.discard(step.address, step.length),
    "read": lambda space, step: space.read(step.address, step.length & 0xFFFF),
    "write": lambda space, step: space.write(step.address, bytes(step.length & 0x3FFF), force=bool(step.argument & 1)),
    "read_string": lambda space, step: space.read_string(step.address, step.length & 0xFFFF),
    "region": lambda space, step: space.region(step.address),
    "limit": lambda space, step: space.limit(min(step.length >> 12, LIMIT_PAGES) or LIMIT_PAGES),
}


class Attacker:
    """`run(case)`, again and again; `retire()` gives everything back. `file` is what all attackers map and cut short."""

    def __init__(self, machine: Machine, file: SharedFile, secrets: frozenset[int], patience: float) -> None:
        self._machine = machine
        self._file = file
        self._secrets = secrets
        self._xsave_bytes = machine.capabilities.xsave_bytes
        self._space: AddressSpace | None = None
        self._changed = True
        self._code_access = 0
        self._ending = False  # the first thread is through
        self._forks: list[AddressSpace] = []
        self.case: Case | None = None
        self.thread = Thread(patience, self._starves)
        self.twin = Thread(patience, self._starves)

    @property
    def threads(self) -> tuple[Thread, Thread]:
        return self.thread, self.twin

    def retire(self) -> None:
        """Close the contexts and the spaces."""
        for thread in self.threads:
            thread.end()
        self._close_forks()
        if self._space is not None:
            self._space.close()
            self._space = None

    def suspects(self) -> tuple[tuple[int, int], ...]:
        """The case under way."""
        return () if self.case is None else ((self.case.seed, self.case.number),)

    async def run(self, case: Case) -> None:
        """Raises BrokenError."""
        self.case = case
        self._ending = False
        try:
            self._prepare(case)
            twin = asyncio.create_task(self._run_twin(case)) if case.twin else None
            try:
                await self._run_turns(case)
            finally:
                if twin is not None:
                    self._ending = True
                    self.twin.interrupt()
                    await twin
            await self._clean_up(case)
        except BrokenError as broken:
            broken.cases = broken.cases or self.suspects()
            raise
        self.case = None

    # ------------------------------------------------------------ before and after

    def _prepare(self, case: Case) -> None:
        """The same memory, registers and vector state for the same case, whatever ran here before."""
        if self._changed or self._space is None:
            self.retire()
            self._space = space = self._machine.create_address_space()
            space.limit(LIMIT_PAGES)
            for address, length in _BASE:
                space.map(address, length, _ACCESS[3])
            space.map(CODE, CODE_BYTES, _ACCESS[case.access])
            space.map(EDGE, PAGE, _ACCESS[case.access])
            self._changed = False
        elif self._code_access != case.access:
            self._space.protect(CODE, CODE_BYTES, _ACCESS[case.access])
            self._space.protect(EDGE, PAGE, _ACCESS[case.access])
        space = self._space
        self._code_access = case.access
        start, length = (EDGE, PAGE) if case.address >= EDGE else (CODE, CODE_BYTES)
        memory = bytearray((case.fill,)) * length
        offset = case.address - start
        memory[offset : offset + len(case.code)] = case.code
        space.write(start, memory[:length], force=True)
        for address, length in _BASE:
            space.write(address, bytes(length), force=True)
        self.thread.begin(self._create_context(case, space))

    def _create_context(self, case: Case, space: AddressSpace) -> Context:
        context = self._machine.create_context(space)
        context.words[:20] = array.array("Q", case.registers)
        if case.restore:
            context.restore = Restore(case.restore)
        if case.image:
            with contextlib.suppress(UsageError):  # refused, as an image with reserved bits has to be
                context.xsave = case.image + bytes(self._xsave_bytes - len(case.image))
        if case.answered:
            context.answers = _ANSWERS
        return context

    async def _clean_up(self, case: Case) -> None:
        self._look_for_secrets(case)
        self.thread.end()
        self.twin.end()
        self._close_forks()
        if case.steps:
            assert self._space is not None
            await self._space.shootdown()
            self._changed = not script.CHANGES.isdisjoint([step.operation for step in case.steps])

    def _close_forks(self) -> None:
        for space in self._forks:
            space.close()
        self._forks.clear()

    def _look_for_secrets(self, case: Case) -> None:
        """Nothing of a witness in the registers; in one of eight cases the vector registers too."""
        context = self.thread.context
        assert context is not None
        if not self._secrets.isdisjoint(context.words[:20].tolist()):
            raise BrokenError("a register holds a witness's secret")
        if not case.number & 7:
            image = memoryview(context.xsave).cast("Q")
            if not self._secrets.isdisjoint(image.tolist()[: _XSAVE_HEAD // 4]):
                raise BrokenError("a vector register holds a witness's secret")

    def _starves(self) -> bool:
        """Whether its memory may be at the limit: tables count too, so a few pages far apart are enough."""
        lowered = self.case is not None and any(step.operation == "limit" for step in self.case.steps)
        return lowered or any(space.resident >= LIMIT_PAGES // 8 for space in (self._space, *self._forks) if space is not None)

    # ------------------------------------------------------------ runs

    async def _run_turns(self, case: Case) -> None:
        context = self.thread.context
        assert context is not None
        words, steps = context.words, case.steps
        for number, turn in enumerate(case.turns):
            now = [step for step in steps if step.turn == number] if steps else ()
            handles = self._begin_steps(now) if now else ()
            exit_ = await self.thread.exit()
            for handle in handles:
                handle.cancel()
            if isinstance(exit_, Syscall):
                words[0] = turn.answer
            elif exit_ is not None:
                self._react(case, turn, words)  # also when it was bounced: what loops has been seen

    async def _run_twin(self, case: Case) -> None:
        """Another thread of the same code, in the same memory or in a copy of it made while the first one runs."""
        space = self._space
        assert space is not None
        if case.twin == FORKED:
            try:
                space = space.fork()
            except OutOfMemoryError:
                return
            self._forks.append(space)
        thread = self.twin
        thread.begin(self._create_context(case, space))
        words = thread.context.words if thread.context is not None else memoryview(b"")
        words[4], words[5] = words[5], words[4]
        for number in range(_TWIN_EXITS):
            exit_ = await thread.exit()
            if isinstance(exit_, Syscall):
                words[0] = number
            else:
                self._react(case, case.turns[number % len(case.turns)], words)
            if self._ending:
                break

    @staticmethod
    def _react(case: Case, turn: Turn, words: memoryview) -> None:
        if turn.how == SET:
            words[turn.register] = turn.value
        elif turn.how == SKIP:
            words[RIP] = words[RIP] + turn.value & ONES
        else:
            rip = words[RIP]
            words[RIP] = next((start for start in case.pieces if start > rip), case.pieces[0])

    # ------------------------------------------------------------ steps

    def _begin_steps(self, steps: list[Step]) -> list[asyncio.Handle]:
        """Do what comes before the run; the rest is handed to the loop."""
        loop = asyncio.get_running_loop()
        handles: list[asyncio.Handle] = []
        for step in steps:
            if step.moment == script.BEFORE:
                self._step(step)
            elif step.moment == script.DURING:
                handles.append(loop.call_soon(self._mid_run, step))
            else:
                handles.append(loop.call_later(_LATER_SECONDS, self._mid_run, step))
        return handles

    def _mid_run(self, step: Step) -> None:
        """A callback of the loop: what goes wrong here is told to the run, which it ends."""
        try:
            self._step(step)
        except BrokenError as error:
            self.thread.failure = error
            self.thread.interrupt()

    def _step(self, step: Step) -> None:
        try:
            self._operate(step)
        except _TYPED:
            pass
        except BrokenError:
            raise
        except Exception as error:
            raise BrokenError(f"{step} raised {type(error).__name__}: {error}", self.suspects()) from error

    def _operate(self, step: Step) -> None:
        space, context = self._space, self.thread.context
        assert space is not None
        assert context is not None
        match step.operation:
            case "interrupt":
                self.thread.interrupt()
            case "cancel":
                self.thread.cancel()
            case "close_space":
                self._must_refuse(space.close)
            case "close_context":
                if self.thread.deadline:
                    self._must_refuse(context.close)
            case "fork":
                self._forks.append(space.fork())
            case "map_file":
                self._file.map(space, step.address, step.length, _ACCESS[step.argument & 7])
            case "cut_file":
                self._file.cut(step.length)
            case _:
                _ON_MEMORY[step.operation](space, step)

    @staticmethod
    def _must_refuse(close: Callable[[], None]) -> None:
        try:
            close()
        except UsageError:
            return
        raise BrokenError("what is in use could be closed")
