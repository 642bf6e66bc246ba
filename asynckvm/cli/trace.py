"""`asynckvm trace`: what a program and its descendants ask of their kernel, a line for each call, signal and end.

An observer of the kernel: nothing is stopped or attached to, so there is nothing a program could notice but the time it takes.
Source: strace(1) for the notation.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

from asynckvm.cli import messages, run, trace_values
from asynckvm.cli.statuses import Status
from asynckvm.linux.errors import RESTARTS
from asynckvm.linux.report import Reporter
from asynckvm.linux.signals.info import Layout
from asynckvm.linux.status import signal_name

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.status import ExitStatus
    from asynckvm.linux.syscalls.call import Call
    from asynckvm.linux.task import Task

_ERRORS: Final = 4095
_RESTART_NAMES: Final = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}
# Results that are addresses.
_ADDRESSES: Final = frozenset({"mmap", "brk", "mremap", "shmat"})
_NEVER_RETURNS: Final = frozenset({"exit", "exit_group"})
_CODES: Final = {0: "SI_USER", 0x80: "SI_KERNEL", -1: "SI_QUEUE", -2: "SI_TIMER", -6: "SI_TKILL"}
_CHILD_CODES: Final = {1: "CLD_EXITED", 2: "CLD_KILLED", 3: "CLD_DUMPED", 4: "CLD_TRAPPED", 5: "CLD_STOPPED", 6: "CLD_CONTINUED"}


def main(options: run.Options, output: str | None, *, count: bool) -> int:
    """Run the program traced; returns the exit status of the command."""
    try:
        # Line by line: what is traced may be watched while it runs.
        file = open(output, "w", buffering=1, encoding="utf-8") if output is not None else sys.stderr  # noqa: PTH123, SIM115
    except OSError as error:
        messages.say(f"{output}: {os.strerror(error.errno or 0)}")
        return Status.USAGE
    tracer = Counter() if count else Tracer(file)
    try:
        status = run.main(options, tracer)
        if isinstance(tracer, Counter):
            tracer.write_table(file)
        return status
    finally:
        if output is not None:
            file.close()


class Tracer(Reporter):
    """Writes lines to `file`, which may be closed by its reader: then nothing is written any more."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(trace=True)
        self._file: TextIO | None = file
        # Calls under way, by thread: what was shown of them when they began.
        self._open: dict[Task, tuple[Call, list[str]]] = {}

    def calling(self, task: Task, call: Call, args: tuple[int, ...]) -> None:
        self._open[task] = (call, trace_values.before(task.space, call, args))

    def called(self, task: Task, call: Call, args: tuple[int, ...], result: int) -> None:
        _, shown = self._open.pop(task, (call, []))
        shown = trace_values.after(task.space, call, args, shown, result)
        self._line(task.tid, f"{call.name}({', '.join(shown)}) = {_result(call, result)}")

    def unknown(self, task: Task, number: int) -> None:
        self._line(task.tid, f"syscall_{number:#x}() = {_error(errno.ENOSYS)}")

    def signalled(self, task: Task, info: SigInfo) -> None:
        self._line(task.tid, f"--- {signal_name(info.number)} {{{', '.join(_signal_fields(info))}}} ---")

    def ended(self, process: Process, status: ExitStatus) -> None:
        for task in [task for task in self._open if task.process is process]:
            call, shown = self._open.pop(task)
            self._line(task.tid, f"{call.name}({', '.join(shown)} <unfinished ...>) = ?")
        how = f"exited with {status.code}" if status.signal is None else f"killed by {signal_name(status.signal)}"
        self._line(process.pid, f"+++ {how}{f': {status.reason}' if status.reason else ''} +++")

    def _line(self, number: int, text: str) -> None:
        if self._file is not None:
            try:
                self._file.write(f"[{number}] {text}\n")
            except OSError:
                self._file = None


@dataclass(slots=True)
class Figures:
    """Of one system call."""

    calls: int = 0
    errors: int = 0
    nanoseconds: int = 0


class Counter(Reporter):
    """Counts calls, their errors, and the time until they were answered, waiting included."""

    def __init__(self) -> None:
        super().__init__(trace=True)
        self.figures: dict[str, Figures] = {}
        self._began: dict[Task, int] = {}

    def calling(self, task: Task, call: Call, args: tuple[int, ...]) -> None:  # noqa: ARG002
        self._began[task] = time.monotonic_ns()

    def called(self, task: Task, call: Call, args: tuple[int, ...], result: int) -> None:  # noqa: ARG002
        figures = self.figures.setdefault(call.name, Figures())
        figures.calls += 1
        figures.errors += -_ERRORS <= result < 0
        now = time.monotonic_ns()
        figures.nanoseconds += now - self._began.pop(task, now)

    def write_table(self, file: TextIO) -> None:
        """The calls that took longest first."""
        rows = sorted(self.figures.items(), key=lambda item: -item[1].nanoseconds)
        total = Figures(
            sum(row.calls for _, row in rows), sum(row.errors for _, row in rows), sum(row.nanoseconds for _, row in rows)
        )
        lines = [f"{'% time':>6} {'seconds':>11} {'usecs/call':>11} {'calls':>9} {'errors':>9} syscall", "-" * 72]
        for name, row in [*rows, ("total", total)]:
            if name == "total":
                lines.append("-" * 72)
            share, each = 100 * row.nanoseconds / max(total.nanoseconds, 1), row.nanoseconds / 1e3 / max(row.calls, 1)
            lines.append(f"{share:6.2f} {row.nanoseconds / 1e9:11.6f} {each:11.0f} {row.calls:9} {row.errors or '':>9} {name}")
        file.write("\n".join(lines) + "\n")


def _result(call: Call, result: int) -> str:
    if result >> 63 == 1:  # a register: rt_sigreturn(2) gives back what was in it
        result -= 1 << 64
    if call.name in _NEVER_RETURNS:
        return "?"
    if -_ERRORS <= result < 0:
        return _error(-result)
    return hex(result) if call.name in _ADDRESSES else str(result)


def _error(number: int) -> str:
    if number in RESTARTS:
        return f"? {_RESTART_NAMES[number]} (to be restarted)"
    return f"-1 {errno.errorcode.get(number, number)} ({os.strerror(number)})"


def _signal_fields(info: SigInfo) -> list[str]:
    layout = info.layout
    codes = _CHILD_CODES if layout is Layout.CHILD else _CODES
    fields = [f"si_signo={signal_name(info.number)}", f"si_code={codes.get(info.code, info.code)}"]
    if layout is Layout.FAULT:
        fields.append(f"si_addr={info.address:#x}")
    elif layout in (Layout.KILL, Layout.RT, Layout.CHILD):
        fields += [f"si_pid={info.pid}", f"si_uid={info.uid}"]
    if layout is Layout.CHILD:
        fields.append(f"si_status={info.status if info.code == 1 else signal_name(info.status)}")
    return fields
