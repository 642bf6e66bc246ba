"""Whether guests run here: found once a test run, by running one in a process of its own.

By running, because neither /dev/kvm nor CPU flags tell; in its own process, because a host where KVM is broken may crash or
hang the prober, and the test run must survive that and say so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from support import pace

PROBE_SECONDS = pace.paced(60)


class Verdict(NamedTuple):
    """usable: a guest ran and its system call arrived. report: what it ran on, or why none did, in one line."""

    usable: bool
    report: str


def required() -> bool:
    """Whether a test without usable KVM fails instead of being skipped."""
    return os.environ.get("ASYNCKVM_REQUIRE_KVM") == "1"


@functools.cache
def probe() -> Verdict:
    """Run the trivial guest of probe_guest.py; the answer is kept for the whole test run."""
    command = [sys.executable, str(Path(__file__).with_name("probe_guest.py"))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(usable=False, report=f"the probe did not end within {PROBE_SECONDS:.0f} s")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return Verdict(usable=done.returncode == 0, report=lines[-1] if lines else f"the probe ended with {done.returncode}")
