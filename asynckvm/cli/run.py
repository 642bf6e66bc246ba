"""`asynckvm run`: one program in a sandbox on this terminal's streams, its status handed on.

What ends the program from outside (a timeout, Ctrl-C), what of the host it sees without being asked, and what is printed about it
are decided here; running it is `asynckvm.sandbox`'s work. The program writes to descriptor 1 itself: nothing here ever does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from asynckvm.cli import messages, terminal
from asynckvm.cli.statuses import Status
from asynckvm.errors import HostError, OverloadedError, PlatformError, UsageError
from asynckvm.linux import ArgumentsTooLongError, ElfError, ElfProblem
from asynckvm.linux.report import Reporter, describe
from asynckvm.sandbox import AllowConnect, Bind, Limits, Reason, Sandbox
from asynckvm.sandbox.sandbox import CLOSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.process import Process
    from asynckvm.linux.report import Observer
    from asynckvm.linux.status import ExitStatus
    from asynckvm.model.config import PlatformChoice
    from asynckvm.platform import Machine
    from asynckvm.sandbox import CompletedProcess

# What a program needs to know of its user's session; nothing in it opens anything.
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLUMNS", "LINES", "TZ", "LANG", "LANGUAGE")
_PASSED_ON_PREFIX: Final = "LC_"
_ELF_STATUSES: Final = {
    ElfProblem.NOT_ELF: Status.NOT_ELF,
    ElfProblem.WRONG_ARCHITECTURE: Status.ARCHITECTURE,
    ElfProblem.TRUNCATED: Status.TRUNCATED,
    ElfProblem.MALFORMED: Status.MALFORMED,
    ElfProblem.TWO_INTERPRETERS: Status.MALFORMED,
    ElfProblem.BAD_INTERPRETER: Status.MALFORMED,
    ElfProblem.BAD_SCRIPT: Status.NOT_ELF,
    ElfProblem.SCRIPT_LOOP: Status.NOT_ELF,
}
# The first match counts; what is not here is a defect.
_STATUSES: Final[tuple[tuple[type[Exception], Status, str], ...]] = (
    (ArgumentsTooLongError, Status.ARGUMENTS, "arguments_too_long"),
    (PlatformError, Status.UNUSABLE, "platform_unusable"),
    (ImportError, Status.UNUSABLE, "not_built"),
    (HostError, Status.RESOURCES, "host_resources"),
    (OverloadedError, Status.RESOURCES, "host_resources"),
    (UsageError, Status.USAGE, "usage"),
    (IsADirectoryError, Status.DIRECTORY, "directory"),
    (FileNotFoundError, Status.NOT_FOUND, "not_found"),
    (NotADirectoryError, Status.NOT_FOUND, "not_found"),
    (PermissionError, Status.PERMISSION, "permission"),
    (OSError, Status.RESOURCES, "host_resources"),
)
_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FRAMES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `timeout` in seconds, `memory` in bytes, `env` as NAME or NAME=VALUE.
    `tty`: a terminal for the program, or none; None decides by what the streams are."""

    argv: Sequence[str]
    timeout: float | None = None
    memory: int = 1 << 30
    env: Sequence[str] = ()
    binds: Sequence[str] = ()
    cwd: str | None = None
    tty: bool | None = None
    allow_connect: Sequence[str] = ()
    stats: bool = False
    json: bool = False
    platform: PlatformChoice = "auto"


@dataclass(slots=True)
class Outcome:
    """How a run ended. `status` is what the command exits with; `result` is None if nothing ran."""

    status: int
    reason: str
    message: str = ""
    result: CompletedProcess | None = None
    death: dict[str, str] | None = None
    figures: dict[str, int] = field(default_factory=dict)


