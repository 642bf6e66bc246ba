"""`asynckvm bench`: asynckvm, on each platform that works, beside floor programs in plain C, taking turns in one run, so that all
meet the same machine.

Absolute times here mean little from one minute to the next; ratios taken within a round do. Measuring is in bench_subjects and
bench_floors, arithmetic in bench_statistics, the host in bench_conditions, printing in bench_report; only the order of turns is
here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import statistics
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import uvloop

from asynckvm.cli import bench_programs, bench_report, bench_subjects, messages
from asynckvm.cli.bench_conditions import CpuUse, conditions, platforms, works
from asynckvm.cli.bench_floors import Floor, WakeupFloor, floors_folder
from asynckvm.cli.bench_guests import expect
from asynckvm.cli.bench_statistics import Ratio, Spread
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, InternalError, UsageError
from asynckvm.model.config import PLATFORM_CHOICES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from asynckvm.cli.bench_subjects import Sample
    from asynckvm.model.config import PlatformChoice, PlatformName

__all__ = ["Plan", "add_arguments", "main", "measure", "run"]

WAKEUP_WEIGHT: Final = 1.5


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
    """One ratio on one platform, and the numbers it came from, by name and one for each round: nanoseconds, and events for one
    operation. The ratio is None where what it compares with cannot run.
    """

    ratio: Ratio | None
    samples: dict[str, list[float]]
    counts: dict[str, list[float]]

    def json(self) -> dict[str, object]:
        return {name: Spread.of(values).json() for name, values in self.samples.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What a comparison is run with. `raw_kvm`: whether the floors that need KVM can run."""

    plan: Plan
    folder: Path
    platforms: tuple[PlatformName, ...]
    raw_kvm: bool

    @contextlib.asynccontextmanager
    async def subjects(self, of: Callable[[PlatformName], AsyncGenerator[Sample]]) -> AsyncIterator[list[_Subject]]:
        """One subject for each platform, open side by side."""
        async with contextlib.AsyncExitStack() as stack:
            yield [
                _Subject(name, await stack.enter_async_context(contextlib.aclosing(of(name))), _Samples())
                for name in self.platforms
            ]

    @contextlib.contextmanager
    def raw_floor(self, name: str, operations: int) -> Iterator[Floor | None]:
        """A floor that is KVM itself, where it can run."""
        if not self.raw_kvm:
            yield None
            return
        with Floor(self.folder, name, operations) as floor:
            yield floor


