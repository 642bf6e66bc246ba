"""What is logged about a guest: its abnormal end, system calls that do not exist here, and each call when a trace is asked for.

structlog events `program_killed`, `kernel_error`, `policy_failed`, `records_left_out`, `syscall_missing` and `syscall`. Fields,
stable: `pid`, `program`; of an end `signal`, `code` (si_code), `address` (si_addr), `access`, `rip`, `reason`; of an error of
ours `number` (the last call), `error`, `traceback`; of a policy `request`, `error`; of a call `call`, `number`, `result`; of
`records_left_out` numbers by event. structlog is imported when the first event is logged, because most programs end well and
wait for nothing.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.status import Cause, signal_name

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.sockets.policy import NetworkRequest
    from asynckvm.linux.status import ExitStatus
    from asynckvm.linux.syscalls.call import Call
    from asynckvm.linux.task import Task
    from asynckvm.model.exits import Fault

_CODES: Final = {
    (signal.SIGSEGV, 1): "SEGV_MAPERR", (signal.SIGSEGV, 2): "SEGV_ACCERR", (signal.SIGBUS, 1): "BUS_ADRALN",
    (signal.SIGBUS, 2): "BUS_ADRERR", (signal.SIGFPE, 1): "FPE_INTDIV", (signal.SIGFPE, 3): "FPE_FLTDIV",
    (signal.SIGFPE, 4): "FPE_FLTOVF", (signal.SIGFPE, 5): "FPE_FLTUND", (signal.SIGFPE, 6): "FPE_FLTRES",
    (signal.SIGFPE, 7): "FPE_FLTINV", (signal.SIGILL, 2): "ILL_ILLOPN", (signal.SIGTRAP, 1): "TRAP_BRKPT",
    (signal.SIGTRAP, 2): "TRAP_TRACE",
}  # fmt: skip
_SI_KERNEL: Final = 0x80
# Ends that whoever started the program asked for, and is told of.
_WISHES: Final = frozenset({Cause.TIMEOUT, Cause.CANCELLED, Cause.CLOSED})
_ERRORS: Final = 4095
# Programs and numbers are the guests' own: they must not fill the log.
_UNKNOWN_MAX: Final = 1000
# How many records of a kind one kernel makes; further ones are counted.
_BOUNDS: Final = {"program_killed": 100, "kernel_error": 20, "policy_failed": 20}
_TRACEBACK_MAX: Final = 16_384


class Observer(Protocol):
    """What a kernel tells about its processes while they run. Nothing of it may raise or wait."""

    @property
    def tracing(self) -> bool:
        """Whether `calling`, `called` and `signalled` are asked for; looked at when a thread starts."""

    def unknown(self, task: Task, number: int) -> None:
        """A system call that does not exist here was answered with ENOSYS, for the first time in this process."""

    def calling(self, task: Task, call: Call, args: tuple[int, ...]) -> None:
        """A system call begins: what its arguments point to is as the program has it."""

    def called(self, task: Task, call: Call, args: tuple[int, ...], result: int) -> None:
        """A system call was answered."""

    def signalled(self, task: Task, info: SigInfo) -> None:
        """A signal is acted on: a handler is about to run, or the default action."""

    def ended(self, process: Process, status: ExitStatus) -> None:
        """A process is gone."""

    def policy_failed(self, request: NetworkRequest, error: Exception) -> None:
        """A network policy raised, took too long or answered nonsense: that was a refusal."""

    def failed(self, task: Task, error: Exception) -> None:
        """A defect of asynckvm: what answers the thread has raised this. Its process ends."""

    def closed(self) -> None:
        """The kernel is gone: nothing more will be told."""


class Reporter:
    """Logs for one kernel. Guests can repeat what is logged about them, so only the first records of a kind are made."""

    def __init__(self, *, trace: bool = False) -> None:
        self.tracing = trace
        self._unknown: set[tuple[bytes, int]] = set()
        self._records: Counter[str] = Counter()

    @cached_property
    def _log(self) -> Any:
        import structlog  # noqa: PLC0415

        return structlog.get_logger("asynckvm")

    def ended(self, process: Process, status: ExitStatus) -> None:
        """One warning when a signal ended it that nobody sent on purpose: a fault, or a limit."""
        if status.fault is not None or status.reason:
            self.killed(process, status)

    def killed(self, process: Process, status: ExitStatus) -> None:
        """The warning, for whatever signal it was; none for an end that was asked for from outside."""
        if status.signal is not None and status.cause not in _WISHES and self._has_room("program_killed"):
            self._log.warning("program_killed", pid=process.pid, program=_name(process), **describe(status))

    def failed(self, task: Task, error: Exception) -> None:
        """An error with all that is known."""
        if self._has_room("kernel_error"):
            trace = "".join(traceback.format_exception(error))[-_TRACEBACK_MAX:]
            self._log.error(
                "kernel_error",
                pid=task.process.pid,
                program=_name(task.process),
                number=task.syscall,
                error=repr(error)[:_TRACEBACK_MAX],
                traceback=trace,
                dump=getattr(error, "dump", None),
            )

    def closed(self) -> None:
        """One event `records_left_out` for what was counted only: how many of which kind."""
        left_out = {kind: self._records[kind] - bound for kind, bound in _BOUNDS.items() if self._records[kind] > bound}
        if left_out:
            self._log.warning("records_left_out", **left_out)

    def _has_room(self, kind: str) -> bool:
        self._records[kind] += 1
        return self._records[kind] <= _BOUNDS[kind]

    def unknown(self, task: Task, number: int) -> None:
        """Once for each program, however often it runs."""
        key = (task.name, number)
        if key not in self._unknown and len(self._unknown) < _UNKNOWN_MAX:
            self._unknown.add(key)
            self._log.info("syscall_missing", pid=task.process.pid, program=os.fsdecode(task.name), number=number)

    def policy_failed(self, request: NetworkRequest, error: Exception) -> None:
        """An error of the policy's own."""
        if self._has_room("policy_failed"):
            address = f"{request.protocol}:{request.address}:{request.port}"
            self._log.error("policy_failed", request=address, error=repr(error)[:_TRACEBACK_MAX])

    def calling(self, task: Task, call: Call, args: tuple[int, ...]) -> None:
        """Nothing: one event for each call."""

    def signalled(self, task: Task, info: SigInfo) -> None:
        """Nothing: an end by one is logged by `ended`."""

    def called(self, task: Task, call: Call, args: tuple[int, ...], result: int) -> None:
        shown = f"-{SyscallError(-result)}" if -_ERRORS <= result < 0 else hex(result) if result > _ERRORS else str(result)
        self._log.debug("syscall", pid=task.process.pid, tid=task.tid, call=call.show(task.space, args), result=shown)


def _name(process: Process) -> str:
    return os.fsdecode(process.program.name)


def describe(status: ExitStatus) -> dict[str, str]:
    """The fields of a death by signal: signal, address, rip, and what else is known."""
    if status.signal is None:
        return {}
    fields = {"signal": signal_name(status.signal)}
    if status.fault is not None:
        fields |= {"code": _code_name(status.fault), "address": hex(status.fault.address)}
        if status.fault.access:
            fields["access"] = (status.fault.access.name or str(int(status.fault.access))).lower()
    fields["rip"] = hex(status.rip)
    if status.reason:
        fields["reason"] = status.reason
    return fields


def _code_name(fault: Fault) -> str:
    return "SI_KERNEL" if fault.code == _SI_KERNEL else _CODES.get((signal.Signals(fault.signal), fault.code), str(fault.code))
