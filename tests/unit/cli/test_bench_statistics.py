"""The arithmetic of the benchmarks, and the promised names and aims."""

import pytest

from asynckvm.cli.bench_statistics import AIMS, Ratio, Spread


def test_spread_of_known_samples() -> None:
    spread = Spread.of([5, 1, 4, 2, 3, 6, 7, 8])
    assert spread == Spread(median=4.5, min=1, q1=3, q3=6, max=8, samples=8)


def test_spread_of_one_sample() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 2.0, 1)


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round in which the whole machine is three times slower must not change the result."""
    ratio = Ratio.of("vcpu_exit", above=[12, 33, 11], below=[10, 30, 10])
    assert ratio.value == pytest.approx(1.1)
    assert ratio.spread.max == pytest.approx(1.2)


def test_both_sides_must_have_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        Ratio.of("kick", [1, 2], [1])


def test_names_and_aims_are_the_promised_ones() -> None:
    assert {name: (aim.relation, aim.bound) for name, aim in AIMS.items()} == {
        "vcpu_exit": ("<=", 1.10),
        "async_switch": ("<=", 1.0),
        "kick": ("<=", 1.5),
        "scaling_2v1": (">=", 1.6),
        "compute": ("<=", 1.01),
        "page_touch": ("<=", 1.0),
    }


@pytest.mark.parametrize(
    ("name", "value", "met"),
    [("vcpu_exit", 1.1, True), ("vcpu_exit", 1.2, False), ("scaling_2v1", 1.6, True), ("scaling_2v1", 1.5, False)],
)
def test_an_aim_has_a_direction(name: str, value: float, met: bool) -> None:
    ratio = Ratio.of(name, [value], [1.0])
    assert ratio.met is met
    assert ratio.json()["met"] is met
    assert {"value", "aim", "met", "spread"} <= ratio.json().keys()
