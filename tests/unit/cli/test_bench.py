"""The harness as a whole: every comparison runs, counts right and comes out as promised. No time is judged here."""

import json
from typing import Any

import pytest

from asynckvm.cli import bench, bench_subjects
from asynckvm.cli.bench_floors import floors_folder
from asynckvm.cli.bench_statistics import AIMS
from asynckvm.errors import InternalError

pytestmark = pytest.mark.guests

TINY = bench.Plan(
    rounds=2, exits=20, wakeups=5, kicks=3, crowd=50, crowd_rounds=2, crowd_exits=2, turns=10_000, compute_rounds=2, pages=1024
)  # fmt: skip


def check_shape(result: dict[str, Any], names: set[str]) -> None:
    assert result["ratios"].keys() == names
    for name, ratio in result["ratios"].items():
        assert {"value", "aim", "met", "spread"} <= ratio.keys()
        assert ratio["aim"] == AIMS[name].bound
        assert ratio["met"] is AIMS[name].met(ratio["value"]) or ratio["value"] == pytest.approx(ratio["aim"], abs=1e-4)
        spread = ratio["spread"]
        assert 0 < spread["min"] <= spread["q1"] <= ratio["value"] <= spread["q3"] <= spread["max"]
    for series in result["samples_ns"].values():
        assert all(spread["samples"] == next(iter(series.values()))["samples"] for spread in series.values())
    told = {"kernel", "cpu", "cpus", "transparent_hugepage", "load_before", "load_after", "used_by_others", "capabilities"}
    assert told <= result["conditions"].keys()


async def test_every_comparison_counts_right() -> None:
    seen: list[str] = []
    result = await bench.measure(TINY, floors_folder(), list(bench.COMPARISONS), seen.append)
    assert seen == list(AIMS)
    check_shape(json.loads(json.dumps(result)), set(AIMS))
    assert result["breakdown_ns"].keys() == {"vcpu_exit", "async_switch", "kick", "scaling_2v1"}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", "--json"]) == 0
    check_shape(json.loads(capsys.readouterr().out), set(AIMS))


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", "--only", "kick", "--only", "async_switch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["kick", "async_switch"]
    assert any(line.startswith("where the time of async_switch goes") for line in lines)


async def test_a_subject_that_counts_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the answer, the guest's system calls reach Python instead of being resolved on the vCPU thread."""
    monkeypatch.setattr(bench_subjects, "ANSWERED", 40)
    subject = bench_subjects.vcpu_exit(10)
    with pytest.raises(InternalError, match="expected system call 60"):
        await anext(subject)
