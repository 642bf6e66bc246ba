"""Tables of a suite: by area, how much passed natively, how much of that passed inside, and what did not and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from conformance.runner import Result, Results, Verdict

_REASON_COLUMNS = 150


@dataclass(slots=True)
class Area:
    """Counts of one area, and its tests that passed natively but not inside."""

    native: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    both: int = 0
    lost: list[tuple[str, Verdict]] = field(default_factory=list)
    # Tests that were not come to, because their case ended before, by how it ended.
    unreached: Counter[str] = field(default_factory=Counter)


def compare(native: Results, inside: Results) -> dict[str, Area]:
    """Only cases that ran on both sides count, so that a partial run gives a true ratio."""
    areas: defaultdict[str, Area] = defaultdict(Area)
    for case, result in native.cases.items():
        if case not in inside.cases:
            continue
        area = areas[result.area]
        ours = inside.cases[case]
        area.native.update(verdict for verdict, _ in result.tests.values())
        area.inside.update(verdict for verdict, _ in ours.tests.values())
        for test, (verdict, _) in result.tests.items():
            if verdict != "passed":
                continue
            said = ours.tests.get(test)
            if said is None:
                area.unreached[_whole(ours)] += 1
            elif said[0] == "passed":
                area.both += 1
            else:
                area.lost.append((test, said))
    return dict(sorted(areas.items()))


def _whole(result: Result) -> str:
    reasons = (reason for name, (_, reason) in result.tests.items() if name.endswith("as a whole"))
    return next(reasons, f"{result.status} after {result.seconds:.0f} s")


def lines(areas: dict[str, Area]) -> Iterator[str]:
    """Markdown: the table, the total, then what was lost."""
    yield "| area | native: passed, failed, skipped | inside: passed, failed, skipped | of those passed natively, passed inside |"
    yield "|---|---|---|---|"
    for name, area in areas.items():
        yield f"| {name} | {_counts(area.native)} | {_counts(area.inside)} | {_ratio(area.both, area.native['passed'])} |"
    both = sum(area.both for area in areas.values())
    passed = sum(area.native["passed"] for area in areas.values())
    yield f"| **all** | | | **{_ratio(both, passed)}** |"
    for name, area in areas.items():
        for test, (verdict, reason) in area.lost:
            yield f"- {name}: {test}: {verdict}: {reason[:_REASON_COLUMNS]}"
        for reason, count in area.unreached.items():
            yield f"- {name}: {count} tests were not come to: {reason[:_REASON_COLUMNS]}"


def native_lines(native: Results) -> Iterator[str]:
    """What is known before anything ran inside."""
    counts: Counter[str] = Counter()
    for result in native.cases.values():
        counts.update(verdict for verdict, _ in result.tests.values())
    yield f"natively, {len(native.cases)} cases: {_counts(counts)} (passed, failed, skipped)"


def _counts(counter: Counter[str]) -> str:
    return f"{counter['passed']}, {counter['failed']}, {counter['skipped']}"


def _ratio(part: int, whole: int) -> str:
    return f"{part} / {whole} = {part / whole:.1%}" if whole else "none"
