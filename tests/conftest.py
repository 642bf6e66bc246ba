"""What every test shares: which loop runs it, whether it may touch KVM, and what is told when it fails or hangs.

Hooks only; helpers live in tests/support/, fixtures beside the tests that use them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import uvloop

from support import hangs, kvm, pace, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

TESTS = Path(__file__).parent
# Tiers in which every test runs guests, whether its author remembered the marker or not.
KVM_TIERS = ("kvm", "programs", "sandbox", "fuzz", "soak")
# Tests that judge how long things take, and so have the machine to themselves.
ALONE = ("programs/test_many_mappings.py", "stress/test_kills.py", "stress/test_scale.py", "soak/test_soak.py")
_ROOM = pytest.StashKey[quiet.Room]()
_ROOM_FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()

# Examples are found again from the printed blob; time limits per example would only measure the neighbours.
hypothesis.settings.register_profile("asynckvm", deadline=None, print_blob=True)
hypothesis.settings.load_profile("asynckvm")


def pytest_report_header() -> str:
    required = "required" if kvm.required() else "used when usable"
    return f"asynckvm: uvloop {uvloop.__version__}, {os.cpu_count()} CPUs, KVM {required}, pace {pace.PACE}"


def pytest_configure(config: pytest.Config) -> None:
    """A process that runs a part of the tests beside others learns here where their room is."""
    if folder := getattr(config, "workerinput", {}).get("room"):
        config.stash[_ROOM] = quiet.Room(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if room := config.stash.get(_ROOM, None):
        room.close()
    if folder := config.stash.get(_ROOM_FOLDER, None):
        folder.cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist starts a process."""
    if _ROOM_FOLDER not in node.config.stash:
        node.config.stash[_ROOM_FOLDER] = tempfile.TemporaryDirectory(prefix="asynckvm-tests-")
    node.workerinput["room"] = node.config.stash[_ROOM_FOLDER].name


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """First of all, so that no test's time passes while it waits for others."""
    room = item.config.stash.get(_ROOM, None)
    if room is None:
        return (yield)
    with room.entered(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS):
            path = item.path.relative_to(TESTS)
            if path.parts[0] in KVM_TIERS:
                item.add_marker(pytest.mark.kvm)
            if str(path) in ALONE:
                item.add_marker(pytest.mark.alone)
        if pace.PACE != 1:
            marker = item.get_closest_marker("timeout")
            seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(pace.paced(seconds)), append=False)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Async tests run on uvloop, as the product does; those marked every_loop on the standard loop too."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("every_loop"):
        factories["asyncio"] = asyncio.new_event_loop
    return factories


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs KVM skips, or fails where KVM is demanded, when the probe could not run a guest."""
    if item.get_closest_marker("kvm") is None:
        return
    verdict = kvm.probe()
    if verdict.usable:
        return
    if kvm.required():
        pytest.fail(f"ASYNCKVM_REQUIRE_KVM=1, but no guest runs here: {verdict.report}", pytrace=False)
    pytest.skip(f"no guest runs here: {verdict.report}")


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """At a timeout, machines are dumped first: once the exception has left the test, they are closed."""
    result = yield
    fail = signal.getsignal(signal.SIGALRM)
    if settings.method == "signal" and callable(fail):
        signal.signal(signal.SIGALRM, hangs.handler(item, settings.timeout, fail))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the machines that are still open, which are those its fixtures hold."""
    report = yield
    hangs.judge(item, report)
    if report.failed and (text := hangs.dump_of_open_machines()):
        report.sections.append((f"open machines after {call.when}", text))
    return report