class Watcher:
    """Passes everything on to an observer, and remembers how the program itself ended."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.ended_with: ExitStatus | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)

    def ended(self, process: Process, status: ExitStatus) -> None:
        if process.origin is process:
            self.ended_with = status
        self._observer.ended(process, status)


class _Reporter(Reporter):
    """Logs also the signals that the program itself died of on purpose: there is no shell here that would say so."""

    def ended(self, process: Process, status: ExitStatus) -> None:
        if process.origin is process:
            self.killed(process, status)
        else:
            super().ended(process, status)


def main(options: Options, observer: Observer | None = None) -> int:
    """Run the program; returns the exit status of the command. `observer` in place of the one that logs what went wrong."""
    streams = _standard_streams()
    try:
        outcome = _run(options, streams, observer)
    except KeyboardInterrupt:
        outcome = Outcome(Status.INTERRUPTED, "interrupted", f"interrupted: {options.argv[0]} was not started, or not ended")
    except Exception as error:  # noqa: BLE001  whatever it is, it has a status of its own
        outcome = _failure(error, options.argv[0])
    if outcome.message:
        messages.say(outcome.message)
    if options.stats and outcome.result is not None:
        messages.say(_stats_line(outcome, outcome.result))
    if options.json:
        messages.say_json(_as_json(outcome))
    return outcome.status


def _standard_streams() -> list[int]:
    """Descriptors 0 to 2, CLOSED for those that are. Their numbers are taken then, so that nothing of ours gets them."""
    streams = [0, 1, 2]
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            streams[number] = CLOSED
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  it stays open
    return streams


def _run(options: Options, streams: Sequence[int], observer: Observer | None) -> Outcome:
    import uvloop  # noqa: PLC0415

    messages.configure()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run_sandbox(options, streams, Watcher(observer if observer is not None else _Reporter())))


async def _run_sandbox(options: Options, streams: Sequence[int], watcher: Watcher) -> Outcome:
    from asynckvm.platform import Machine  # noqa: PLC0415

    started = time.monotonic_ns()
    sandbox_options: dict[str, Any] = {
        "binds": options.binds,
        "env": _environment(options.env),
        "cwd": options.cwd or os.getcwd(),  # noqa: PTH109
        "limits": Limits(memory=options.memory),
        "observer": watcher,
        "network": AllowConnect(*options.allow_connect) if options.allow_connect else None,
    }
    async with Machine.open(platform=options.platform, memory=-(-options.memory // _FRAMES) * _FRAMES) as machine:
        async with Sandbox(machine=machine, **sandbox_options) as sandbox:
            _show_host(sandbox, options)
            opened = time.monotonic_ns()
            reason, result = await _drive(sandbox, options, streams)
        figures = _figures(machine) | {"open_ns": opened - started, "wall_ns": time.monotonic_ns() - opened}
    ended = watcher.ended_with
    death = describe(ended) if ended is not None and ended.signal is not None else None
    status, message = _verdict(reason, result, options)
    return Outcome(status, reason, message, result, death, figures)


def _show_host(sandbox: Sandbox, options: Options) -> None:
    """What somebody who types ./a.out means: the current directory and the program, to read, if the sandbox has no such paths."""
    here = os.getcwd()  # noqa: PTH109
    if options.cwd is None and not sandbox.has(here):
        sandbox.bind(Bind(here, here))
    name = options.argv[0]
    if "/" not in name:
        return
    path = os.path.normpath(os.path.join(sandbox.cwd, name))  # noqa: PTH118  links stay as they are named
    if not sandbox.has(path) and os.path.isfile(path):  # noqa: PTH113
        sandbox.bind(Bind(path, path))
    elif os.path.isdir(path):  # noqa: PTH112
        raise IsADirectoryError(21, os.strerror(21), name)


async def _drive(sandbox: Sandbox, options: Options, streams: Sequence[int]) -> tuple[str, CompletedProcess | None]:
    """Run to the end, or to what comes first: the timeout, or a signal to this command. Says which it was."""
    loop = asyncio.get_running_loop()
    received: list[int] = []
    running = loop.create_task(_run_on(sandbox, options, streams))

    def receive(number: int) -> None:
        received.append(number)
        running.cancel()

    for number in _ENDING_SIGNALS:
        loop.add_signal_handler(number, receive, number)
    try:
        result = await running
    except asyncio.CancelledError:
        if not received:
            raise
        return signal.Signals(received[0]).name, None
    finally:
        for number in _ENDING_SIGNALS:
            loop.remove_signal_handler(number)
    return result.reason, result


async def _run_on(sandbox: Sandbox, options: Options, streams: Sequence[int]) -> CompletedProcess:
    """On these streams; those that are terminals are the program's own terminal, if it gets one."""
    async with terminal.attached(sandbox, streams, wanted=options.tty) as own:
        given: list[int | OpenFile] = [own.slave if own is not None and _is_terminal(stream) else stream for stream in streams]
        stdin, stdout, stderr = given
        return await sandbox.run(options.argv, input=stdin, stdout=stdout, stderr=stderr, timeout=options.timeout, terminal=own)


