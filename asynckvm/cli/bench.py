"""`asynckvm bench`: asynckvm beside floor programs in plain C, taking turns in one run, so that both meet the same machine.

Absolute times here mean little from one minute to the next; ratios taken within a round do. Measuring is in bench_subjects and
bench_floors, arithmetic in bench_statistics, the host in bench_conditions; only the order of turns and the printing are here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import statistics
import sys
from typing import TYPE_CHECKING, Final

import uvloop

from asynckvm.cli import bench_programs, bench_subjects, messages
from asynckvm.cli.bench_conditions import CpuUse, conditions
from asynckvm.cli.bench_floors import Floor, WakeupFloor, floors_folder
from asynckvm.cli.bench_guests import expect
from asynckvm.cli.bench_statistics import Ratio, Spread
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, InternalError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from asynckvm.cli.bench_subjects import Sample

__all__ = ["Plan", "add_arguments", "main", "measure", "run"]

WAKEUP_WEIGHT: Final = 1.5
# Share of all CPU time: beyond it, threads that should run side by side take turns.
BUSY: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: rounds of each comparison, and how many operations a sample of it averages over."""

    rounds: int = 60
    exits: int = 200
    wakeups: int = 100
    kicks: int = 40
    crowd: int = 1000
    crowd_rounds: int = 15
    crowd_exits: int = 4
    turns: int = 100_000_000
    compute_rounds: int = 25
    pages: int = 16_384

    @classmethod
    def quick(cls) -> Plan:
        """A few seconds: shows that everything works and counts right; the numbers are rough."""
        return cls(rounds=5, exits=100, wakeups=30, kicks=10, crowd_rounds=3, crowd_exits=2, turns=10_000_000, compute_rounds=5)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One ratio, and the numbers it came from, by name and one for each round: nanoseconds, and events for one operation."""

    ratio: Ratio
    samples: dict[str, list[float]]
    counts: dict[str, list[float]]

    def json(self) -> dict[str, object]:
        return {name: Spread.of(values).json() for name, values in self.samples.items()}


class _Samples:
    """Collects named numbers round by round."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._counts: dict[str, list[float]] = {}

    def add(self, ours: Sample, **times: float) -> None:
        """One round: our sample, and what it is compared with."""
        for name, value in ({"asynckvm": ours.ns} | times | ours.parts).items():
            self._times.setdefault(name, []).append(value)
        for name, value in ours.counts.items():
            self._counts.setdefault(name, []).append(value)

    def compare(self, name: str, above: str = "asynckvm", below: str = "floor") -> Comparison:
        return Comparison(Ratio.of(name, self._times[above], self._times[below]), self._times, self._counts)


async def _vcpu_exit(plan: Plan, folder: Path) -> Comparison:
    samples = _Samples()
    with Floor(folder, "exit", plan.exits) as floor:
        async with contextlib.aclosing(bench_subjects.vcpu_exit(plan.exits)) as subject:
            for _ in range(plan.rounds):
                raw = floor.sample()
                ours = await anext(subject)
                samples.add(ours, floor=raw["sysret"], floor_iret=raw["iret"])
    return samples.compare("vcpu_exit")


async def _async_switch(plan: Plan, folder: Path) -> Comparison:
    samples = _Samples()
    with Floor(folder, "exit", plan.exits) as floor, WakeupFloor(folder) as wakeup:
        async with contextlib.aclosing(bench_subjects.async_switch(plan.exits)) as subject:
            for _ in range(plan.rounds):
                raw_ns = floor.sample()["sysret_median"]
                # The loop has been waiting for one raw exit when the wake-up comes, as it would for a guest.
                wakeup_ns = await wakeup.sample(plan.wakeups, raw_ns)
                ours = await anext(subject)
                floor_ns = raw_ns + WAKEUP_WEIGHT * wakeup_ns
                samples.add(ours, floor=floor_ns, raw_exit=raw_ns, bare_wakeup=wakeup_ns)
    return samples.compare("async_switch")


