"""What every test shares: which loop runs it, which platform runs its guests, and what is told when it fails or hangs.

Hooks only; helpers live in tests/support/, fixtures beside the tests that use them.
"""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import uvloop

from support import hangs, pace, platforms, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from _pytest.terminal import TerminalReporter

TESTS = Path(__file__).parent
# Tiers in which every test runs guests, whether its author remembered the marker or not.
GUEST_TIERS = ("kvm", "programs", "sandbox", "fuzz", "soak")
# What depends on the platform, and so runs on each of them when there are several; the rest runs on the first.
ON_EACH = ("kvm", "programs", "sandbox", "stress", "fuzz/test_corpus.py")
# Tests that judge how long things take, and so have the machine to themselves.
ALONE = ("programs/test_many_mappings.py", "stress/test_kills.py", "stress/test_scale.py", "soak/test_soak.py")
_ROOM = pytest.StashKey[quiet.Room]()
_ROOM_FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
# Of the test run: the platforms it was given by name. Of a test: those that run its guests.
_PLATFORMS = pytest.StashKey[tuple[str, ...]]()
_RAN_ON = pytest.StashKey[tuple[str, ...]]()

# Examples are found again from the printed blob; time limits per example would only measure the neighbours.
hypothesis.settings.register_profile("asynckvm", deadline=None, print_blob=True)
hypothesis.settings.load_profile("asynckvm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--platforms",
        default=platforms.AUTO,
        metavar="NAMES",
        help="run guests on each of these that works here: kvm,ptrace; the first runs all tests, the others what depends on them"
        " (default: auto, the one that programs get)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    names = config.stash[_PLATFORMS]
    told = ", ".join(names) if names else platforms.GIVEN
    unusable = [f"{name} runs no guest here: {verdict[2]}" for name, verdict in platforms.known().items() if not verdict[0]]
    lines = [f"asynckvm: uvloop {uvloop.__version__}, {os.cpu_count()} CPUs, pace {pace.PACE}, platforms: {told}", *unusable]
    return "\n".join(lines)


def pytest_configure(config: pytest.Config) -> None:
    """A process that runs a part of the tests beside others learns here where their room is, and what the first one found."""
    if given := getattr(config, "workerinput", None):
        config.stash[_ROOM] = quiet.Room(given["room"])
        config.stash[_PLATFORMS] = tuple(given["platforms"])
        platforms.remember(given["found"])
        return
    asked = config.getoption("platforms")
    try:
        config.stash[_PLATFORMS] = () if asked == platforms.AUTO else platforms.chosen(asked.split(","))
    except ValueError as error:
        raise pytest.UsageError(f"--platforms {error}") from None


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
    node.workerinput["platforms"] = list(node.config.stash[_PLATFORMS])
    node.workerinput["found"] = platforms.known()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """First of all, so that no test's time passes while it waits for others."""
    room = item.config.stash.get(_ROOM, None)
    if room is None:
        return (yield)
    with room.entered(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _is_in(node: pytest.Item | pytest.FunctionDefinition, places: tuple[str, ...]) -> bool:
    """Whether a test is in one of these folders or files of tests/."""
    return any(node.path.is_relative_to(TESTS / place) for place in places)


def _runs_guests(node: pytest.Item | pytest.FunctionDefinition) -> bool:
    return _is_in(node, GUEST_TIERS) or node.get_closest_marker("guests") is not None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that runs guests is one for each platform that was named, if it depends on them."""
    names, test = metafunc.config.stash[_PLATFORMS], metafunc.definition
    if names and _runs_guests(test) and not test.get_closest_marker("all_platforms"):
        metafunc.parametrize("platform", names if _is_in(test, ON_EACH) else names[:1], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS):
            if _is_in(item, GUEST_TIERS):
                item.add_marker(pytest.mark.guests)
            if _is_in(item, ALONE):
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
    """A test that runs guests skips, or fails where its platform is demanded, when the probe could not run one."""
    if not _runs_guests(item):
        return
    asked = item.callspec.params.get("platform", platforms.AUTO) if hasattr(item, "callspec") else platforms.AUTO
    everywhere = item.get_closest_marker("all_platforms") is not None
    names = item.config.stash[_PLATFORMS] if everywhere else (asked,)
    verdicts = [platforms.probe(name) for name in names or platforms.usable() or (platforms.AUTO,)]
    for verdict in verdicts:
        if not verdict.usable:
            if setting := platforms.required(verdict.name):
                pytest.fail(f"{setting}, but {verdict.name} runs no guest here: {verdict.report}", pytrace=False)
            pytest.skip(f"{verdict.name} runs no guest here: {verdict.report}")
    ran_on = tuple(verdict.name for verdict in verdicts)
    if asked == platforms.AUTO and platforms.kvm_required() and platforms.KVM not in ran_on:
        pytest.fail(f"ASYNCKVM_REQUIRE_KVM=1, but guests run on {', '.join(ran_on)} here", pytrace=False)
    only = item.get_closest_marker("kvm_only")
    if only is not None and ran_on != (platforms.KVM,):
        pytest.skip(f"only on KVM: {only.args[0]}")
    item.stash[_RAN_ON] = ran_on


@pytest.fixture(autouse=True)
def platform(request: pytest.FixtureRequest) -> Iterator[str]:
    """The platform that runs the guests of this test and of the programs that it starts; "" when there is not just one."""
    ran_on = request.node.stash.get(_RAN_ON, ())
    if len(ran_on) != 1:
        yield ""
        return
    with platforms.using(ran_on[0]):
        yield ran_on[0]


@pytest.fixture
def usable_platforms(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """For tests marked all_platforms: those that were named, else those that run guests here."""
    names: tuple[str, ...] = request.node.stash[_RAN_ON]
    return names


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
    if call.when == "call":
        report.user_properties += [("platform", name) for name in item.stash.get(_RAN_ON, ())]
    if report.failed and (text := hangs.dump_of_open_machines()):
        report.sections.append((f"open machines after {call.when}", text))
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Which platforms ran the guests, and how many tests had some."""
    counts = collections.Counter(
        name
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for what, name in getattr(report, "user_properties", ())
        if what == "platform"
    )
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(f"guests ran on {name}: {count} tests")
