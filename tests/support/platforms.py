"""Which platforms run guests here: found once a test run for each, by running a guest in a process of its own.

By running, because neither /dev/kvm nor CPU flags tell; in its own process, because a host where a platform is broken may crash
or hang the prober, and the test run must survive that and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from support import pace

VARIABLE: Final = "ASYNCKVM_PLATFORM"
AUTO: Final = "auto"
KVM: Final = "kvm"
NAMES: Final = (KVM, "ptrace")
PROBE_SECONDS = pace.paced(60)
# What the user said, before tests change what the variable says.
GIVEN: Final = os.environ.get(VARIABLE) or AUTO


class Verdict(NamedTuple):
    """`usable`: a guest ran and its system call arrived. `name`: the platform that ran it, or was to.

    `report`: what it ran on, or why none did, in one line.
    """

    usable: bool
    name: str
    report: str


_found: dict[str, Verdict] = {}


def remember(found: Mapping[str, Sequence[object]]) -> None:
    """What another process of this test run has found."""
    _found.update({name: Verdict(bool(usable), str(ran), str(report)) for name, (usable, ran, report) in found.items()})


def known() -> dict[str, tuple[object, ...]]:
    """What was found so far, in plain values."""
    return {name: tuple(verdict) for name, verdict in _found.items()}


def probe(name: str = AUTO) -> Verdict:
    """Run the trivial guest of probe_guest.py on a platform, or on what `auto` gives; the answer is kept."""
    asked = GIVEN if name == AUTO else name
    if asked not in _found:
        _found[asked] = _run(asked)
    return _found[asked]


def _run(name: str) -> Verdict:
    command = [sys.executable, str(Path(__file__).with_name("probe_guest.py"))]
    environment = {**os.environ, VARIABLE: name}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return Verdict(usable=False, name=name, report=f"the probe did not end within {PROBE_SECONDS:.0f} s")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"the probe ended with {done.returncode}"
    if done.returncode:
        return Verdict(usable=False, name=name, report=last)
    ran, report = last.split(" ", 1)
    if name not in (AUTO, ran):
        return Verdict(usable=False, name=name, report=f"asked for {name}, but the guest ran on {ran}")
    return Verdict(usable=True, name=ran, report=report)


def usable() -> tuple[str, ...]:
    """The platforms that run guests here and that the user did not rule out, the one that `auto` takes first."""
    return tuple(name for name in NAMES if GIVEN in (AUTO, name) and probe(name).usable)


def kvm_required() -> bool:
    """Whether a test that finds no usable KVM fails; somebody who asks for another platform does not ask for KVM."""
    return os.environ.get("ASYNCKVM_REQUIRE_KVM") == "1" and GIVEN in (AUTO, KVM)


def required(name: str) -> str:
    """The setting that lets a test fail, instead of being skipped, when its platform runs no guests; "" if there is none."""
    if kvm_required() and name in (AUTO, KVM):
        return "ASYNCKVM_REQUIRE_KVM=1"
    return "ASYNCKVM_REQUIRE_GUESTS=1" if os.environ.get("ASYNCKVM_REQUIRE_GUESTS") == "1" else ""


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Those that tests are to use: usable here, or demanded. Nothing is left out in silence: if none is, all are tried."""
    asked = tuple(names)
    if unknown := set(asked) - set(NAMES):
        raise ValueError(f"{', '.join(sorted(unknown))}: no platform; there are {', '.join(NAMES)}")
    return tuple(name for name in asked if probe(name).usable or required(name)) or asked


@contextmanager
def using(name: str) -> Iterator[None]:
    """Machines that are opened in the block without naming a platform, also by programs it starts, are opened on this one."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