async def _kick(plan: Plan, folder: Path) -> Comparison:
    samples = _Samples()
    with Floor(folder, "kick", plan.kicks) as floor:
        async with contextlib.aclosing(bench_subjects.kick(plan.kicks)) as subject:
            for _ in range(plan.rounds):
                raw = floor.sample()
                ours = await anext(subject)
                # Polling is the quicker way to learn of it, unless both threads share a CPU: then it is no floor at all.
                floor_ns = min(raw["polled"], raw["eventfd"])
                samples.add(ours, floor=floor_ns, floor_polled=raw["polled"], floor_eventfd=raw["eventfd"])
    return samples.compare("kick")


async def _scaling(plan: Plan, folder: Path) -> Comparison:
    del folder  # both sides are ours
    samples = _Samples()

    def crowd(vcpus: int) -> AsyncGenerator[Sample]:
        return bench_subjects.exit_rate(vcpus, plan.crowd, plan.crowd_exits)

    async with contextlib.aclosing(crowd(1)) as one, contextlib.aclosing(crowd(2)) as two:
        for _ in range(plan.crowd_rounds):
            lonely = await anext(one)
            samples.add(await anext(two), one_vcpu=lonely.ns, one_vcpu_loop_cpu=lonely.parts["loop_cpu"])
    # Rates are the inverse of times.
    return samples.compare("scaling_2v1", "one_vcpu", "asynckvm")


async def _compute(plan: Plan, folder: Path) -> Comparison:
    samples = _Samples()
    result = 0
    with Floor(folder, "compute", plan.turns) as floor:
        async with contextlib.aclosing(bench_subjects.compute(plan.turns)) as subject:
            for _ in range(plan.compute_rounds):
                native_ns = floor.sample()["loop"]
                ours = await anext(subject)
                result = ours.result
                samples.add(ours, floor=native_ns)
    expect("result of the loop", result, int(str(floor.summary["result"])))
    return samples.compare("compute")


async def _page_touch(plan: Plan, folder: Path) -> Comparison:
    samples = _Samples()
    with Floor(folder, "touch", plan.pages) as floor:
        async with contextlib.aclosing(bench_subjects.page_touch(plan.pages)) as subject:
            for _ in range(plan.rounds):
                native = floor.sample()
                ours = await anext(subject)
                samples.add(ours, floor=native["plain"], floor_huge=native["advised"])
    return samples.compare("page_touch")


COMPARISONS: Final[dict[str, Callable[[Plan, Path], Coroutine[Any, Any, Comparison]]]] = {
    "vcpu_exit": _vcpu_exit,
    "async_switch": _async_switch,
    "kick": _kick,
    "scaling_2v1": _scaling,
    "compute": _compute,
    "page_touch": _page_touch,
}


def _medians(series: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 3) for name, values in series.items()}


def _breakdown(comparisons: dict[str, Comparison]) -> dict[str, dict[str, float]]:
    """Where the time goes: medians over the rounds, nanoseconds for one operation. `thread`: our part beside the raw exit."""
    medians = {name: _medians(comparison.samples) for name, comparison in comparisons.items()}
    breakdown: dict[str, dict[str, float]] = {}
    if at := medians.get("vcpu_exit"):
        breakdown["vcpu_exit"] = {
            "raw_exit": at["floor"],
            "thread": at["on_vcpu"] - at["floor"],
            "share_of_one_switch": at["asynckvm"] - at["on_vcpu"],
        }
    if at := medians.get("async_switch"):
        breakdown["async_switch"] = {
            "call_to_vcpu": at["call_to_vcpu"],
            "raw_exit": at["raw_exit"],
            "thread": at["on_vcpu"] - at["raw_exit"],
            "vcpu_to_resumed": at["vcpu_to_resumed"],
        }
    if at := medians.get("kick"):
        breakdown["kick"] = {
            "raw_kick": at["floor"],
            "thread": at["interrupt_to_left"] - at["floor"],
            "left_to_resumed": at["left_to_resumed"],
        }
    if at := medians.get("scaling_2v1"):
        breakdown["scaling_2v1"] = {name: at[name] for name in ("loop_cpu", "vcpus_cpu", "one_vcpu_loop_cpu")}
    return {name: {part: round(value, 1) for part, value in parts.items()} for name, parts in breakdown.items()}


