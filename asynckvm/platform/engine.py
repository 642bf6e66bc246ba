"""One turn of the event loop's side: drain -> step -> submit -> decode -> resume. The life of one exit, read from here:

1. `Context.switch()` calls `start`: the scheduler is told READY and answers at once, SUBMIT to a vCPU with room or nothing when
   the context must queue. Then the coroutine waits on its `Passage`.
2. The vCPU's thread runs the guest and publishes its exit. If the loop was going to sleep it had armed the doorbell
   (`doorbell`), whose eventfd now starts a turn; if it is awake, a turn is already under way or scheduled.
3. `_turn` drains a batch of context indices in one native call, tells the scheduler DONE for all of them in one step, and
   applies its commands first, so that no vCPU waits for Python.
4. Then it decodes each exit and resumes each coroutine by calling its Task directly: no future, no extra pass through the loop.
   A coroutine that switches again is at 1 while the turn is still running.
5. The turn goes on until nothing is left, or until its bound is reached and the loop's other callbacks must have
   their time; it ends with the doorbell armed, with a next turn scheduled, or with nothing in flight.

Interrupts and cancellation also live here, because what they mean depends on where the context is. What runs where and when is
decided by `scheduler` alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from asynckvm.errors import AsyncKvmError, InternalError, OverloadedError
from asynckvm.model.exits import ExitKind, Interrupted, InterruptReason, strongest
from asynckvm.platform.decode import INTERRUPTED, SYSCALL_WORD, decode, decode_failure, decode_syscall
from asynckvm.platform.doorbell import Doorbell
from asynckvm.platform.layout import (
    FIELD_GENERATION,
    FIELD_INTERRUPTS,
    FIELD_KIND,
    FIELD_VCPU,
    WORD_KIND_VECTOR,
    WORD_RAN_NS,
)
from asynckvm.platform.passage import IDLE, QUEUED, RETURNING, RUNNING
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
)
from asynckvm.platform.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.model.config import MachineConfig
    from asynckvm.model.exits import Exit
    from asynckvm.platform.core import Core
    from asynckvm.platform.exit_log import ExitLog
    from asynckvm.platform.passage import Passage
    from asynckvm.platform.scheduler.messages import Command, Event

__all__ = ["Engine"]

_CANCEL: Final = int(InterruptReason.CANCELLED)
_PREEMPT: Final = int(InterruptReason.PREEMPTED)
# These make a run leave its vCPU and mean nothing once it has left by itself; the others wait for the next switch().
_DROPPED_WHEN_LATE: Final = int(InterruptReason.PREEMPTED | InterruptReason.SHOOTDOWN)


class Engine:
    """Carries contexts between coroutines and vCPUs. Thread: loop."""

    def __init__(self, core: Core, config: MachineConfig, log: ExitLog, dump: Callable[[], str]) -> None:
        self._core = core
        self._loop = core.loop
        self._machine = core.native
        self._log = log
        self._dump = dump
        self._native_drain = core.binding.drain
        self._native_submit = core.binding.submit
        self._native_interrupt = core.binding.interrupt
        self._turn_completions = config.engine.turn_completions
        self._turn_ns = config.engine.turn_ns
        self._buffer, self._indices = core.binding.drain_buffer(self._turn_completions)
        self._vcpus = config.vcpus
        self._status = core.binding.ffi.new("struct akvm_vcpu_status *")
        self._table: list[Passage | None] = [None] * (config.contexts + 1)  # whatever is queued or in flight
        self._flight = 0
        self._late: list[Passage] = []  # ended outside a drain; woken by the next turn
        self._failed: list[tuple[Passage, int]] = []  # the core refused the submit; the scheduler must hear of it
        self._driven = False  # a turn runs, or is scheduled, or the doorbell is armed
        self._scheduled = False
        self._closed = False
        self._refusal: Callable[[], AsyncKvmError] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.scheduler = Scheduler(config.vcpus, len(self._table), config.scheduler)
        self._step = self.scheduler.step
        self._enqueue = self.scheduler.enqueue
        self._book = self.scheduler.finish
        self._clock = time.monotonic_ns
        self.doorbell = Doorbell(core, config.engine, config.vcpus, self._turn)
        self._watchdog = Watchdog(core.loop, config.engine.overdue_ns, self._overdue)
        self.turns = 0
        self.completions = 0

    # ------------------------------------------------------------ from contexts

    def join(self, passage: Passage, weight: float, priority: int) -> None:
        """A context was created."""
        self._step(time.monotonic_ns(), ((JOIN, passage.index, weight, priority),))

    def leave(self, index: int) -> None:
        """A context is about to be destroyed; it is neither queued nor in flight."""
        self._step(time.monotonic_ns(), ((LEAVE, index),))

    def tune(self, index: int, weight: float, priority: int) -> None:
        """Weight and priority from the context's next pick on."""
        self._step(time.monotonic_ns(), ((TUNE, index, weight, priority),))

    def start(self, passage: Passage) -> None:
        """Queue a context, or submit it when there is room. Raises ClosedError, HostForkedError, OverloadedError."""
        if self._core.state:
            raise self._core.refusal()
        index = passage.index
        passage.state = QUEUED
        self._table[index] = passage
        now_ns = self._clock()
        vcpu = self._enqueue(now_ns, index)
        if vcpu >= 0:
            self._submit(passage, vcpu)
        elif vcpu != NOWHERE:
            self._apply(self._step(now_ns, ((READY, index),)))
            if passage.state == IDLE:
                waiting = self.scheduler.waiting
                raise OverloadedError(f"{waiting} contexts already wait for a vCPU: max_waiting of SchedulerConfig")
        if not self._driven:
            self._schedule()

    def operate(self, passage: Passage, vcpu: int, code: int) -> None:
        """Submit a ring-0 operation to one vCPU, past the queue; a guest that runs there is preempted by the core."""
        self._core.check()
        self._core.binding.check(self._core.binding.operate(passage.native, vcpu, code))
        passage.state = RUNNING
        self._table[passage.index] = passage
        self._flight += 1
        if not self._driven:
            self._schedule()

    def interrupt(self, passage: Passage, bit: int) -> None:
        """Make the running switch(), or else the next one, return Interrupted."""
        state = passage.state
        if state == RUNNING:
            self._send(passage, bit)
        elif bit & _DROPPED_WHEN_LATE:
            return
        elif state == QUEUED:
            self._withdraw(passage)
            passage.exit = INTERRUPTED[bit]
        elif state == RETURNING and isinstance(passage.exit, Interrupted):
            passage.exit = INTERRUPTED[strongest(passage.exit.reason | bit)]
        else:
            passage.pending |= bit

    def cancel(self, passage: Passage, message: Any) -> bool:
        """The waiting task was cancelled: end its switch(), but not before the context is off its vCPU."""
        state = passage.state
        if state not in {QUEUED, RUNNING}:
            return False  # it has its exit; the Task throws CancelledError, and the exit is kept
        passage.cancelling = True
        passage.error = asyncio.CancelledError() if message is None else asyncio.CancelledError(message)
        if state == QUEUED:
            self._withdraw(passage)
        else:
            self._send(passage, _CANCEL)
        return True

    def left(self, passage: Passage) -> None:
        """An exception ended the wait: of the passage itself, or from outside while the context is still under way."""
        state = passage.state
        if state == RETURNING:
            passage.state = IDLE
            passage.cancelling = False
            passage.error = None
            return
        passage.callback = None
        if state == QUEUED:
            self._withdraw(passage)
            passage.state = IDLE
        elif state == RUNNING:
            passage.cancelling = True
            self._send(passage, _CANCEL)

    # ------------------------------------------------------------ the turn

    def _schedule(self) -> None:
        self._driven = True
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self._turn()

    def _turn(self) -> None:
        if self._closed or not self._core.usable:
            return
        self._driven = True
        self.turns += 1
        left = self._turn_completions
        until_ns = time.monotonic_ns() + self._turn_ns
        try:
            while True:
                count = self._native_drain(self._machine, self._buffer, self._turn_completions)
                if count:
                    left -= self._complete(self._indices[:count].tolist())
                elif self._late or self._failed:
                    left -= self._complete([])
                elif self._rest():
                    return
                if left <= 0 or time.monotonic_ns() >= until_ns:
                    self._schedule()
                    return
        except BaseException:
            self._schedule()
            raise

    def _rest(self) -> bool:
        """Nothing to do: True when the turn may end."""
        if self._flight:
            return self.doorbell.rest(self._flight)
        self._driven = self._scheduled
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return True

    def _complete(self, indices: list[int]) -> int:
        """One batch: scheduler and vCPUs first, then decode, then coroutines. Returns how many ended."""
        table = self._table
        batch: list[Any] = [table[index] for index in indices]
        self._flight -= len(batch)
        self._reschedule(batch)
        careful = self._refusal is not None or self._log.filter is not None
        for passage in batch:
            table[passage.index] = None
            passage.state = RETURNING
            words = passage.words
            if words[WORD_KIND_VECTOR] == SYSCALL_WORD and not passage.sent and passage.watch is None and not careful:
                passage.exit = decode_syscall(words)
            else:
                self._finish(passage)
        if self._late:
            batch, self._late = self._late + batch, []
        self.completions += len(batch)
        woken = 0
        try:
            for passage in batch:
                woken += 1
                callback = passage.callback
                if callback is None or passage.state != RETURNING:
                    passage.wake()
                else:  # wake(), less a call
                    passage.callback = None
                    passage.callback_context.run(callback, passage)
        except BaseException:
            self._late = batch[woken:] + self._late
            raise
        return len(batch)

    def _reschedule(self, batch: list[Passage]) -> None:
        now_ns = self._clock()
        events: list[Event] = self._take_failed() if self._failed else []
        for passage in batch:
            index, ran_ns, vcpu = passage.index, passage.words[WORD_RAN_NS], passage.fields[FIELD_VCPU]
            if events or not self._book(now_ns, index, ran_ns, vcpu):
                events.append((DONE, index, ran_ns, vcpu))
        if events:
            commands = self._step(now_ns, events)
            if commands:
                self._apply(commands)

    def _take_failed(self) -> list[Event]:
        failed, self._failed = self._failed, []
        self._late += [passage for passage, _ in failed]
        return [(DONE, passage.index, 0, vcpu) for passage, vcpu in failed]

    # ------------------------------------------------------------ commands

    def _apply(self, commands: list[Command]) -> None:
        for kind, index, argument in commands:
            if kind == SUBMIT:
                passage: Any = self._table[index]
                self._submit(passage, argument)
            elif kind == INTERRUPT:
                self._preempt(index, argument)
            elif kind == ARM_TICK:
                delay = (index - time.monotonic_ns()) / 1e9
                self._ticker = self._loop.call_later(max(0.0, delay), self._tick)
            elif kind == REFUSE:
                passage = self._table[index]
                passage.state = IDLE
                self._table[index] = None

    def _submit(self, passage: Passage, vcpu: int) -> None:
        passage.state = RUNNING
        if self._native_submit(passage.native, vcpu) == 0:
            self._flight += 1
        else:
            self._submit_failed(passage, vcpu)

    def _submit_failed(self, passage: Passage, vcpu: int) -> None:
        error = InternalError(f"the core refused context {passage.number} on vCPU {vcpu}", self._dump())
        self._log.abnormal(passage, error)
        self._table[passage.index] = None
        passage.state = RETURNING
        passage.error = error
        self._failed.append((passage, vcpu))
        self._schedule()

    def _tick(self) -> None:
        self._ticker = None
        if self._closed or not self._core.usable:
            return
        status, look = self._status, self._core.binding.lib.akvm_vcpu_status
        running = [
            (vcpu, status.context, status.generation, status.started_ns)
            for vcpu in range(self._vcpus)
            if look(self._machine, vcpu, status) == 0 and status.started_ns
        ]
        self._core.binding.lib.akvm_machine_rouse(self._machine)
        self._apply(self._step(time.monotonic_ns(), ((TICK, running),)))
        # Completions that a vCPU left for later (akvm_machine_doorbell) wait no longer than from tick to tick.
        if self._flight:
            self._schedule()

    def _preempt(self, index: int, generation: int) -> None:
        passage = self._table[index] if index < len(self._table) else None
        if passage is not None and passage.state == RUNNING and passage.fields[FIELD_GENERATION] == generation:
            self._send(passage, _PREEMPT)

    def _send(self, passage: Passage, bit: int) -> None:
        passage.sent |= bit
        self._native_interrupt(passage.native, passage.fields[FIELD_GENERATION], bit)
        self._watchdog.watch(passage)
        self.doorbell.expect()
        self._schedule()

    def _withdraw(self, passage: Passage) -> None:
        """Take a queued context out of the ready queue; the next turn wakes its coroutine."""
        self._step(time.monotonic_ns(), ((WITHDRAW, passage.index),))
        self._table[passage.index] = None
        passage.state = RETURNING
        self._late.append(passage)
        self._schedule()

    # ------------------------------------------------------------ uncommon ends

    def _finish(self, passage: Passage) -> None:
        """Every end but a plain system call that nobody interrupts or watches."""
        sent, passage.sent = passage.sent, 0
        if sent:
            self._watchdog.forget(passage)
        fields = passage.fields
        if not passage.operation:
            error, exit_ = self._decode(passage)
            reported = fields[FIELD_INTERRUPTS] if fields[FIELD_KIND] == ExitKind.INTERRUPTED else 0
            late = sent & ~reported
            if passage.cancelling:
                late = (late | reported) & ~_CANCEL
                if reported:
                    exit_ = None
            passage.pending |= late & ~_DROPPED_WHEN_LATE & ~int(InterruptReason.CLOSED)
            passage.exit = exit_
            if passage.watch is not None:
                passage.watch(passage, exit_)
            if exit_ is not None and self._log.filter is not None:
                self._log.exit(passage, exit_)
            if passage.error is None:
                passage.error = error
        if self._refusal is not None and passage.error is None:
            passage.error = self._refusal()

    def _decode(self, passage: Passage) -> tuple[AsyncKvmError | None, Exit | None]:
        def read_xsave() -> bytes:
            binding = self._core.binding
            size = binding.lib.akvm_machine_capabilities(self._machine).xsave_bytes
            image = binding.ffi.new("char[]", size)
            binding.check(binding.lib.akvm_context_get_xsave(passage.native, image, size))
            return bytes(binding.ffi.buffer(image))

        error: AsyncKvmError
        try:
            if passage.fields[FIELD_KIND] != ExitKind.ERROR:
                return None, decode(passage.words, passage.fields, read_xsave)
            error = decode_failure(passage.fields, self._dump)
        except AsyncKvmError as caught:
            error = caught
        self._log.abnormal(passage, error)
        return error, None

    def _overdue(self, passage: Passage, waited_ns: int) -> None:
        self._log.overdue(passage, waited_ns, self._dump())
        self._native_interrupt(passage.native, passage.fields[FIELD_GENERATION], passage.sent)

    # ------------------------------------------------------------ close

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Refuse new runs, end all old ones with ClosedError, and wait, bounded, until none is in flight."""
        self._refusal = self._core.refusal
        self._core.binding.lib.akvm_machine_stop(self._machine)
        for passage in self._table:
            if passage is not None and passage.state == QUEUED:
                passage.error = self._core.refusal()
                self._withdraw(passage)
        self._idle = self._loop.create_future()
        self._schedule()
        await asyncio.wait([self._idle], timeout=timeout)

    def close(self) -> None:
        """Leave the loop: no reader, no timer, no turn. Runs that never came back end with ClosedError. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.doorbell.close()
        self._watchdog.close()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for index, passage in enumerate(self._table):
            if passage is not None:
                self._table[index] = None
                passage.state = RETURNING
                if passage.error is None:
                    passage.error = self._core.refusal()
                self._late.append(passage)
        late, self._late = self._late, []
        for passage in late:
            self._loop.call_soon(passage.wake)
