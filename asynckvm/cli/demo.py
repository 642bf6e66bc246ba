"""The demonstration behind scripts/demo: hundreds of real programs at once on two vCPUs, each compared with its native run.

Exits with 0 only when every output and every status was equal. What is run is chosen in `demo_programs`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asynckvm.cli import messages
from asynckvm.cli.demo_programs import ENVIRONMENT, Ended, Job, collect
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, CapabilityError, DeviceMissingError, DevicePermissionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux import Program
    from asynckvm.platform import Machine

_MISMATCH: Final = 1
_RUN_SECONDS: Final = 45.0
_MEMORY: Final = 2 << 30
# How often progress is shown: on a terminal, and as lines of a log.
_REDRAW_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 1.0
_SHOWN_MISMATCHES: Final = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One guest: what it gave, what it cost. Times in nanoseconds, from its start to its end with all others running."""

    job: Job
    ended: Ended
    latency_ns: int
    exits: int
    native_exits: int


class Progress:
    """How far the runs are: redrawn in place on a terminal, a line a second elsewhere."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self.done = 0
        self.wrong = 0

    async def show(self) -> None:
        """Until cancelled."""
        while not self._quiet:
            self.draw()
            await asyncio.sleep(_REDRAW_SECONDS if self._terminal else _LINE_SECONDS)

    def draw(self, *, last: bool = False) -> None:
        if self._quiet:
            return
        seconds = max(time.monotonic() - self._started, 1e-9)
        text = f"{self.done}/{self._total} programs, {self.done / seconds:.0f} a second, {self.wrong} differ from native"
        if self._terminal:
            filled = 30 * self.done // self._total
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text} " + ("\n" if last else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    options = _parser().parse_args(arguments)
    messages.configure(quiet=True)
    try:
        with tempfile.TemporaryDirectory(prefix="asynckvm-demo-") as folder:
            return _demonstrate(options, Path(folder))
    except (DeviceMissingError, DevicePermissionError, CapabilityError) as error:
        messages.say(str(error))
        return Status.UNUSABLE
    except (AsyncKvmError, OSError) as error:
        messages.say(str(error))
        return Status.INTERNAL
    except TimeoutError:
        messages.say(f"the programs did not end within {_RUN_SECONDS:g} s")
        return Status.TIMEOUT
    except KeyboardInterrupt:
        return Status.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Run real programs as guests, compared with native runs.")
    parser.add_argument("--runs", type=_positive, default=240, help="programs to run, all at once (default: 240)")
    parser.add_argument("--vcpus", type=_positive, default=2, help="vCPUs to run them on (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, without progress")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _demonstrate(options: argparse.Namespace, folder: Path) -> int:
    from asynckvm.run import run  # noqa: PLC0415

    jobs = collect(folder)
    if not options.json:
        messages.say(f"{len(jobs)} different commands; each is first run natively, to know what it must give")
    expected = {job: job.run_natively() for job in jobs}
    progress = Progress(options.runs, quiet=options.json)
    chosen = [jobs[number % len(jobs)] for number in range(options.runs)]
    started = time.monotonic_ns()
    runs = run(_run_all(chosen, expected, options.vcpus, progress))
    summary = _summary(runs, expected, time.monotonic_ns() - started, options.vcpus)
    if options.json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(summary)) + "\n")
        for line in _differences(runs, expected):
            messages.say(line)
    return _MISMATCH if summary["mismatches"] else 0


async def _run_all(chosen: list[Job], expected: dict[Job, Ended], vcpus: int, progress: Progress) -> list[Run]:
    from asynckvm.linux import Program  # noqa: PLC0415
    from asynckvm.platform import Machine  # noqa: PLC0415

    async def one(job: Job) -> Run:
        run = await _run(machine, programs[job.argv[0]], job)
        progress.done += 1
        progress.wrong += run.ended != expected[job]
        return run

    async with contextlib.AsyncExitStack() as stack:
        # One open file for all runs of a program: descriptors are counted by the host.
        programs = {path: stack.enter_context(Program(path)) for path in {job.argv[0] for job in chosen}}
        machine = await stack.enter_async_context(Machine.open(vcpus=vcpus, memory=_MEMORY))
        shown = asyncio.create_task(progress.show())
        try:
            async with asyncio.timeout(_RUN_SECONDS), asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(job)) for job in chosen]
        finally:
            shown.cancel()
            progress.draw(last=True)
    return [task.result() for task in tasks]


async def _run(machine: Machine, program: Program, job: Job) -> Run:
    from asynckvm.linux import Capture, Guest  # noqa: PLC0415

    out, errors = Capture(), Capture()
    started = time.monotonic_ns()
    guest = Guest(
        machine,
        program,
        job.argv,
        environment=ENVIRONMENT,
        directory="/",
        stdin=job.stdin,
        stdout=out,
        stderr=errors,
    )
    async with guest:
        status = await guest.run()
    ended = Ended(status.returncode, bytes(out.data), bytes(errors.data))
    statistics = guest.statistics
    return Run(job, ended, time.monotonic_ns() - started, statistics.exits, statistics.native_exits)


def _summary(runs: list[Run], expected: dict[Job, Ended], elapsed_ns: int, vcpus: int) -> dict[str, Any]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.job.name].append(run)
    return {
        "runs": len(runs),
        "vcpus": vcpus,
        "seconds": elapsed_ns / 1e9,
        "runs_per_second": len(runs) / (elapsed_ns / 1e9),
        "mismatches": sum(run.ended != expected[run.job] for run in runs),
        **_figures(runs),
        "programs": {
            name: {"runs": len(group), "mismatches": sum(run.ended != expected[run.job] for run in group), **_figures(group)}
            for name, group in groups.items()
        },
    }


def _figures(runs: list[Run]) -> dict[str, Any]:
    latencies = sorted(run.latency_ns / 1e6 for run in runs)
    return {
        "exits": sum(run.exits for run in runs),
        "native_exits": sum(run.native_exits for run in runs),
        "p50_ms": _percentile(latencies, 50),
        "p99_ms": _percentile(latencies, 99),
    }


def _percentile(ordered: list[float], percent: int) -> float:
    """The nearest-rank percentile."""
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def _lines(summary: dict[str, Any]) -> list[str]:
    header = f"{'program':<18} {'runs':>5} {'differ':>6} {'exits':>8} {'native exits':>12} {'p50 ms':>9} {'p99 ms':>9}"
    lines = ["", header, "-" * len(header)]
    for name, group in [*sorted(summary["programs"].items()), ("all", summary)]:
        if name == "all":
            lines.append("-" * len(header))
        lines.append(
            f"{name:<18} {group['runs']:>5} {group['mismatches']:>6} {group['exits']:>8} {group['native_exits']:>12} "
            f"{group['p50_ms']:>9.1f} {group['p99_ms']:>9.1f}"
        )
    verdict = "all equal to native runs" if not summary["mismatches"] else f"{summary['mismatches']} DIFFER from native runs"
    speed = f"in {summary['seconds']:.2f} s: {summary['runs_per_second']:.0f} a second"
    lines += [
        "",
        f"{summary['runs']} programs, all at once, on {summary['vcpus']} vCPUs {speed}, {verdict}",
        "exits reached a coroutine, native exits were resolved on the vCPU's own thread;",
        "times are from the start to the end of one program among all the others",
    ]
    return lines


def _differences(runs: list[Run], expected: dict[Job, Ended]) -> list[str]:
    wrong = [run for run in runs if run.ended != expected[run.job]]
    lines = []
    for run in wrong[:_SHOWN_MISMATCHES]:
        native, ended = expected[run.job], run.ended
        lines.append(
            f"differs: {' '.join(run.job.argv)}: status {ended.returncode} (natively {native.returncode}), "
            f"{len(ended.stdout)} bytes of output ({len(native.stdout)}), "
            f"standard error {ended.stderr[:80]!r} ({native.stderr[:80]!r})"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
