"""The process that runs guests: one campaign from open to close, with its progress and its end on standard output. Started by
`supervisor`, so that a host that dies or hangs is seen by somebody."""

from __future__ import annotations

import collections
import faulthandler
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from fuzz import case as case_module
from fuzz import storm
from fuzz.campaign import Campaign
from fuzz.describe import describe, table
from fuzz.journal import Journal
from fuzz.judge import BrokenError
from fuzz.storm_campaign import StormCampaign

from asynckvm.platform import Machine
from asynckvm.run import run as run_loop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from fuzz.case import Case

BROKEN: Final = 3
_MEMORY: Final = 256 << 20
_CONTEXTS: Final = 256
_PROGRESS_SECONDS: Final = 5.0


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._started = time.monotonic()

    def __call__(self, campaign: Campaign | StormCampaign) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            cases = campaign.totals.cases
            print(
                f"{cases} cases, {cases / (now - self._started):.0f} a second, {campaign.ledger.checks} checkpoints", flush=True
            )


def numbers(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """(seed, index) of every case to run."""
    if options.replay:
        yield from [pair for _ in range(options.repeat) for pair in options.replay]
        return
    until = time.monotonic() + options.seconds if options.seconds else 0.0
    for index in itertools.count(options.start):
        if (options.cases and index >= options.start + options.cases) or (until and time.monotonic() >= until):
            return
        yield options.seed, index


def _noted(make: Callable[[int, int], Case], pairs: Iterator[tuple[int, int]], journal: Journal | None) -> Iterator[Case]:
    for seed, index in pairs:
        if journal is not None:
            journal.note(seed, index)
        yield make(seed, index)


def work(options: argparse.Namespace) -> int:
    """Exit status: 0, or BROKEN with everything known about it printed."""
    faulthandler.enable()
    # What goes wrong is told by the invariants; thousands of guests that end badly are what is wanted here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    return run_loop(_work(options))


async def _work(options: argparse.Namespace) -> int:
    journal = Journal(Path(options.journal)) if options.journal else None
    async with Machine.open(
        vcpus=options.vcpus, memory=_MEMORY, contexts=_CONTEXTS, guest_edits=options.guest_edits, pcid=not options.no_pcid
    ) as machine:
        with tempfile.TemporaryDirectory(prefix="asynckvm-fuzz-") as folder:
            try:
                if options.linux:
                    return await _storms(options, machine, Path(folder), journal)
                return await _cases(options, machine, journal)
            except BrokenError as broken:
                _tell(options, machine, broken)
                return BROKEN


async def _cases(options: argparse.Namespace, machine: Machine, journal: Journal | None) -> int:
    campaign = Campaign(machine, after_case=_Progress())
    totals = await campaign.run(_noted(case_module.make, numbers(options), journal))
    exits = sum((thread.exits for attacker in campaign.attackers for thread in attacker.threads), collections.Counter())
    campaign.close()
    rows: list[tuple[str, object]] = [
        ("cases", totals.cases),
        ("cases a second", f"{totals.cases / totals.seconds:.0f}"),
        *sorted((_name(kind), count) for kind, count in exits.items()),
        ("bounced", f"{totals.bounces}, none missed"),
        ("witness turns, all exact", totals.witness_turns),
        ("computations, all exact", totals.computations),
        *_ledger_rows(campaign),
    ]
    print(table(rows), flush=True)
    return 0


async def _storms(options: argparse.Namespace, machine: Machine, folder: Path, journal: Journal | None) -> int:
    note = journal.note if journal is not None else None
    campaign = StormCampaign(machine, folder, after_case=_Progress(), note=note)
    totals = await campaign.run(storm.make(seed, index) for seed, index in numbers(options))
    campaign.close()
    rows: list[tuple[str, object]] = [
        ("storms", totals.cases),
        ("storms a second", f"{totals.cases / totals.seconds:.0f}"),
        ("system calls in Python", totals.calls),
        ("killed in time", totals.kills),
        *sorted(totals.ends.items(), key=lambda item: -item[1])[:12],
        ("longest stall of the loop", f"{totals.stall_seconds * 1000:.1f} ms"),
        ("witness turns, all exact", totals.witness_turns),
        ("files of the host", "unchanged"),
        *_ledger_rows(campaign),
    ]
    print(table(rows), flush=True)
    return 0


def _name(kind: str | int) -> str:
    if isinstance(kind, str):
        return kind
    return f"Fault, vector {kind}" if kind >= 0 else "Fault, not entered"


def _ledger_rows(campaign: Campaign | StormCampaign) -> list[tuple[str, object]]:
    ledger = campaign.ledger
    return [
        ("checkpoints", ledger.checks),
        ("frames, tables, spaces, contexts, threads, descriptors", "as at the start"),
        ("model-specific registers", "as at the start"),
        ("host memory", f"grew by {ledger.grown_kb} KiB"),
    ]


def _tell(options: argparse.Namespace, machine: Machine, broken: BrokenError) -> None:
    print(f"BROKEN: {broken.what}", flush=True)
    make: Callable[[int, int], Case | storm.Storm] = storm.make if options.linux else case_module.make
    for seed, index in broken.cases:
        print(describe(make(seed, index)))
    print(machine.dump(), flush=True)
    if broken.cases:
        print("SUSPECTS " + ",".join(f"{seed}:{index}" for seed, index in broken.cases), flush=True)
    sys.stdout.flush()
