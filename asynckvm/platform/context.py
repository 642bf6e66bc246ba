"""A context: one guest thread as a Python object. `exit = await context.switch()` is the product.

Registers, FP state, weights and interrupts; how a switch travels is `engine`'s story. Nothing here knows what the guest's system
calls mean.
"""

from __future__ import annotations

import enum
import functools
import warnings
from typing import TYPE_CHECKING, Final, Self

from asynckvm.errors import ClosedError, UsageError
from asynckvm.model.config import Priority
from asynckvm.model.exits import InterruptReason, strongest
from asynckvm.model.registers import REGISTER_NAMES, WORDS, Registers, entry_fault
from asynckvm.platform.counters import ContextCounters
from asynckvm.platform.decode import INTERRUPTED
from asynckvm.platform.direct_files import DirectCall
from asynckvm.platform.exit_log import ExitStream
from asynckvm.platform.layout import (
    FIELD_RESTORE,
    WORD_DIRECT_CALLS,
    WORD_EXITS,
    WORD_NATIVE_EXITS,
    WORD_TOTAL_NS,
)
from asynckvm.platform.passage import IDLE, Passage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from asynckvm.model.exits import Exit
    from asynckvm.platform.address_space import AddressSpace
    from asynckvm.platform.binding import Handle
    from asynckvm.platform.core import Core
    from asynckvm.platform.direct_files import DirectFiles
    from asynckvm.platform.engine import Engine
    from asynckvm.platform.exit_log import ExitLog

__all__ = ["WEIGHT_MAX", "WEIGHT_MIN", "Context", "Restore"]

WEIGHT_MIN: Final = 1 / 64
WEIGHT_MAX: Final = 64.0
_ANSWERS_MAX: Final = 512


class Restore(enum.IntEnum):
    """How ring 0 returns to the guest (enum akvm_restore) when `switch()` begins, and after answers given on the vCPU's thread.

    PARTIAL is for a context that stands at a system call. What its vCPU resolves otherwise (a page fault, a stray kick) costs
    the guest no register.
    """

    AUTO = 0
    FULL = 1  # IRET
    PARTIAL = 2  # SYSRET: RCX and R11 are lost


