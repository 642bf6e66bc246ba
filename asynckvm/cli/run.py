"""`asynckvm run`: one program as a guest on this terminal's streams, its status handed on.

What ends the program from outside (a timeout, Ctrl-C) and what is printed about it are decided here; running it is
`asynckvm.linux`'s work. The guest writes to descriptor 1 itself: nothing here ever does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from asynckvm.cli import messages
from asynckvm.cli.statuses import Status
from asynckvm.errors import (
    CapabilityError,
    DeviceMissingError,
    DevicePermissionError,
    HostError,
    OverloadedError,
)
from asynckvm.linux import ArgumentsTooLongError, ElfError, ElfProblem, ExitStatus, Guest, Program, Statistics, find
from asynckvm.linux.report import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a program needs to know of its user's session; nothing in it opens anything.
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLUMNS", "LINES", "PWD", "TZ", "LANG", "LANGUAGE")
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
    (DeviceMissingError, Status.UNUSABLE, "kvm_unusable"),
    (DevicePermissionError, Status.UNUSABLE, "kvm_unusable"),
    (CapabilityError, Status.UNUSABLE, "kvm_unusable"),
    (ImportError, Status.UNUSABLE, "not_built"),
    (HostError, Status.RESOURCES, "host_resources"),
    (OverloadedError, Status.RESOURCES, "host_resources"),
    (IsADirectoryError, Status.DIRECTORY, "directory"),
    (FileNotFoundError, Status.NOT_FOUND, "not_found"),
    (NotADirectoryError, Status.NOT_FOUND, "not_found"),
    (PermissionError, Status.PERMISSION, "permission"),
    (OSError, Status.RESOURCES, "host_resources"),
)
_KILLING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `timeout` in seconds, `memory` in bytes, `env` as NAME or NAME=VALUE."""

    timeout: float | None
    memory: int
    env: Sequence[str]
    stats: bool
    json: bool
    trace: bool
    argv: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `status` is what the command exits with; `ended` and `statistics` are None if nothing ran."""

    status: int
    reason: str
    message: str = ""
    ended: ExitStatus | None = None
    statistics: Statistics | None = None
    faults: int = 0
    open_ns: int = 0
    wall_ns: int = 0


def main(options: Options) -> int:
    """Run the program; returns the exit status of the command."""
    streams = _standard_streams()
    try:
        outcome = _run(options, streams)
    except KeyboardInterrupt:
        outcome = Outcome(Status.INTERRUPTED, "interrupted", f"interrupted: {options.argv[0]} was not started, or not ended")
    except Exception as error:  # noqa: BLE001  whatever it is, it has a status of its own
        outcome = _failure(error, options.argv[0])
    if outcome.message:
        messages.say(outcome.message)
    if options.stats and outcome.statistics is not None:
        messages.say(_stats_line(outcome, outcome.statistics))
    if options.json:
        messages.say_json(_as_json(outcome))
    return outcome.status


def _standard_streams() -> list[int | None]:
    """Descriptors 0 to 2, None for those that are closed. Their numbers are taken then, so that nothing of ours gets them."""
    streams: list[int | None] = [0, 1, 2]
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            streams[number] = None
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  it stays open
    return streams


def _run(options: Options, streams: Sequence[int | None]) -> Outcome:
    # The file first: most mistakes need no machine to be found.
    with Program(find(options.argv[0], os.environ.get("PATH"))) as program:
        import uvloop  # noqa: PLC0415

        messages.configure(trace=options.trace)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run_guest(options, streams, program))


async def _run_guest(options: Options, streams: Sequence[int | None], program: Program) -> Outcome:
    from asynckvm.platform import Machine  # noqa: PLC0415

    started = time.monotonic_ns()
    async with Machine.open(vcpus=1, memory=options.memory) as machine:
        opened = time.monotonic_ns()
        stdin, stdout, stderr = streams
        guest = Guest(
            machine,
            program,
            options.argv,
            environment=_environment(options.env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            trace=options.trace,
        )
        async with guest:
            reason, ended = await _drive(guest, options.timeout)
            statistics = guest.statistics
            faults = machine.counters().memory.faults
    status, message = _verdict(reason, ended, options)
    return Outcome(status, reason, message, ended, statistics, faults, opened - started, time.monotonic_ns() - opened)


def _verdict(reason: str, ended: ExitStatus | None, options: Options) -> tuple[int, str]:
    """The command's exit status, and what there is to say about it."""
    if ended is None:
        return Status.TIMEOUT, f"timeout: {options.argv[0]} was killed after {options.timeout:g} s"
    if reason == "interrupted":
        return Status.INTERRUPTED, f"interrupted: {options.argv[0]} was killed"
    return ended.shell_status, ""


async def _drive(guest: Guest, limit: float | None) -> tuple[str, ExitStatus | None]:
    """Run to the end, or to what comes first: the timeout, or a signal to this command. Says which it was."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def receive(number: int) -> None:
        received.append(number)
        guest.kill(signal.SIGKILL, reason=f"this command got {signal.Signals(number).name}")

    for number in _KILLING_SIGNALS:
        loop.add_signal_handler(number, receive, number)
    try:
        async with asyncio.timeout(limit):
            ended = await guest.run()
    except TimeoutError:
        return "timeout", None
    finally:
        for number in _KILLING_SIGNALS:
            loop.remove_signal_handler(number)
    if not received:
        return ("exited" if ended.signal is None else "signaled"), ended
    return ("interrupted" if received[0] == signal.SIGINT else "terminated"), ExitStatus(signal=received[0], rip=ended.rip)


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
        return Outcome(status, reason, f"{name}: {os.strerror(error.errno)}")
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


def _stats_line(outcome: Outcome, statistics: Statistics) -> str:
    fields = {
        "exits": statistics.exits,
        "native_exits": statistics.native_exits,
        "faults": outcome.faults,
        "syscalls": sum(statistics.syscalls.values()),
        "guest_ms": f"{statistics.ran_ns / 1e6:.3f}",
        "wall_ms": f"{outcome.wall_ns / 1e6:.3f}",
        "open_ms": f"{outcome.open_ns / 1e6:.3f}",
        "resident_kib": statistics.resident * 4,
    }
    return "stats: " + " ".join(f"{name}={value}" for name, value in fields.items())


def _as_json(outcome: Outcome) -> dict[str, Any]:
    """Times in nanoseconds; `returncode` as subprocess counts, None when the program did not end by itself."""
    ended = outcome.ended
    return {
        "status": int(outcome.status),
        "reason": outcome.reason,
        "message": outcome.message or None,
        "returncode": None if ended is None else ended.returncode,
        "death": describe(ended) if ended is not None and ended.signal is not None else None,
        "faults": outcome.faults,
        "open_ns": outcome.open_ns,
        "wall_ns": outcome.wall_ns,
        "statistics": None if outcome.statistics is None else asdict(outcome.statistics),
    }
