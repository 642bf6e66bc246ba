"""The command line of scripts/hwtest, and the job that it stands for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hwvm import variants
from hwvm.exchange import Job

ROOT = Path(__file__).parents[3]
FULL = ("tests/kvm",)
# The platform's core: switching, interrupts, memory, machines.
SHORT = ("tests/kvm/test_switch.py", "tests/kvm/test_interrupts.py", "tests/kvm/test_memory.py", "tests/kvm/test_machines.py")
# How much slower than a processor, by the guest's own clock, which is slow under Bochs: tests multiply their deadlines with it.
PACE = {"amd": 20, "intel": 1}
# Tests of what an emulated processor gets wrong ask which it is.
EMULATOR = {"amd": "qemu", "intel": "bochs"}
SECONDS = {"amd": 1800, "intel": 3600}
SHORT_SECONDS = {"amd": 600, "intel": 2400}
# Left for writing the results when the job's own bound strikes.
SPARE_SECONDS = 60
C_TEST_SECONDS = 30
# Minutes on an emulated processor: the first has nothing to do with its KVM, nor have those of the other platform, which compare
# with what real processors do; the last has, but many tests are shorter.
PTRACE = ("test_host_faults_ptrace", "test_ptrace_deaths", "test_ptrace_exits", "test_ptrace_faults", "test_ptrace_spaces")
NOT_OF_KVM = ("test_host_faults", *PTRACE)
NOT_SHORT = (*NOT_OF_KVM, "test_host_faults_kvm")


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Ours, and what is left for pytest."""
    names = ", ".join(variant.name for variant in variants.VARIANTS)
    parser = argparse.ArgumentParser(
        prog="scripts/hwtest",
        description="Run tests in an emulated machine with hardware-like KVM.",
        epilog=f"Everything else goes to pytest; without paths: {' '.join(FULL)}. Variants: {names}. "
        "Exit status: that of the tests; 125 when a machine died, hung or ran out of time.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cpu", choices=variants.CPUS, help="the first variant of this processor, or all of them with --variant all"
    )
    parser.add_argument("--variant", metavar="NAME", help="one variant, or all")
    parser.add_argument("--short", action="store_true", help="only the platform's core tests, without the slow ones")
    parser.add_argument("--asan", action="store_true", help="the C tests built for memory errors as well")
    parser.add_argument("--no-c", action="store_true", help="no C tests")
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="JUnit XML of all variants; build/hwvm/VARIANT.xml has those of one"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="variants that run side by side (1)")
    parser.add_argument("--seconds", type=int, metavar="N", help="the most that one variant may take")
    parser.add_argument("--with", dest="extra", type=Path, action="append", default=[], metavar="PATH", help="also in the image")
    parser.add_argument("--command", metavar="COMMAND", help="run this in the machine, by bash, instead of tests")
    parser.add_argument("--packages", action="store_true", help="only name the Debian packages that this needs")
    parser.add_argument("--no-build", action="store_true", help="use what is built and installed already")
    wanted, rest = parser.parse_known_args(words)
    try:
        wanted.variants = variants.chosen(wanted.cpu, wanted.variant)
    except ValueError as error:
        parser.error(str(error))
    if wanted.jobs < 1 or (wanted.seconds is not None and wanted.seconds < 1):
        parser.error("--jobs and --seconds are at least 1")
    wanted.extra = [(ROOT / path).absolute() for path in wanted.extra]
    if missing := [str(path) for path in wanted.extra if not path.exists()]:
        parser.error(f"there is no {', no '.join(missing)}")
    return wanted, rest


def seconds(options: argparse.Namespace, cpu: str) -> int:
    """The most that one variant of this processor may take."""
    return int(options.seconds or (SHORT_SECONDS if options.short else SECONDS)[cpu])


def job(options: argparse.Namespace, rest: list[str], cpu: str) -> Job:
    """What a guest with this processor is to do; ASYNCKVM_ variables of ours hold there too, but KVM is what is tested."""
    environment = {"ASYNCKVM_REQUIRE_KVM": "1", "ASYNCKVM_PACE": str(PACE[cpu]), "ASYNCKVM_SEQUENCES": "3"}
    environment["ASYNCKVM_EMULATOR"] = EMULATOR[cpu]
    environment |= {name: value for name, value in os.environ.items() if name.startswith("ASYNCKVM_")}
    environment["ASYNCKVM_PLATFORM"] = "kvm"
    instead = ("bash", "-c", options.command) if options.command else ()
    limit = seconds(options, cpu)
    bound = limit - min(SPARE_SECONDS, limit // 4)
    without = NOT_SHORT if options.short else NOT_OF_KVM
    c_bound = C_TEST_SECONDS * PACE[cpu]
    return Job(ROOT, pytest_arguments(options, rest), c_builds(options), instead, environment, bound, c_bound, without)


def c_builds(options: argparse.Namespace) -> tuple[str, ...]:
    """Whose C tests are to run, as folders of build/."""
    if options.no_c:
        return ()
    return ("plain", "asan") if options.asan else ("plain",)


def pytest_arguments(options: argparse.Namespace, rest: list[str]) -> tuple[str, ...]:
    """The user's own; with the tests that are meant when none is named."""
    named = any(argument == "tests" or argument.startswith("tests/") for argument in rest)
    defaults = () if named else SHORT if options.short else FULL
    quick = ("-m", "not slow") if options.short and "-m" not in rest else ()
    return ("-v", *quick, *rest, *defaults)
