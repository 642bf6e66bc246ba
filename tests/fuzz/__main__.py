"""`scripts/fuzz`: the hostile-guest fuzzer's command line. Nothing but options lives here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import case, case_file, storm
from fuzz.supervisor import supervise

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.case import Case


def _pairs(text: str) -> list[tuple[int, int]]:
    try:
        pairs = [tuple(int(number) for number in pair.split(":")) for pair in text.split(",")]
        return [(seed, index) for seed, index in pairs]
    except ValueError:
        raise argparse.ArgumentTypeError(f"not SEED:INDEX[,SEED:INDEX...]: {text}") from None


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description="Run random hostile guests and watch that the host, and the guests beside them, do not notice.",
        epilog="Exit status 0 only when every invariant held. All bounds of time are multiplied by ASYNCKVM_PACE (default 1).",
    )
    parser.add_argument(
        "--cases", type=int, default=0, metavar="N", help="how many cases (default 10000, or no bound with --seconds)"
    )
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="for how long")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the master seed (default %(default)s)")
    parser.add_argument("--start", type=int, default=0, metavar="I", help="index of the first case (default %(default)s)")
    parser.add_argument("--linux", action="store_true", help="storms of system calls against the Linux personality instead")
    parser.add_argument("--replay", type=_pairs, metavar="SEED:INDEX[,...]", help="run these cases only")
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="how often to run the replayed cases (default %(default)s)"
    )
    parser.add_argument("--save", nargs=2, metavar=("FILE", "BROKE"), help="write the one replayed case to FILE for the corpus")
    parser.add_argument("--vcpus", type=int, default=2, metavar="N", help="vCPUs of the machine (default %(default)s)")
    parser.add_argument(
        "--guest-edits", action="store_true", help="change page tables by ring-0 stores even where the host's would do"
    )
    parser.add_argument("--no-pcid", action="store_true", help="do without PCID where there is one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--journal", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.save and (not options.replay or len(options.replay) != 1):
        parser.error("--save needs --replay with one case")
    if not options.cases and not options.seconds:
        options.cases = 10_000
    return options


def save(options: argparse.Namespace) -> None:
    """The replayed case as a file of the corpus."""
    make: Callable[[int, int], Case | storm.Storm] = storm.make if options.linux else case.make
    path, broke = options.save
    Path(path).write_text(case_file.dump(make(*options.replay[0]), broke), encoding="utf-8")


def main() -> int:
    options = parse(sys.argv[1:])
    if options.worker:
        from fuzz.worker import work

        return work(options)
    if options.save:
        save(options)
        return 0
    return supervise(options)


if __name__ == "__main__":
    sys.exit(main())
