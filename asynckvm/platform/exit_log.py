"""The exit log: what happened to contexts, as structlog events with stable field names.

Events: `exit` (per exit, only when a filter asks), `abnormal_end`, `overdue`, `retry`, `close_timeout`. Fields, where they apply:

    machine       number of the machine in this process          vcpu         index
    context       number of the context, never reused            generation   run of that context
    exit          syscall | fault | interrupted                  vector       processor's exception vector
    signal, code  siginfo's si_signo, si_code                    address      si_addr, or CR2
    access        READ | WRITE | EXECUTE                         rip          at the exit
    syscall       number                                         args         six integers
    reason        BOUNCED | PREEMPTED | ...                      duration_ns  guest time of the run
    attempt       from 1                                         operation    a ring-0 operation
    error         class of a typed error                         dump         flight recorder

Counters cost nothing and are elsewhere; nothing here runs for an exit unless somebody asked for records.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from asynckvm.model.exits import Fault, Interrupted, Syscall
from asynckvm.platform.layout import FIELD_GENERATION, FIELD_VCPU, FIELD_VECTOR, WORD_RAN_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.errors import AsyncKvmError
    from asynckvm.model.exits import Exit, Instruction, InterruptReason
    from asynckvm.model.memory import Access
    from asynckvm.model.operations import Operation
    from asynckvm.platform.passage import Passage

__all__ = ["STREAM_RECORDS", "ExitLog", "ExitRecord", "ExitStream"]

# Records an ExitStream keeps for a slow reader; older ones are dropped and counted.
STREAM_RECORDS: Final = 1024

_RIP: Final = 16


class ExitRecord(NamedTuple):
    """One exit with its circumstances; fields that do not apply are None. `fields()` leaves those out."""

    machine: int
    context: int
    generation: int
    vcpu: int
    exit: str
    rip: int
    duration_ns: int
    vector: int | None = None
    signal: int | None = None
    code: int | None = None
    address: int | None = None
    access: Access | None = None
    syscall: int | None = None
    args: tuple[int, ...] | None = None
    instruction: Instruction | None = None
    reason: InterruptReason | None = None

    def fields(self) -> dict[str, Any]:
        """For a log: enums by name."""
        values = self._asdict()
        return {name: getattr(value, "name", value) for name, value in values.items() if value is not None}


class ExitStream:
    """Records of one context, for `async for`; ends when the context is closed. Made by `Context.exits()`. Thread: loop."""

    def __init__(self, ended: Callable[[ExitStream], None]) -> None:
        self.dropped = 0
        self._records: deque[ExitRecord] = deque(maxlen=STREAM_RECORDS)
        self._wakeup = asyncio.Event()
        self._closed = False
        self._ended = ended

    def __aiter__(self) -> ExitStream:
        return self

    async def __anext__(self) -> ExitRecord:
        while not self._records:
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._records.popleft()

    async def aclose(self) -> None:
        """Stop recording. Idempotent."""
        self.end()
        self._ended(self)

    def put(self, record: ExitRecord) -> None:
        """One more record."""
        self.dropped += len(self._records) == STREAM_RECORDS
        self._records.append(record)
        self._wakeup.set()

    def end(self) -> None:
        """No more records; the reader gets those that are left."""
        self._closed = True
        self._wakeup.set()


class ExitLog:
    """The log of one machine. `filter`: a function of ExitRecord that chooses the exits to log, or None for none."""

    def __init__(self, machine: int) -> None:
        self.machine: Final = machine
        self.filter: Callable[[ExitRecord], bool] | None = None
        self._log = structlog.get_logger("asynckvm").bind(machine=machine)

    def record(self, passage: Passage, exit_: Exit) -> ExitRecord:
        """The record of an exit that was just drained."""
        fields, words = passage.fields, passage.words
        common = (self.machine, passage.number, fields[FIELD_GENERATION], fields[FIELD_VCPU])
        end = (words[_RIP], words[WORD_RAN_NS])
        match exit_:
            case Syscall(number, args, instruction):
                return ExitRecord(*common, "syscall", *end, syscall=number, args=args, instruction=instruction)
            case Fault(signal, code, address, access, vector):
                return ExitRecord(*common, "fault", *end, vector=vector, signal=signal, code=code, address=address, access=access)
            case Interrupted(reason):
                return ExitRecord(*common, "interrupted", *end, reason=reason)

    def exit(self, passage: Passage, exit_: Exit) -> None:
        """Log an exit if the filter wants it. A filter that raises is switched off and reported."""
        record = self.record(passage, exit_)
        try:
            wanted = self.filter is not None and self.filter(record)
        except Exception:  # noqa: BLE001  (user code, called from the middle of a turn)
            self.filter = None
            self._log.exception("exit_filter_failed")
            return
        if wanted:
            self._log.info("exit", **record.fields())

    def abnormal(self, passage: Passage, error: AsyncKvmError) -> None:
        """A context ended in a way that no program causes. Once for each end."""
        self._log.error(
            "abnormal_end",
            context=passage.number,
            generation=passage.fields[FIELD_GENERATION],
            vcpu=passage.fields[FIELD_VCPU],
            vector=passage.fields[FIELD_VECTOR],
            rip=passage.words[_RIP],
            duration_ns=passage.words[WORD_RAN_NS],
            error=type(error).__name__,
            message=str(error),
            dump=getattr(error, "dump", ""),
        )

    def overdue(self, passage: Passage, waited_ns: int, dump: str) -> None:
        """A run was told to return and did not."""
        self._log.error(
            "overdue",
            context=passage.number,
            generation=passage.fields[FIELD_GENERATION],
            duration_ns=waited_ns,
            dump=dump,
        )

    def retry(self, operation: Operation, vcpu: int, attempt: int, reason: str) -> None:
        """A ring-0 operation was interrupted and runs again."""
        self._log.info("retry", operation=str(operation), vcpu=vcpu, attempt=attempt, reason=reason)

    def close_timeout(self, flight: int, dump: str) -> None:
        """The machine did not come to rest within its bound."""
        self._log.error("close_timeout", in_flight=flight, dump=dump)
