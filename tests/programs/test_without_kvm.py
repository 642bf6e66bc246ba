"""A machine without a usable /dev/kvm: everything works on ptrace, says so once, and never in place of a KVM asked for by name.

The device is hidden from processes of their own (support/hiding.py), so these tests hold where there is a KVM, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asynckvm.cli.statuses import Status
from support import hiding, platforms
from support.pace import paced
from support.tree import ROOT

pytestmark = pytest.mark.all_platforms
SECONDS = paced(100)
COMMAND = [sys.executable, "-m", "asynckvm"]
FALLBACK = "event=platform_fallback"
# What the report says of each way of having no KVM.
SAID = {
    "absent": "No such file",
    "another device": "Inappropriate ioctl",
    "unreadable": "Permission denied",
    "another user": "Permission denied",
}
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def runner(way: str) -> Run:
    if why := hiding.obstacle(way):
        pytest.skip(why)
    settings = ("ASYNCKVM_PLATFORM", "ASYNCKVM_REQUIRE_KVM", "ASYNCKVM_REQUIRE_GUESTS")
    environment = {name: value for name, value in os.environ.items() if name not in settings}

    def run(argv: list[str], folder: str = "/", **more: str) -> Done:
        command = hiding.hidden(way, argv)
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment | more, timeout=SECONDS)

    seen = run([sys.executable, "-c", "import asynckvm._native"])
    if seen.returncode:
        pytest.skip(f"{way}: this tree is not theirs to read: {seen.stderr.strip().splitlines()[-1]}")
    return run


@pytest.fixture(params=hiding.WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def without_kvm(way: str) -> Run:
    """Runs a command that finds no KVM, whatever kind of nothing it finds."""
    return runner(way)


@pytest.fixture
def ptrace() -> None:
    """What takes KVM's place is usable here."""
    verdict = platforms.probe("ptrace")
    if not verdict.usable:
        if setting := platforms.required("ptrace"):
            pytest.fail(f"{setting}, but ptrace runs no guest here: {verdict.report}", pytrace=False)
        pytest.skip(f"ptrace runs no guest here: {verdict.report}")


def told(done: Done) -> list[str]:
    """The lines that tell which wall there is."""
    return [line for line in done.stderr.splitlines() if FALLBACK in line]


@pytest.mark.parametrize("environment", [{}, {"ASYNCKVM_PLATFORM": "kvm"}], ids=["option", "variable"])
def test_kvm_by_name_is_refused(without_kvm: Run, way: str, environment: dict[str, str]) -> None:
    named = [] if environment else ["--platform", "kvm"]
    done = without_kvm([*COMMAND, "run", *named, "--", "echo", "hello"], **environment)
    assert (done.returncode, done.stdout) == (Status.UNUSABLE, "")
    assert SAID[way] in done.stderr
    assert told(done) == []


@pytest.mark.usefixtures("ptrace")
def test_programs_run_and_the_weaker_wall_is_told_once(without_kvm: Run) -> None:
    done = without_kvm([*COMMAND, "run", "--", "sh", "-c", "echo hello; echo well | cat; exit 3"])
    assert (done.returncode, done.stdout) == (3, "hello\nwell\n"), done.stderr
    (line,) = told(done)
    assert "platform=ptrace" in line
    assert "weaker" in line


@pytest.mark.usefixtures("ptrace")
def test_what_was_asked_for_by_name_is_not_warned_about(without_kvm: Run) -> None:
    done = without_kvm([*COMMAND, "run", "--platform", "ptrace", "--", "echo", "hello"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.usefixtures("ptrace")
def test_the_report_says_what_is_missing_and_what_there_is(without_kvm: Run, way: str) -> None:
    done = without_kvm([*COMMAND, "doctor", "--json"])
    report = json.loads(done.stdout)
    assert (done.returncode, report["platform"]) == (0, "ptrace")
    kvm = report["platforms"]["kvm"]
    assert not kvm["usable"]
    assert SAID[way] in kvm["error"]
    assert kvm["hint"]
    assert report["platforms"]["ptrace"]["usable"]
    text = without_kvm([*COMMAND, "doctor"])
    assert text.returncode == 0
    assert "the weaker wall" in text.stdout.splitlines()[-1]


def set_up(name: str, way: str) -> list[str]:
    """A script of this tree, if it has been set up by the scripts and for this user: setting it up is not what is tested."""
    if Path(sys.prefix) != ROOT / ".venv" or not (ROOT / "build/stamp-native").exists():
        pytest.skip("this tree was not set up by its scripts")
    if way == "another user":
        pytest.skip("this tree is not theirs to set up")
    return [str(ROOT / "scripts" / name)]


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.usefixtures("ptrace")
def test_the_demonstration_works(without_kvm: Run, way: str) -> None:
    done = without_kvm([*set_up("demo", way), "--runs", "5", "--json"])
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["runs"], summary["wrong"], summary["platform"]) == (5, 0, "ptrace")
    assert len(told(done)) == 1


A_TEST = ["tests/kvm/test_switch.py", "-k", "bring_number_and_arguments", "-p", "no:cacheprovider"]


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.usefixtures("ptrace")
@pytest.mark.parametrize("way", ["absent", "unreadable"])
@pytest.mark.parametrize("script", [False, True], ids=["pytest", "script"])
def test_tests_run_on_ptrace_and_say_so(without_kvm: Run, way: str, script: bool) -> None:
    argv = [*set_up("test", way), "--no-check"] if script else [sys.executable, "-m", "pytest"]
    done = without_kvm([*argv, "--platforms", "kvm,ptrace", *A_TEST], str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kvm runs no guest here: " in done.stdout
    assert SAID[way] in done.stdout
    assert "guests ran on ptrace: 2 tests" in done.stdout
    assert "guests ran on kvm" not in done.stdout


@pytest.mark.parametrize("way", ["absent"])
def test_a_demanded_kvm_fails_the_tests(without_kvm: Run, way: str) -> None:
    done = without_kvm([sys.executable, "-m", "pytest", *A_TEST], str(ROOT), ASYNCKVM_REQUIRE_KVM="1")
    assert done.returncode == 1, done.stdout
    assert "ASYNCKVM_REQUIRE_KVM=1, but" in done.stdout