def _is_terminal(stream: int) -> bool:
    return stream != CLOSED and os.isatty(stream)


def _verdict(reason: str, result: CompletedProcess | None, options: Options) -> tuple[int, str]:
    """The command's exit status, and what there is to say about it."""
    name = options.argv[0]
    if result is None:
        number = signal.Signals[reason]
        if number is signal.SIGINT:
            return Status.INTERRUPTED, f"interrupted: {name} was killed"
        return 128 + number, f"{reason}: {name} was killed"
    if result.reason is Reason.TIMEOUT:
        return Status.TIMEOUT, f"timeout: {name} was killed after {options.timeout:g} s"
    if result.reason is Reason.INTERNAL:
        return Status.INTERNAL, f"{result.detail}: {name} was killed"
    return result.returncode if result.signal is None else 128 + result.signal, ""


def _environment(extra: Sequence[str]) -> dict[str, str]:
    host = os.environ
    chosen = {name: value for name, value in host.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX)}
    for item in extra:
        name, given, value = item.partition("=")
        if given:
            chosen[name] = value
        elif name in host:
            chosen[name] = host[name]
    return chosen


def _failure(error: Exception, name: str) -> Outcome:
    """The status and the one line for what kept the program from running."""
    status, reason = _classify(error)
    if isinstance(error, OSError) and error.errno is not None:
        about = error.filename if error.filename is not None else name
        return Outcome(status, reason, f"{os.fsdecode(about)}: {os.strerror(error.errno)}")
    if isinstance(error, ElfError | ArgumentsTooLongError):
        return Outcome(status, reason, f"{name}: {error}")
    if status is Status.INTERNAL:
        return Outcome(status, reason, f"internal error: {type(error).__name__}: {error}")
    return Outcome(status, reason, str(error))


def _classify(error: Exception) -> tuple[Status, str]:
    if isinstance(error, ElfError):
        return _ELF_STATUSES[error.problem], error.problem.name.lower()
    for kind, status, reason in _STATUSES:
        if isinstance(error, kind):
            return status, reason
    return Status.INTERNAL, "internal"


def _figures(machine: Machine) -> dict[str, int]:
    counters = machine.counters()
    return {
        "exits": sum(vcpu.exits for vcpu in counters.vcpus),
        "native_exits": sum(vcpu.native_exits for vcpu in counters.vcpus),
        "faults": counters.memory.faults,
    }


def _stats_line(outcome: Outcome, result: CompletedProcess) -> str:
    figures = outcome.figures
    fields = {
        **{name: figures[name] for name in ("exits", "native_exits", "faults")},
        "syscalls": sum(result.syscalls.values()),
        "guest_ms": f"{result.cpu_time * 1e3:.3f}",
        "wall_ms": f"{figures['wall_ns'] / 1e6:.3f}",
        "open_ms": f"{figures['open_ns'] / 1e6:.3f}",
        "peak_kib": result.peak_memory >> 10,
    }
    return "stats: " + " ".join(f"{name}={value}" for name, value in fields.items())


def _as_json(outcome: Outcome) -> dict[str, Any]:
    """`*_ns` in nanoseconds, `cpu_time` in seconds; `returncode` as subprocess counts, None when the program did not end by
    itself."""
    result = outcome.result
    ended = result is not None and result.reason in (Reason.EXITED, Reason.SIGNALED, Reason.MEMORY)
    statistics = None
    if result is not None:
        statistics = {"cpu_time": result.cpu_time, "peak_memory": result.peak_memory, "syscalls": result.syscalls}
    return {
        "status": int(outcome.status),
        "reason": outcome.reason,
        "message": outcome.message or None,
        "returncode": result.returncode if result is not None and ended else None,
        "death": outcome.death,
        "statistics": statistics,
        **outcome.figures,
    }