async def measure(plan: Plan, folder: Path, names: list[str], progress: Callable[[str], None]) -> dict[str, object]:
    """Run the named comparisons; a result that can go into JSON. InternalError when anything counts wrong."""
    host, started = await conditions(), CpuUse.now()
    comparisons: dict[str, Comparison] = {}
    for name in names:
        progress(name)
        comparisons[name] = await COMPARISONS[name](plan, folder)
    return {
        "ratios": {name: comparison.ratio.json() for name, comparison in comparisons.items()},
        "samples_ns": {name: comparison.json() for name, comparison in comparisons.items()},
        "breakdown_ns": _breakdown(comparisons),
        "counts": {name: _medians(comparison.counts) for name, comparison in comparisons.items() if comparison.counts},
        "plan": dataclasses.asdict(plan),
        "conditions": host | CpuUse.now().since(started),
    }


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'ratio':13} {'value':>7} {'aim':>8}  {'met':3}  {'min':>7} {'q1':>7} {'q3':>7} {'max':>7}  what"]
    for name, ratio in result["ratios"].items():
        spread = ratio["spread"]
        lines.append(
            f"{name:13} {ratio['value']:7.3f} {ratio['relation']} {ratio['aim']:5.2f}  {'yes' if ratio['met'] else 'NO':3}"
            f"  {spread['min']:7.3f} {spread['q1']:7.3f} {spread['q3']:7.3f} {spread['max']:7.3f}  {ratio['what']}"
        )
    lines += ["", f"{'nanoseconds for one operation':32} {'median':>11} {'min':>11} {'q1':>11} {'q3':>11} {'max':>11}"]
    for name, series in result["samples_ns"].items():
        for what, spread in series.items():
            numbers = " ".join(f"{spread[key]:11.1f}" for key in ("median", "min", "q1", "q3", "max"))
            lines.append(f"{name + ' ' + what:32} {numbers}")
    for name, parts in result["breakdown_ns"].items():
        counts = "  ".join(f"{what} {value:g}" for what, value in result["counts"].get(name, {}).items())
        lines += ["", f"where the time of {name} goes (ns):", *(f"  {what:30} {value:11.1f}" for what, value in parts.items())]
        lines += [f"  for one operation: {counts}"] * bool(counts)
    host = {key: value for key, value in result["conditions"].items() if key != "capabilities"}
    lines += ["", "  ".join(f"{key}: {value}" for key, value in host.items())]
    if host["used_by_others"] > BUSY:
        lines.append(f"other processes used {host['used_by_others']:.0%} of this machine meanwhile: these numbers say little")
    lines.append("  ".join(f"{key}: {value}" for key, value in result["conditions"]["capabilities"].items()))
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--quick", action="store_true", help="a few seconds and rough numbers")
    parser.add_argument("--only", action="append", choices=COMPARISONS, help="one comparison; may be given again")
    parser.add_argument("--programs", action="store_true", help="instead, whole programs in a sandbox beside native runs")
    parser.add_argument("--rows", default="", metavar="NAMES", help="with --programs: only these, separated by commas")
    parser.add_argument("--rounds", type=int, default=bench_programs.ROUNDS, help="with --programs (default: %(default)s)")
    parser.add_argument("--floors", metavar="FOLDER", help="where the floor programs are, if not beside the compiled module")


def run(options: argparse.Namespace) -> int:
    """Measure and print; 0, whatever the numbers. Errors are asynckvm.errors."""

    def progress(name: str) -> None:
        if sys.stderr.isatty():
            print(f"measuring {name} ...", file=sys.stderr)

    if options.programs:
        print(bench_programs.HEADING, flush=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bench_programs.measure(max(options.rounds, 1), options.rows))
        return 0
    plan = Plan.quick() if options.quick else Plan()
    folder = floors_folder(options.floors)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(plan, folder, options.only or list(COMPARISONS), progress))
    print(json.dumps(result, indent=2) if options.json else _table(result))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """`asynckvm bench ARGUMENTS`; returns the exit status. Errors of asynckvm are one line."""
    parser = argparse.ArgumentParser(prog="asynckvm bench", description="Measure asynckvm beside floors in plain C.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except AsyncKvmError as error:
        messages.say(f"bench: {error}")
        if isinstance(error, UsageError):
            return Status.USAGE
        return Status.INTERNAL if isinstance(error, InternalError) else Status.UNUSABLE
    except KeyboardInterrupt:
        return Status.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
