"""Cases are functions of two numbers, reach everything there is to reach, and survive being written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fuzz import case_file, script, storm
from fuzz.case import FORKED, TOGETHER, make
from fuzz.describe import describe
from fuzz.grammar import NAMES

from asynckvm.linux.syscalls.table import TABLE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("maker", [make, storm.make])
def test_the_same_numbers_make_the_same_case(maker: type) -> None:
    cases = [maker(7, index) for index in range(200)]
    assert cases == [maker(7, index) for index in reversed(range(200))][::-1]
    assert len({str(case) for case in cases}) == 200
    others = [maker(8, index) for index in range(200)]
    assert all(ours[2:] != theirs[2:] for ours, theirs in zip(cases, others, strict=True))


def test_every_production_and_every_step_is_reached() -> None:
    cases = [make(1, index) for index in range(3000)]
    assert {name for case in cases for name in case.names} == NAMES
    steps = {(step.moment, step.operation) for case in cases for step in case.steps}
    assert steps == {
        *((script.BEFORE, name) for name in script.OPERATIONS),
        *((moment, name) for moment in (script.DURING, script.LATER) for name in script.IN_MID_RUN),
    }
    assert {case.twin for case in cases} >= {TOGETHER, FORKED}
    assert {case.restore for case in cases} == {0, 1, 2}
    assert any(case.image for case in cases)
    assert any(case.answered for case in cases)


def test_every_system_call_and_every_path_is_reached() -> None:
    calls = [call for index in range(2000) for call in storm.make(1, index).calls]
    assert {call.number for call in TABLE} <= {call.number for call in calls}
    assert set(range(471)) <= {call.number for call in calls}
    assert any(call.number > 471 for call in calls)
    named = {value for call in calls for value in call.args}
    assert {storm.SCRATCH, storm.SCRATCH + len(storm.PATHS[0]) + 1} <= named


def test_code_lies_within_what_is_mapped() -> None:
    for index in range(3000):
        case = make(2, index)
        assert case.pieces[0] == case.address
        assert case.pieces[-1] <= case.address + len(case.code)


@pytest.mark.parametrize("maker", [make, storm.make])
def test_files_hold_all_of_a_case(maker: type, tmp_path: Path) -> None:
    for index in range(50):
        case = maker(3, index)
        path = tmp_path / "case.json"
        path.write_text(case_file.dump(case, "nothing"))
        assert case_file.load(path) == (case._replace(seed=0, number=0), "nothing")
        assert f"3:{index}" in describe(case)
