"""`asynckvm demo`: a hundred untrusted Python programs, each in a sandbox of its own on one machine, and a verdict on each.

Exits with 0 only when every one of them ended as it had to: honest ones with their output, wrong ones with their error, hostile
ones stopped, without having seen or hurt anything. What they are is chosen in `demo_snippets`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from asynckvm.cli import messages
from asynckvm.cli.demo_snippets import LIMITS, VARIABLE, Snippet, snippets
from asynckvm.cli.options import add_platform
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.model.config import PlatformName
    from asynckvm.platform import Machine
    from asynckvm.sandbox import CompletedProcess

_WRONG: Final = 1
_RUN_SECONDS: Final = 600.0
_MEMORY: Final = 3 << 30
# As many at a time as two processors serve well; the others wait for their turn.
_AT_ONCE: Final = 8
# How often progress is shown: on a terminal, and as lines of a log.
_REDRAW_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 2.0
_SHOWN_WRONG: Final = 10
_WALLS: Final = {"kvm": "", "ptrace": " on the ptrace platform, the weaker wall"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One snippet and what became of it; `wrong` is empty when it ended as it had to."""

    snippet: Snippet
    result: CompletedProcess
    wrong: str


class Progress:
    """How far the runs are: redrawn in place on a terminal, a line every other second elsewhere."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self.running = self.done = self.wrong = 0

    async def show(self) -> None:
        """Until cancelled."""
        while not self._quiet:
            self.draw()
            await asyncio.sleep(_REDRAW_SECONDS if self._terminal else _LINE_SECONDS)

    def draw(self, *, last: bool = False) -> None:
        if self._quiet:
            return
        seconds = time.monotonic() - self._started
        text = f"{self.done}/{self._total} programs ended, {self.running} running, {self.wrong} wrong, {seconds:.0f} s"
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
        return _demonstrate(options)
    except PlatformError as error:
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
    parser = argparse.ArgumentParser(
        prog="asynckvm demo",
        description="Run untrusted Python programs, each in a sandbox of its own, and check how each one ends.",
    )
    parser.add_argument("--runs", type=_positive, default=100, help="programs to run (default: 100)")
    parser.add_argument(
        "--at-once", type=_positive, default=_AT_ONCE, help=f"how many of them at the same time (default: {_AT_ONCE})"
    )
    parser.add_argument("--vcpus", type=_positive, default=2, help="vCPUs to run them on (default: 2)")
    add_platform(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, without progress")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _demonstrate(options: argparse.Namespace) -> int:
    from asynckvm.run import run  # noqa: PLC0415

    # Something to steal: a file, and a variable of this very process.
    os.environ[VARIABLE] = "a secret"
    with tempfile.NamedTemporaryFile("w", prefix="asynckvm-demo-", suffix=".secret") as secret:
        secret.write("a secret")
        secret.flush()
        chosen = list(islice(snippets(secret.name), options.runs))
        progress = Progress(len(chosen), quiet=options.json)
        started = time.monotonic()
        platform, verdicts = run(_run_all(chosen, options, progress))
    summary = {"platform": platform, **_summary(verdicts, time.monotonic() - started, options)}
    if options.json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(summary)) + "\n")
        for verdict in [verdict for verdict in verdicts if verdict.wrong][:_SHOWN_WRONG]:
            messages.say(f"wrong: {verdict.snippet.kind}: not {verdict.snippet.expected}, but {verdict.wrong}")
    return _WRONG if summary["wrong"] else 0


async def _run_all(chosen: list[Snippet], options: argparse.Namespace, progress: Progress) -> tuple[PlatformName, list[Verdict]]:
    """What they ran on, and what became of each."""
    from asynckvm.platform import Machine  # noqa: PLC0415

    turn = asyncio.Semaphore(options.at_once)

    async def one(snippet: Snippet) -> Verdict:
        async with turn:
            progress.running += 1
            result = await _run(machine, snippet)
            progress.running -= 1
        wrong = snippet.check(result)
        progress.done += 1
        progress.wrong += bool(wrong)
        return Verdict(snippet, result, wrong)

    async with Machine.open(platform=options.platform, vcpus=options.vcpus, memory=_MEMORY) as machine:
        shown = asyncio.create_task(progress.show())
        try:
            async with asyncio.timeout(_RUN_SECONDS), asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(snippet)) for snippet in chosen]
        finally:
            shown.cancel()
            progress.draw(last=True)
    return machine.platform, [task.result() for task in tasks]


async def _run(machine: Machine, snippet: Snippet) -> CompletedProcess:
    from asynckvm.sandbox import Sandbox  # noqa: PLC0415

    async with Sandbox(machine=machine, limits=LIMITS) as sandbox:
        return await sandbox.run(["python3", "-I", "-S", "-c", snippet.code], timeout=snippet.seconds)


def _summary(verdicts: list[Verdict], seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.snippet.kind].append(verdict)
    return {
        "runs": len(verdicts),
        "at_once": options.at_once,
        "vcpus": options.vcpus,
        "seconds": seconds,
        "wrong": sum(bool(verdict.wrong) for verdict in verdicts),
        "programs": {
            name: {
                "expected": group[0].snippet.expected,
                "runs": len(group),
                "wrong": sum(bool(verdict.wrong) for verdict in group),
                "p50_ms": _percentile([verdict.result.wall_time * 1e3 for verdict in group], 50),
                "cpu_ms": _percentile([verdict.result.cpu_time * 1e3 for verdict in group], 50),
                "peak_mib": max(verdict.result.peak_memory for verdict in group) / (1 << 20),
            }
            for name, group in groups.items()
        },
    }


def _percentile(values: list[float], percent: int) -> float:
    """The nearest-rank percentile."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def _lines(summary: dict[str, Any]) -> list[str]:
    header = (
        f"{'untrusted program':<20} {'has to end with':<15} {'runs':>5} {'wrong':>6} {'p50 ms':>9} {'cpu ms':>9} {'peak MiB':>9}"
    )
    lines = ["", header, "-" * len(header)]
    for name, group in summary["programs"].items():
        lines.append(
            f"{name:<20} {group['expected']:<15} {group['runs']:>5} {group['wrong']:>6} {group['p50_ms']:>9.0f} "
            f"{group['cpu_ms']:>9.0f} {group['peak_mib']:>9.1f}"
        )
    verdict = "every one ended as it had to" if not summary["wrong"] else f"{summary['wrong']} DID NOT end as they had to"
    return [
        *lines,
        "",
        (
            f"{summary['runs']} programs, at most {summary['at_once']} at a time, each in a sandbox of its own, on one machine "
            f"of {summary['vcpus']} vCPUs{_WALLS[summary['platform']]}, in {summary['seconds']:.1f} s:"
        ),
        verdict,
    ]


if __name__ == "__main__":
    sys.exit(main())
