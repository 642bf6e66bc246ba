"""A short campaign of each kind, and breaks planted in one: the referee that finds nothing there would find nothing anywhere.

ASYNCKVM_FUZZ: how many cases (2000), and a tenth as many storms.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from fuzz import case_file, storm, supervisor
from fuzz.campaign import Campaign
from fuzz.case import make
from fuzz.journal import Journal
from fuzz.judge import BrokenError
from fuzz.storm_campaign import StormCampaign

from asynckvm.errors import UsageError
from asynckvm.linux import dispatch
from asynckvm.platform import Access, Context, Machine, WriteMsr
from support import tree
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from fuzz.witness import Witness

CASES = int(os.environ.get("ASYNCKVM_FUZZ", "2000"))
CSTAR = 0xC0000083
# Enough cases for a break that is planted after the tenth of them to be seen.
A_FEW = 120


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree.ROOT / "tests")}
    command = [sys.executable, "-m", "fuzz", *arguments]
    return subprocess.run(
        command, cwd=tree.ROOT, env=environment, capture_output=True, text=True, timeout=paced(120 + CASES / 20)
    )


@pytest.mark.timeout(paced(180 + CASES / 20))
@pytest.mark.parametrize(
    "mode",
    [
        [],
        ["--linux"],
        ["--vcpus", "1"],
        pytest.param(["--guest-edits"], marks=pytest.mark.kvm_only("page tables are changed by ring 0")),
    ],
    ids=" ".join,
)
def test_nothing_breaks(mode: list[str]) -> None:
    cases = CASES if not mode else max(1, CASES // 10)
    run = fuzz("--cases", str(cases), "--seed", "4711", *mode)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f" {cases}\n" in run.stdout
    assert "as at the start" in run.stdout


@pytest_asyncio.fixture
async def machine() -> AsyncIterator[Machine]:
    async with Machine.open(vcpus=2, memory=256 << 20, contexts=64) as machine:
        yield machine


def idle(campaign: Campaign) -> Iterator[Witness]:
    """The witnesses whose registers can be changed now."""
    for witness in campaign.witnesses:
        with contextlib.suppress(UsageError):
            assert witness.context.words  # refused while it runs
            yield witness


async def broken_by(
    machine: Machine, plant: Callable[[Campaign], None], *, late: float = 2.0, again: bool = False
) -> BrokenError:
    """What a campaign finds when `plant` is done to it once after ten cases, or `again` after each one from then on."""
    planted: list[bool] = []

    def after_case(campaign: Campaign) -> None:
        if campaign.totals.cases >= 10 and (again or not planted):
            planted.append(True)
            plant(campaign)

    campaign = Campaign(machine, late=paced(late), after_case=after_case)
    with pytest.raises(BrokenError) as raised:
        await campaign.run(make(4712, index) for index in range(A_FEW))
    assert planted
    campaign.close()
    return raised.value


async def test_a_changed_register_of_a_witness_is_found(machine: Machine) -> None:
    def plant(campaign: Campaign) -> None:
        for witness in idle(campaign):
            witness.context.words[13] ^= 1 << 40

    broken = await broken_by(machine, plant)
    assert "word 13" in broken.what
    assert broken.cases


async def test_a_changed_vector_register_of_a_witness_is_found(machine: Machine) -> None:
    def plant(campaign: Campaign) -> None:
        for witness in idle(campaign):
            image = bytearray(witness.context.xsave)
            image[300] ^= 1
            witness.context.xsave = bytes(image)

    assert "vector state changed at bytes [300]" in (await broken_by(machine, plant)).what


async def test_changed_memory_of_a_witness_is_found(machine: Machine) -> None:
    def plant(campaign: Campaign) -> None:
        for witness in campaign.witnesses:
            region = witness.space.region(0x6000_1000_0000)
            assert region is not None
            witness.space.write(region.start + 100, b"\0\0\0\0")

    assert "memory changed" in (await broken_by(machine, plant)).what


async def test_a_secret_in_an_attacker_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(campaign: Campaign) -> None:
        secret = next(iter(campaign.witnesses[0].secrets))
        monkeypatch.setattr("fuzz.attacker._TWIN_EXITS", 0)
        for attacker in campaign.attackers:
            monkeypatch.setattr(attacker, "_react", lambda case, turn, words: words.__setitem__(15, secret))

    assert "secret" in (await broken_by(machine, plant)).what


@pytest.mark.parametrize("what", ["descriptors", "spaces", "contexts"])
async def test_what_is_left_over_is_found(machine: Machine, what: str) -> None:
    kept: list[object] = []

    def plant(campaign: Campaign) -> None:
        if what == "descriptors":
            kept.append(open("/dev/null", "rb"))  # noqa: SIM115 - the leak
        elif what == "spaces":
            space = machine.create_address_space()
            space.map(0x10000, 0x1000, Access.READ | Access.WRITE)
            space.write(0x10000, b"x")
            kept.append(space)
        else:
            space = machine.create_address_space()
            kept.extend((machine.create_context(space), space))

    broken = await broken_by(machine, plant)
    assert "leaked" in broken.what
    assert what in broken.what
    for thing in kept:
        thing.close()  # type: ignore[attr-defined]


@pytest.mark.kvm_only("writes registers of ring 0")
async def test_changed_model_registers_are_found(machine: Machine) -> None:
    campaign = Campaign(machine)
    await campaign.ledger.open()
    await campaign.ledger.check()
    await machine.retry_in_guest(WriteMsr(CSTAR, 0x1234_5000), 1)
    with pytest.raises(BrokenError, match="model-specific"):
        await campaign.ledger.check()
    campaign.close()


async def test_a_bounce_that_is_lost_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(campaign: Campaign) -> None:
        contexts = {id(campaign.witnesses[0].context)}
        real = Context.interrupt
        monkeypatch.setattr(Context, "interrupt", lambda self, *args: real(self, *args) if id(self) in contexts else None)

    broken = await broken_by(machine, plant, late=0.5)
    assert "still running" in broken.what or "was not reported" in broken.what
    assert len(broken.cases) == 1
    monkeypatch.undo()


async def test_a_bounce_nobody_asked_for_is_found(machine: Machine) -> None:
    def plant(campaign: Campaign) -> None:
        for attacker in campaign.attackers:
            if attacker.thread.context is not None:
                attacker.thread.context.interrupt()

    assert "nobody asked" in (await broken_by(machine, plant, again=True)).what


# ---------------------------------------------------------------- storms


async def storms_broken_by(machine: Machine, folder: Path, plant: Callable[[StormCampaign], None]) -> BrokenError:
    campaign = StormCampaign(machine, folder, late=paced(2.0), after_case=plant)
    with pytest.raises(BrokenError) as raised:
        await campaign.run(storm.make(4713, index) for index in range(12))
    return raised.value


async def test_a_written_file_is_found(machine: Machine, tmp_path: Path) -> None:
    def plant(campaign: StormCampaign) -> None:
        (tmp_path / "scratch" / "inside").write_bytes(b"other")

    assert "files changed" in (await storms_broken_by(machine, tmp_path, plant)).what


async def test_an_escaping_exception_is_found(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object) -> None:
        raise OverflowError("int too big to convert")

    monkeypatch.setattr(dispatch, "_answer", answer)
    broken = await storms_broken_by(machine, tmp_path, lambda campaign: None)
    assert "OverflowError escaped" in broken.what


async def test_a_leaked_descriptor_of_a_storm_is_found(machine: Machine, tmp_path: Path) -> None:
    with open("/dev/null", "rb") as null:
        leaked: list[int] = []
        broken = await storms_broken_by(machine, tmp_path, lambda campaign: leaked.append(os.dup(null.fileno())))
    for descriptor in leaked:
        os.close(descriptor)
    assert "descriptors" in broken.what


# ---------------------------------------------------------------- the supervisor


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_HANG_SECONDS", 0.3)
    journal = Journal(tmp_path / "journal")
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        assert supervisor._wait(process, journal) < 0
    journal.close()


def test_the_journal_keeps_the_last_cases(tmp_path: Path) -> None:
    writer, reader = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    for index in range(1000):
        writer.note(5, index)
    assert reader.begun == 1000
    assert reader.window() == [(5, index) for index in range(936, 1000)]
    writer.close()
    reader.close()


@pytest.mark.parametrize("culprits", [{7}, {3, 9}])
def test_the_least_that_breaks_is_found(culprits: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def breaks(options: object, pairs: list[tuple[int, int]], folder: Path) -> bool:
        tried.append(pairs)
        return culprits <= {index for _, index in pairs}

    monkeypatch.setattr(supervisor, "_breaks", breaks)
    window = [(1, index) for index in range(16)]
    found = supervisor._reduce(None, window, tmp_path, float("inf"))  # type: ignore[arg-type]
    assert found is not None
    assert culprits <= {index for _, index in found}
    assert len(found) == (1 if len(culprits) == 1 else 16)
    assert list(itertools.islice(tried, 2)) == [[(1, 15)], [(1, 14)]]


def test_a_case_is_saved_for_the_corpus(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    run = fuzz("--replay", "11:3", "--save", str(path), "nothing yet")
    assert run.returncode == 0, run.stderr
    assert case_file.load(path) == (make(11, 3)._replace(seed=0, number=0), "nothing yet")


@pytest.mark.timeout(paced(120))
def test_a_replay_runs_exactly_those_cases() -> None:
    run = fuzz("--replay", "11:3,11:5", "--repeat", "3")
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 6\n" in run.stdout