class _Samples:
    """Collects named numbers round by round."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._counts: dict[str, list[float]] = {}

    def add(self, ours: Sample, times: dict[str, float]) -> None:
        """One round: our sample, and what it is compared with."""
        for name, value in ({"asynckvm": ours.ns} | times | ours.parts).items():
            self._times.setdefault(name, []).append(value)
        for name, value in ours.counts.items():
            self._counts.setdefault(name, []).append(value)

    def compare(self, name: str, above: str = "asynckvm", below: str = "floor") -> Comparison:
        complete = above in self._times and below in self._times
        ratio = Ratio.of(name, self._times[above], self._times[below]) if complete else None
        return Comparison(ratio, self._times, self._counts)


class _Subject(NamedTuple):
    """One side of a comparison: asynckvm on a platform, and what was measured of it."""

    platform: PlatformName
    samples_of: AsyncGenerator[Sample]
    samples: _Samples

    async def round(self, times: dict[str, float]) -> Sample:
        """One sample, beside what was measured just before it."""
        sample = await anext(self.samples_of)
        self.samples.add(sample, times)
        return sample


Comparisons: TypeAlias = "dict[PlatformName, Comparison]"


def _compared(name: str, subjects: list[_Subject]) -> Comparisons:
    return {subject.platform: subject.samples.compare(name) for subject in subjects}


async def _vcpu_exit(setting: Setting) -> Comparisons:
    plan = setting.plan
    with setting.raw_floor("exit", plan.exits) as floor:
        async with setting.subjects(lambda name: bench_subjects.vcpu_exit(plan.exits, name)) as subjects:
            for _ in range(plan.rounds):
                raw = floor.sample() if floor else {}
                times = {"floor": raw["sysret"], "floor_iret": raw["iret"]} if raw else {}
                for subject in subjects:
                    await subject.round(times)
    return _compared("vcpu_exit", subjects)


async def _async_switch(setting: Setting) -> Comparisons:
    plan = setting.plan
    with setting.raw_floor("exit", plan.exits) as floor, WakeupFloor(setting.folder) as wakeup:
        async with setting.subjects(lambda name: bench_subjects.async_switch(plan.exits, name)) as subjects:
            for _ in range(plan.rounds):
                raw_ns = floor.sample()["sysret_median"] if floor else 0.0
                # The loop has been waiting for one raw exit when the wake-up comes, as it would for a guest.
                times = {"bare_wakeup": await wakeup.sample(plan.wakeups, raw_ns)}
                if floor:
                    times |= {"floor": raw_ns + WAKEUP_WEIGHT * times["bare_wakeup"], "raw_exit": raw_ns}
                for subject in subjects:
                    await subject.round(times)
    return _compared("async_switch", subjects)


async def _kick(setting: Setting) -> Comparisons:
    plan = setting.plan
    with setting.raw_floor("kick", plan.kicks) as floor:
        async with setting.subjects(lambda name: bench_subjects.kick(plan.kicks, name)) as subjects:
            for _ in range(plan.rounds):
                times: dict[str, float] = {}
                if floor:
                    raw = floor.sample()
                    # Polling is the quicker way to learn of it, unless both threads share a CPU: then it is no floor at all.
                    floor_ns = min(raw["polled"], raw["eventfd"])
                    times = {"floor": floor_ns, "floor_polled": raw["polled"], "floor_eventfd": raw["eventfd"]}
                for subject in subjects:
                    await subject.round(times)
    return _compared("kick", subjects)


async def _scaling(setting: Setting) -> Comparisons:
    plan = setting.plan

    def crowd(name: PlatformName, vcpus: int) -> AsyncGenerator[Sample]:
        return bench_subjects.exit_rate(vcpus, plan.crowd, plan.crowd_exits, name)

    # Both sides are ours.
    async with setting.subjects(lambda name: crowd(name, 1)) as ones, setting.subjects(lambda name: crowd(name, 2)) as twos:
        for _ in range(plan.crowd_rounds):
            for one, two in zip(ones, twos, strict=True):
                lonely = await anext(one.samples_of)
                await two.round({"one_vcpu": lonely.ns, "one_vcpu_loop_cpu": lonely.parts["loop_cpu"]})
    # Rates are the inverse of times.
    return {two.platform: two.samples.compare("scaling_2v1", "one_vcpu", "asynckvm") for two in twos}


async def _compute(setting: Setting) -> Comparisons:
    plan = setting.plan
    results: dict[str, int] = {}
    with Floor(setting.folder, "compute", plan.turns) as floor:
        async with setting.subjects(lambda name: bench_subjects.compute(plan.turns, name)) as subjects:
            for _ in range(plan.compute_rounds):
                times = {"floor": floor.sample()["loop"]}
                for subject in subjects:
                    results[subject.platform] = (await subject.round(times)).result
    for name, result in results.items():
        expect(f"result of the loop on {name}", result, int(str(floor.summary["result"])))
    return _compared("compute", subjects)


async def _page_touch(setting: Setting) -> Comparisons:
    plan = setting.plan
    with Floor(setting.folder, "touch", plan.pages) as floor:
        async with setting.subjects(lambda name: bench_subjects.page_touch(plan.pages, name)) as subjects:
            for _ in range(plan.rounds):
                native = floor.sample()
                for subject in subjects:
                    await subject.round({"floor": native["plain"], "floor_huge": native["advised"]})
    return _compared("page_touch", subjects)


COMPARISONS: Final[dict[str, Callable[[Setting], Coroutine[Any, Any, Comparisons]]]] = {
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
    if (at := medians.get("vcpu_exit")) and "floor" in at:
        breakdown["vcpu_exit"] = {
            "raw_exit": at["floor"],
            "thread": at["on_vcpu"] - at["floor"],
            "share_of_one_switch": at["asynckvm"] - at["on_vcpu"],
        }
    if at := medians.get("async_switch"):
        raw = {"raw_exit": at["raw_exit"]} if "raw_exit" in at else {}
        breakdown["async_switch"] = {
            "call_to_vcpu": at["call_to_vcpu"],
            **raw,
            "thread": at["on_vcpu"] - raw.get("raw_exit", 0),
            "vcpu_to_resumed": at["vcpu_to_resumed"],
        }
    if at := medians.get("kick"):
        raw = {"raw_kick": at["floor"]} if "floor" in at else {}
        breakdown["kick"] = {
            **raw,
            "thread": at["interrupt_to_left"] - raw.get("raw_kick", 0),
            "left_to_resumed": at["left_to_resumed"],
        }
    if at := medians.get("scaling_2v1"):
        breakdown["scaling_2v1"] = {name: at[name] for name in ("loop_cpu", "vcpus_cpu", "one_vcpu_loop_cpu")}
    return {name: {part: round(value, 1) for part, value in parts.items()} for name, parts in breakdown.items()}


def _of_platform(comparisons: dict[str, Comparison]) -> dict[str, object]:
    ratios = {name: comparison.ratio.json() if comparison.ratio else None for name, comparison in comparisons.items()}
    return {
        "ratios": ratios,
        "samples_ns": {name: comparison.json() for name, comparison in comparisons.items()},
        "breakdown_ns": _breakdown(comparisons),
        "counts": {name: _medians(comparison.counts) for name, comparison in comparisons.items() if comparison.counts},
    }


async def measure(
    plan: Plan, folder: Path, names: list[str], progress: Callable[[str], None], asked: Sequence[PlatformChoice] = ()
) -> dict[str, object]:
    """Run the named comparisons on the platforms asked for, or on all that work; a result that can go into JSON.

    InternalError when anything counts wrong.
    """
    offers = await platforms(asked)
    host, started = conditions(), CpuUse.now()
    setting = Setting(plan, folder, tuple(offers), "kvm" in offers or await works("kvm"))
    found: dict[str, Comparisons] = {}
    for name in names:
        progress(name)
        found[name] = await COMPARISONS[name](setting)
    return {
        "platforms": {
            platform: _of_platform({name: comparisons[platform] for name, comparisons in found.items()}) | {"capabilities": offer}
            for platform, offer in offers.items()
        },
        "plan": dataclasses.asdict(plan),
        "conditions": host | CpuUse.now().since(started),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--quick", action="store_true", help="a few seconds and rough numbers")
    parser.add_argument("--only", action="append", choices=COMPARISONS, help="one comparison; may be given again")
    parser.add_argument(
        "--platform",
        action="append",
        choices=PLATFORM_CHOICES,
        help="only on this one; may be given again; default: auto, all that work, or the one that ASYNCKVM_PLATFORM names",
    )
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
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bench_programs.measure(max(options.rounds, 1), options.rows, options.platform or ()))
        return 0
    plan = Plan.quick() if options.quick else Plan()
    folder = floors_folder(options.floors)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(plan, folder, options.only or list(COMPARISONS), progress, options.platform or ()))
    print(json.dumps(result, indent=2) if options.json else bench_report.table(result))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """`asynckvm bench ARGUMENTS`; returns the exit status. Errors of asynckvm are one line."""
    parser = argparse.ArgumentParser(prog="asynckvm bench", description="Measure asynckvm beside floors in plain C.")
    add_arguments(parser)
    messages.configure()
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
