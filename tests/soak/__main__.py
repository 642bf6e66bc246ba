"""scripts/soak: a soak of some minutes from the command line. Exit status 0 only when every invariant held."""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys

from soak.actors import ACTORS
from soak.session import ACTION_SECONDS, GATE_SECONDS, Session
from soak.table import summary

from asynckvm.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", default=None, help="of all random choices; a new one when left out")
    parser.add_argument("--vcpus", type=int, default=2)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else str(random.SystemRandom().randrange(1 << 32))
    print(f"soak: {options.minutes} minutes, {options.vcpus} vCPUs, --seed {seed}", flush=True)

    def progress(line: str) -> None:
        # A hang in C holds the loop up, and with it every bound in Python.
        faulthandler.dump_traceback_later(2 * (ACTION_SECONDS + GATE_SECONDS), exit=True)
        print(line, flush=True)

    session = Session(ACTORS, seconds=60 * options.minutes, seed=seed, vcpus=options.vcpus, progress=progress)
    run(session.run())
    faulthandler.cancel_dump_traceback_later()
    print(summary(session), flush=True)
    return 0 if session.held else 1


if __name__ == "__main__":
    sys.exit(main())
