"""What the host does to an attacker's address space and to the attacker itself, before its runs and in the middle of them.

A step is data: (turn, moment, operation, arguments). Drawn here, carried out by `attacker`. No step may raise anything but the
platform's typed errors, whatever its numbers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.places import (
    CODE,
    CODE_BYTES,
    DATA,
    DATA_BYTES,
    EDGE,
    HUGE_PAGE,
    ONES,
    PAGE,
    STACK,
    STACK_BYTES,
    USER_MAX,
    USER_MIN,
    WIDE,
)

if TYPE_CHECKING:
    from fuzz.source import Source

# Moments: before a run, right after it was submitted, and a little later.
BEFORE, DURING, LATER = 0, 1, 2

# What leaves other mappings or bounds behind than an attacker starts with.
CHANGES: Final = frozenset({"map", "map_file", "unmap", "protect", "discard", "limit"})
OPERATIONS: Final = (
    "map", "map", "unmap", "protect", "protect", "discard", "fork", "read", "write", "read_string", "region", "limit",
    "map_file", "map_file", "cut_file", "interrupt", "interrupt", "cancel", "close_space", "close_context",
)  # fmt: skip
# Those that mean something to a guest while it runs.
IN_MID_RUN: Final = (
    "interrupt", "interrupt", "interrupt", "cancel", "cancel", "unmap", "protect", "discard", "fork", "map", "write",
    "close_context", "cut_file", "cut_file", "map_file",
)  # fmt: skip

_RANGES: Final = (
    (CODE, PAGE), (CODE, CODE_BYTES), (CODE + PAGE, PAGE), (DATA, PAGE), (DATA, DATA_BYTES), (DATA + PAGE, PAGE),
    (STACK, STACK_BYTES), (STACK + PAGE, PAGE), (EDGE, PAGE), (EDGE, 2 * PAGE), (USER_MAX, PAGE), (USER_MIN, PAGE), (0, PAGE),
    (USER_MIN, USER_MAX - USER_MIN), (WIDE, HUGE_PAGE), (WIDE, 64 * HUGE_PAGE), (WIDE + PAGE, HUGE_PAGE), (WIDE, 1 << 40),
    (1 << 46, 1 << 46), (ONES - PAGE + 1, PAGE), (ONES - PAGE + 1, 2 * PAGE), (1 << 47, PAGE), (0xFFFF800000000000, 1 << 47),
    (DATA, (1 << 63) - PAGE), (DATA + 1, PAGE), (DATA, 0), (DATA, 1), (CODE, STACK - CODE),
    (DATA - PAGE, DATA_BYTES + 2 * PAGE),
)  # fmt: skip


class Step(NamedTuple):
    """One thing done at `moment` of turn `turn`."""

    turn: int
    moment: int
    operation: str
    address: int = 0
    length: int = 0
    argument: int = 0


def draw(source: Source, turns: int) -> tuple[Step, ...]:
    """Most cases have no script; some have up to four steps."""
    chance = source.unit()
    if chance < 0.75:
        return ()
    return tuple(sorted(_step(source, turns) for _ in range(1 + int((chance - 0.75) * 16))))


def _step(source: Source, turns: int) -> Step:
    turn = source.below(turns)
    moment = source.pick((BEFORE, DURING, LATER))
    operation = source.pick(OPERATIONS if moment == BEFORE else IN_MID_RUN)
    if source.unit() < 0.85:
        address, length = source.pick(_RANGES)
    else:
        address, length = source.address(), source.number() >> 1
    return Step(turn, moment, operation, address, length, source.bits(4))