class Context:
    """Made by `Machine.create_context`. Keeps its address space alive. Thread: loop, for everything.

    Registers, FP state and answers may be changed whenever no `switch()` runs (UsageError otherwise).
    """

    def __init__(self, core: Core, engine: Engine, log: ExitLog, space: AddressSpace, number: int) -> None:
        self._passage: Passage | None = None
        self._answers_native: Handle = None
        self._answers: dict[int, int] = {}
        self._weight = 1.0
        self._priority = Priority.NORMAL
        self._streams: list[ExitStream] = []
        self._core: Final = core
        self._engine: Final = engine
        self._log: Final = log
        self.number: Final = number
        self._space: Final = space
        space.require(core)
        binding = core.binding
        native = binding.create_context(core.native)
        result = binding.lib.akvm_context_attach(native, space.native)
        if result < 0:
            error = binding.error(result)
            binding.lib.akvm_context_destroy(native)
            raise error
        space.contexts += 1
        self._passage = Passage(engine, core.loop, native, binding.context_views(native), native.index, number)
        engine.join(self._passage, self._weight, self._priority)

    async def switch(self) -> Exit:
        """Run the guest until it exits. One at a time (UsageError).

        Returns at once when an interrupt is pending, when an earlier, cancelled switch() left its exit here, or with a Fault when
        RIP, RSP, FS or GS base is not canonical. When CancelledError leaves this call, the context is off its vCPU.
        Raises ClosedError, OverloadedError, GuestTrapError, OutOfMemoryError, InternalError.
        """
        passage = self._passage
        if passage is None or passage.state != IDLE:
            raise self._busy()
        if passage.exit is not None or passage.pending:
            return self._early(passage)
        words = passage.words
        if (words[16] | words[6] | words[18] | words[19]) >> 47:
            fault = entry_fault(words[16], words[6], words[18], words[19])
            if fault is not None:
                self._core.check()
                return fault
        self._engine.start(passage)
        try:
            await passage
        except BaseException:
            self._engine.left(passage)
            raise
        passage.state = IDLE
        exit_ = passage.exit
        passage.exit = None
        return exit_  # type: ignore[return-value]  # always set when no error was thrown

    def interrupt(self, reason: InterruptReason = InterruptReason.BOUNCED) -> None:
        """Make the running switch(), or else the next one, return Interrupted; never blocks.

        Several collapse into one. One that comes too late for its run stays for the next switch(), except PREEMPTED and
        SHOOTDOWN, which mean nothing then.
        """
        if reason not in INTERRUPTED or reason is InterruptReason.CLOSED:
            raise UsageError(f"not one reason for an interrupt: {reason!r}")
        self._core.check()
        self._engine.interrupt(self._open(), int(reason))

    @property
    def closed(self) -> bool:
        """Whether the context is gone."""
        return self._passage is None

    @property
    def space(self) -> AddressSpace:
        """Where it runs."""
        return self._space

    @property
    def registers(self) -> Registers:
        """All registers as a value; assign a value to change them."""
        return Registers(**dict(zip(REGISTER_NAMES, self.words[:WORDS], strict=True)))

    @registers.setter
    def registers(self, registers: Registers) -> None:
        words = self.words
        for position, value in enumerate(registers.words()):
            words[position] = value

    @property
    def words(self) -> memoryview:
        """The registers as unsigned 64-bit words, shared with the core: positions in model.registers.RegisterIndex.

        The view is dead (ValueError) once the context is closed; do not keep slices of it.
        """
        passage = self._passage
        if passage is None or passage.state != IDLE or self._core.state:
            passage = self._idle()
        return passage.words

    @property
    def xsave(self) -> bytes:
        """FP and vector state as an XSAVE image of `capabilities.xsave_bytes` (standard format)."""
        passage = self._idle()
        ffi, lib = self._core.binding.ffi, self._core.binding.lib
        size = lib.akvm_machine_capabilities(self._core.native).xsave_bytes
        image = ffi.new("char[]", size)
        self._core.binding.check(lib.akvm_context_get_xsave(passage.native, image, size))
        return bytes(ffi.buffer(image))

    @xsave.setter
    def xsave(self, image: bytes) -> None:
        passage = self._idle()
        source = self._core.binding.ffi.from_buffer("char[]", image)
        self._core.binding.check(self._core.binding.lib.akvm_context_set_xsave(passage.native, source, len(image)))

    @property
    def restore(self) -> Restore:
        """How ring 0 returns to the guest."""
        return Restore(self._idle().fields[FIELD_RESTORE])

    @restore.setter
    def restore(self, restore: Restore) -> None:
        self._idle().fields[FIELD_RESTORE] = Restore(restore)

    @property
    def weight(self) -> float:
        """Share of vCPU time beside others of the same priority; 1.0 is ordinary, 1/64..64."""
        return self._weight

    @weight.setter
    def weight(self, weight: float) -> None:
        if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
            raise UsageError(f"weight must be in {WEIGHT_MIN}..{WEIGHT_MAX}")
        self._engine.tune(self._open().index, weight, self._priority)
        self._weight = weight

    @property
    def priority(self) -> Priority:
        """Higher ones run first."""
        return self._priority

    @priority.setter
    def priority(self, priority: Priority) -> None:
        if priority not in Priority.__members__.values():
            raise UsageError(f"not a priority: {priority!r}")
        self._engine.tune(self._open().index, self._weight, priority)
        self._priority = Priority(priority)

    @property
    def answers(self) -> Mapping[int, int]:
        """System calls with a constant answer, {number below 512: value}: resolved on the vCPU thread, never seen here."""
        return dict(self._answers)

    @answers.setter
    def answers(self, answers: Mapping[int, int]) -> None:
        passage = self._idle()
        for number, value in answers.items():
            if not 0 <= number < _ANSWERS_MAX or not -(1 << 63) <= value < 1 << 63:
                raise UsageError(f"not a constant answer: {number}: {value}")
        binding = self._core.binding
        native = binding.create_answers(dict(answers)) if answers else binding.ffi.NULL
        result = binding.lib.akvm_context_answers(passage.native, native)
        if result < 0:
            error = binding.error(result)
            if answers:
                binding.lib.akvm_answers_destroy(native)
            raise error
        self._free_answers()
        self._answers_native = native if answers else None
        self._answers = dict(answers)

    def set_direct_files(self, files: DirectFiles | None) -> None:
        """The descriptors of its guest that are answered for on the vCPU thread; none at first."""
        native = self._idle().native
        binding = self._core.binding
        binding.check(binding.lib.akvm_context_direct_files(native, binding.ffi.NULL if files is None else files.native))

    @property
    def direct_calls(self) -> dict[DirectCall, int]:
        """How many system calls on direct files were answered on the vCPU thread so far."""
        words = self._open().words
        return {call: words[WORD_DIRECT_CALLS + call] for call in DirectCall}

    @property
    def counters(self) -> ContextCounters:
        """Read while no switch() runs for exact numbers; otherwise those of the last run."""
        self._core.check()
        words = self._open().words
        return ContextCounters(words[WORD_EXITS], words[WORD_NATIVE_EXITS], words[WORD_TOTAL_NS])

    def exits(self) -> ExitStream:
        """Records of all further exits, for `async for`; bounded, the oldest go first when nobody reads."""
        passage = self._open()
        stream = ExitStream(self._streams_changed)
        self._streams.append(stream)
        passage.watch = self._record
        return stream

    def close(self) -> None:
        """Free the context; UsageError while a switch() runs. Idempotent."""
        passage = self._passage
        if passage is None:
            return
        if self._core.usable:
            if passage.state != IDLE:
                raise UsageError(f"context {self.number} is still in switch(): cancel that task and await it first")
            self._engine.leave(passage.index)
            self._core.binding.check(self._core.binding.lib.akvm_context_destroy(passage.native))
            self._free_answers()
        self.detach()

    def detach(self) -> None:
        """Forget the native context, which is gone or belongs to somebody else."""
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.words.release()
            passage.fields.release()
            self._space.contexts -= 1
        for stream in self._streams:
            stream.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        passage = self._passage
        if passage is None or not self._core.usable:
            return
        release = functools.partial(_release, self._core, self._engine, passage, self._space, self._answers_native)
        self._core.bury(0, release)
        # Last: with -W error it raises.
        warnings.warn(f"context {self.number} was not closed", ResourceWarning, stacklevel=1, source=self)

    def _open(self) -> Passage:
        if self._passage is None:
            raise ClosedError(f"context {self.number} is closed")
        return self._passage

    def _idle(self) -> Passage:
        self._core.check()
        passage = self._open()
        if passage.state != IDLE:
            raise UsageError(f"context {self.number} is in switch(): its state belongs to the vCPU")
        return passage

    def _busy(self) -> Exception:
        self._open()
        self._core.check()
        return UsageError(f"context {self.number} is already in switch(): one at a time")

    def _early(self, passage: Passage) -> Exit:
        self._core.check()
        exit_ = passage.exit
        if exit_ is None:
            exit_ = INTERRUPTED[strongest(passage.pending)]
            passage.pending = 0
        passage.exit = None
        return exit_

    def _record(self, passage: Passage, exit_: Exit | None) -> None:
        if exit_ is not None:
            record = self._log.record(passage, exit_)
            for stream in self._streams:
                stream.put(record)

    def _streams_changed(self, stream: ExitStream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        if not self._streams and self._passage is not None:
            self._passage.watch = None

    def _free_answers(self) -> None:
        if self._answers_native is not None:
            self._core.binding.lib.akvm_answers_destroy(self._answers_native)
            self._answers_native = None


def _release(core: Core, engine: Engine, passage: Passage, space: AddressSpace, answers: Handle) -> bool:
    """Free what a dropped context held; False while its last run has not come back."""
    if passage.state != IDLE:
        return False
    engine.leave(passage.index)
    core.binding.lib.akvm_context_destroy(passage.native)
    if answers is not None:
        core.binding.lib.akvm_answers_destroy(answers)
    passage.words.release()
    passage.fields.release()
    space.contexts -= 1
    return True
