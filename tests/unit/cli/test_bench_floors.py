"""The floor programs that need no KVM: they answer, they count, and the guests of the benchmarks run the same instructions."""

import re
from pathlib import Path

import pytest

from asynckvm.cli.bench_floors import Floor, WakeupFloor, floors_folder
from asynckvm.cli.bench_guests import COMPUTE
from asynckvm.errors import InternalError, UsageError
from support import tree

MASK = (1 << 64) - 1
SYSCALL, RET = bytes.fromhex("0f05"), bytes.fromhex("c3")


def loop_in_python(turns: int) -> int:
    """What the loop of floor_compute.c computes."""
    value = 0
    for left in range(turns, 0, -1):
        value = (value * 0x41C64E6D + left) & MASK
        value = (value << 13 | value >> 51) & MASK
    return value


def test_guest_and_floor_compute_with_the_same_instructions() -> None:
    text = tree.read("native/bench/floor_compute.c")
    array = text[text.index("code[] = {") : text.index("};")]
    code = bytes.fromhex("".join(re.findall(r"0x([0-9a-f]{2})\b", re.sub(r"/\*.*?\*/", "", array))))
    assert code.endswith(RET)
    assert code.removesuffix(RET) == COMPUTE.removesuffix(SYSCALL)


def test_the_loop_computes_what_it_says() -> None:
    with Floor(floors_folder(), "compute", 1000) as floor:
        assert floor.sample()["loop"] > 0
        assert floor.sample().keys() == {"loop"}
    assert floor.summary["result"] == loop_in_python(1000)
    assert floor.summary["samples"] == 2


def test_touching_new_memory_faults_at_least_once_a_huge_page() -> None:
    with Floor(floors_folder(), "touch", 4096) as floor:
        assert floor.sample().keys() == {"plain", "advised"}
    assert 2 * 4096 / 512 <= int(str(floor.summary["faults"])) <= 2 * 4096 + 16


async def test_every_wake_up_arrives_once() -> None:
    with WakeupFloor(floors_folder()) as floor:
        assert await floor.sample(20, 1000) > 0
        assert await floor.sample(5, 0) > 0


def test_a_floor_that_dies_is_an_error_with_its_own_words() -> None:
    with (
        pytest.raises(InternalError, match=r"floor_touch ended with status 2: usage"),
        Floor(floors_folder(), "touch", 0) as floor,
    ):
        floor.sample()


def test_missing_programs_are_the_caller_s_to_bring(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="AKVM_BENCH"):
        floors_folder(str(tmp_path))


def test_no_descriptor_is_left_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with WakeupFloor(floors_folder()), Floor(floors_folder(), "compute", 1000) as floor:
        floor.sample()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
