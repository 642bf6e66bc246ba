"""Other projects' tests of Linux, run natively and in sandboxes: how much of what passes natively passes inside.

Nothing of these projects is part of this tree: a suite is given the folder of its source, and is built in a folder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import re
import time
from collections.abc import Sequence
from pathlib import Path

from conformance import busybox, cpython, ltp, report
from conformance.runner import Case, Judge, Result, Results, Side, run


def main() -> None:
    options = _options()
    work: Path = options.work.resolve()
    if options.suite == "cpython":
        for name, python in cpython.interpreters().items():
            if options.python in (name, None):
                cases = list(cpython.cases(python, options.seconds or 900, work))
                _both(f"cpython-{name}", cases, cpython.judge, work, options)
        return
    suite = {"ltp": ltp, "busybox": busybox}[options.suite]
    if options.suite == "ltp":
        if options.source or not (work / "install").exists():
            ltp.build(_source(options, suite.HOW_TO_GET), work, jobs=2)
        _both("ltp", list(ltp.cases(work, options.seconds or 30)), ltp.judge, work, options)
    else:
        if options.source or not (work / "tree").exists():
            busybox.prepare(_source(options, suite.HOW_TO_GET), work)
        _both("busybox", list(busybox.cases(work, options.seconds or 120)), busybox.judge, work, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("suite", choices=("ltp", "cpython", "busybox"))
    parser.add_argument("--source", type=Path, help="ltp, busybox: where the project's source lies; needed the first time")
    parser.add_argument("--work", type=Path, help="builds and results go there (default: build/conformance/SUITE)")
    parser.add_argument("--side", choices=("native", "inside", "both", "none"), default="both", help="none: only the report")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose area or name matches")
    parser.add_argument("--python", choices=("debian", "project"), help="cpython: only this interpreter")
    parser.add_argument("--again", action="store_true", help="run what has a result already, too")
    parser.add_argument("--all", action="store_true", help="inside, run also cases of which nothing passed natively")
    parser.add_argument("--jobs", type=int, default=1, help="sandboxes at the same time; natively it is always one")
    parser.add_argument("--seconds", type=float, help="of one case, at most")
    options = parser.parse_args()
    options.work = options.work or Path("build/conformance", options.suite)
    return options


def _source(options: argparse.Namespace, how: str) -> Path:
    if options.source is None or not options.source.is_dir():
        raise SystemExit(f"scripts/conformance {options.suite} needs --source DIR: {how}")
    source: Path = options.source.resolve()
    return source


def _both(name: str, cases: Sequence[Case], judge: Judge, work: Path, options: argparse.Namespace) -> None:
    pattern = re.compile(options.only)
    chosen = [case for case in cases if pattern.search(f"{case.area} {case.name}")]
    native, inside = Results(work / f"{name}-native.json"), Results(work / f"{name}-inside.json")
    sides: tuple[tuple[Side, Results, int], ...] = (("native", native, 1), ("inside", inside, options.jobs))
    for side, results, jobs in sides:
        if options.side not in (side, "both"):
            continue
        if options.again:
            for case in chosen:
                results.cases.pop(case.name, None)
        told = functools.partial(_tell, side, time.monotonic())
        # What does not pass natively says nothing about a sandbox.
        useful = chosen if side == "native" or options.all else [case for case in chosen if _passed(native, case)]
        asyncio.run(run(useful, side, judge, results, jobs=jobs, told=told))
    known = {case.name for case in chosen}
    for results in (native, inside):
        results.cases = {case: result for case, result in results.cases.items() if case in known}
    print(f"## {name}\n")
    found = report.native_lines(native) if options.side == "native" else report.lines(report.compare(native, inside))
    print("\n".join(found), flush=True)


def _passed(native: Results, case: Case) -> bool:
    """Whether anything of it passed natively, or nothing is known about that."""
    result = native.cases.get(case.name)
    return result is None or any(verdict == "passed" for verdict, _ in result.tests.values())


def _tell(side: str, started: float, name: str, result: Result) -> None:
    bad = [f"{test}: {reason}" for test, (verdict, reason) in result.tests.items() if verdict == "failed"]
    said = f"{len(bad)} failed: {bad[0][:150]}" if bad else "ok"
    print(f"{time.monotonic() - started:7.1f} {side} {name} {result.status} {result.seconds:.1f} s {said}", flush=True)


main()
