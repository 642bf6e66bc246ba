"""The harness as a whole: every comparison runs on every platform, counts right and comes out as promised; no time is judged."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import structlog

from asynckvm.cli import bench, bench_programs, bench_subjects
from asynckvm.cli.bench_floors import floors_folder
from asynckvm.cli.bench_statistics import AIMS
from asynckvm.errors import InternalError
from asynckvm.model.config import PlatformName

pytestmark = [pytest.mark.guests, pytest.mark.all_platforms]
Platforms = tuple[PlatformName, ...]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


TINY = bench.Plan(
    rounds=2, exits=20, wakeups=5, kicks=3, crowd=50, crowd_rounds=2, crowd_exits=2, turns=10_000, compute_rounds=2, pages=1024
)  # fmt: skip


def check_shape(result: dict[str, Any], names: set[str], platforms: Platforms) -> None:
    assert tuple(result["platforms"]) == platforms
    for found in result["platforms"].values():
        assert found["capabilities"]["vcpus_max"] > 0
        assert found["ratios"].keys() == found["samples_ns"].keys() == names
        for name, ratio in found["ratios"].items():
            if ratio is None:
                # It needs KVM itself for a floor.
                assert "kvm" not in platforms and name in ("vcpu_exit", "async_switch", "kick")  # noqa: PT018
                continue
            assert {"value", "aim", "met", "spread"} <= ratio.keys()
            assert ratio["aim"] == AIMS[name].bound
            assert ratio["met"] is AIMS[name].met(ratio["value"]) or ratio["value"] == pytest.approx(ratio["aim"], abs=1e-4)
            spread = ratio["spread"]
            assert 0 < spread["min"] <= spread["q1"] <= ratio["value"] <= spread["q3"] <= spread["max"]
        for series in found["samples_ns"].values():
            assert all(spread["samples"] == next(iter(series.values()))["samples"] for spread in series.values())
    told = {"kernel", "cpu", "cpus", "transparent_hugepage", "load_before", "load_after", "used_by_others"}
    assert told <= result["conditions"].keys()


@pytest.mark.timeout(120)
async def test_every_comparison_counts_right_on_every_platform(usable_platforms: Platforms) -> None:
    seen: list[str] = []
    result: Any = await bench.measure(TINY, floors_folder(), list(bench.COMPARISONS), seen.append, usable_platforms)
    assert seen == list(AIMS)
    check_shape(json.loads(json.dumps(result)), set(AIMS), usable_platforms)
    for found in result["platforms"].values():
        assert found["breakdown_ns"].keys() >= {"async_switch", "kick", "scaling_2v1"}
    floors = [found["samples_ns"]["compute"]["floor"] for found in result["platforms"].values()]
    assert all(floor == floors[0] for floor in floors), "platforms are held against the same runs"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], usable_platforms: Platforms) -> None:
    asked = [f"--platform={name}" for name in usable_platforms]
    assert bench.main(["--quick", "--json", *asked]) == 0
    check_shape(json.loads(capsys.readouterr().out), set(AIMS), usable_platforms)


@pytest.mark.timeout(120)
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], usable_platforms: Platforms) -> None:
    asked = [f"--platform={name}" for name in usable_platforms]
    assert bench.main(["--quick", "--only", "kick", "--only", "async_switch", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [word for word in lines[0].split() if word in ("kvm", "ptrace")] == list(usable_platforms)
    assert [line.split()[0] for line in lines[1:3]] == ["kick", "async_switch"]
    for name in usable_platforms:
        assert any(line.startswith(f"where the time of async_switch on {name} goes") for line in lines)


def test_one_platform_is_measured_when_asked_for(capsys: pytest.CaptureFixture[str], usable_platforms: Platforms) -> None:
    last = usable_platforms[-1]
    assert bench.main(["--quick", "--json", "--only", "compute", "--platform", last]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["platforms"]) == [last]
    assert result["platforms"][last]["ratios"]["compute"]["value"] > 0


def test_without_kvm_there_are_times_and_no_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, usable_platforms: Platforms
) -> None:
    """What a raw KVM round trip is for, where none can be measured."""
    monkeypatch.setattr(bench.Setting, "raw_floor", lambda *_: nullcontext())
    assert bench.main(["--quick", "--only", "kick", "--platform", usable_platforms[-1]]) == 0
    text = capsys.readouterr().out
    assert "runs no guest here" in text
    assert "kick interrupt_to_left" in text


async def test_programs_run_natively_and_on_every_platform(
    capsys: pytest.CaptureFixture[str], usable_platforms: Platforms
) -> None:
    (outcome,) = await bench_programs.measure(1, "python", usable_platforms)
    assert (len(outcome.native), [len(times) for times in outcome.inside.values()]) == (1, [1] * len(usable_platforms))
    assert tuple(outcome.inside) == usable_platforms
    heading, line = capsys.readouterr().out.splitlines()
    assert all(f"{name} ms" in heading for name in usable_platforms)
    assert line.split()[0] == "python"


async def test_a_subject_that_counts_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch, usable_platforms: Platforms) -> None:
    """Without the answer, the guest's system calls reach Python instead of being resolved on the vCPU thread."""
    monkeypatch.setattr(bench_subjects, "ANSWERED", 40)
    for name in usable_platforms:
        subject = bench_subjects.vcpu_exit(10, name)
        with pytest.raises(InternalError, match="expected system call 60"):
            await anext(subject)
