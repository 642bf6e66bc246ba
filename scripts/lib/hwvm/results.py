"""What a run in a guest came to: read from the files that it brought back, and judged."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwvm.exchange import Job

SKIPPED = 77
# How timeout ends: its own statuses, and the signals that it sends.
TIMED_OUT = (124, 134, 137)
# The status of a run whose machine died, hung or ran out of time.
NO_VERDICT = 125
# Capabilities worth a word in the table when they are there.
FLAGS = ("syscall_as_fault", "int80_as_ud", "host_edits_seen", "cpuid_faulting", "pcid", "smep", "smap", "umip", "fsgsbase")


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed}/{self.failed}/{self.skipped}"


class CTest(NamedTuple):
    """One line of the guest's file c-tests."""

    build: str
    name: str
    status: int
    seconds: float
    output: str  # of a failed one


class Results(NamedTuple):
    """Everything that came back."""

    host: str  # what the guest's KVM is and can do, in a line
    c_tests: tuple[CTest, ...]
    pytest: ET.Element | None  # JUnit's testsuite
    statuses: Mapping[str, int]  # of doctor, pytest or command
    missing: str  # what should be there and is not

    @property
    def c_counts(self) -> Counts:
        skipped = sum(test.status == SKIPPED for test in self.c_tests)
        failed = sum(test.status not in (0, SKIPPED) for test in self.c_tests)
        return Counts(len(self.c_tests) - skipped - failed, failed, skipped)

    @property
    def pytest_counts(self) -> Counts:
        if self.pytest is None:
            return Counts()
        total, skipped = (int(self.pytest.get(name, "0")) for name in ("tests", "skipped"))
        failed = sum(int(self.pytest.get(name, "0")) for name in ("failures", "errors"))
        return Counts(total - skipped - failed, failed, skipped)

    @property
    def status(self) -> int:
        """The run's exit status: that of a command; of pytest if it failed; 1 for anything else that failed."""
        if self.missing:
            return NO_VERDICT
        verdict = self.statuses.get("command", self.statuses.get("pytest", 0))
        if verdict in TIMED_OUT:
            return NO_VERDICT
        if "command" in self.statuses:
            return verdict
        return verdict or int(self.statuses.get("doctor") != 0 or self.c_counts.failed > 0)


def read(files: Mapping[str, bytes], job: Job) -> Results:
    """Judge the files; what the job asked for and they don't tell leaves the run without a verdict."""
    text = {name: data.decode(errors="replace") for name, data in files.items()}
    statuses = {name.removesuffix(".status"): int(text[name]) for name in text if name.endswith(".status")}
    tests = tuple(_c_test(line.split(), text) for line in text.get("c-tests", "").splitlines())
    suite = None
    if "pytest.xml" in text:
        suite = _testsuite(text["pytest.xml"])
    return Results(_host(text), tests, suite, statuses, ", ".join(_missing(job, statuses, tests, suite)))


def _missing(job: Job, statuses: Mapping[str, int], tests: tuple[CTest, ...], suite: ET.Element | None) -> Iterator[str]:
    for name in ("command",) if job.instead else ("doctor", "pytest") if job.pytest else ("doctor",):
        if name not in statuses:
            yield f"{name} did not end"
    if job.instead:
        return
    for build in job.c_builds:
        if not any(test.build == build for test in tests):
            yield f"no C test of build/{build} ran"
    # When pytest was ended by its bound there is no such file, and its status tells.
    if job.pytest and suite is None and statuses.get("pytest") == 0:
        yield "pytest wrote no JUnit file"


def _c_test(words: list[str], text: Mapping[str, str]) -> CTest:
    build, name, status, seconds = words
    return CTest(build, name, int(status), float(seconds), text.get(f"{build}.{name}.output", ""))


def _testsuite(document: str) -> ET.Element | None:
    try:
        return ET.fromstring(document).find("testsuite")
    except ET.ParseError as error:
        raise HarnessError(f"the guest's JUnit file is broken: {error}") from error


def _host(text: Mapping[str, str]) -> str:
    if "command.status" in text:
        return ""
    try:
        record = json.loads(text["doctor.json"])
    except (KeyError, ValueError):
        return "no word from asynckvm doctor"
    parameters = [line for line in text.get("parameters", "").splitlines() if line.split(":")[0] in ("npt", "ept", "vpid")]
    if not record.get("usable"):
        return f"no guest runs: {record.get('error')}"
    capabilities = record["capabilities"]
    words = [capabilities["kvm_module"], *(line.replace(":", "=") for line in parameters)]
    return " ".join([*words, *(name for name in FLAGS if capabilities.get(name))])
