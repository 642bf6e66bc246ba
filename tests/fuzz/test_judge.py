"""The judge knows what no guest can bring about."""

from __future__ import annotations

import pytest
from fuzz.judge import legal

from asynckvm.platform import Access, Fault, Instruction, Interrupted, InterruptReason, Syscall

SET = [0] * 16 + [0x400000, 0x202, 0, 0]
CALL = Syscall(1, (0,) * 6, Instruction.SYSCALL)


def fault(signal: int, vector: int = 14) -> Fault:
    return Fault(signal, 1, 0, Access.NONE, vector, 0)


def changed(**words: int) -> list[int]:
    return [words.get(f"w{number}", value) for number, value in enumerate(SET)]


@pytest.mark.parametrize(
    ("exit_", "after"),
    [
        (CALL, changed(w16=0x400002)),
        (fault(11), SET),
        (fault(7), changed(w17=0x10246)),
        (fault(11, -1), SET),
        (Interrupted(InterruptReason.BOUNCED), changed(w17=0x254FD7)),
        (Interrupted(InterruptReason.PREEMPTED), SET),
        (fault(11), changed(w18=0x7FFFFFFFFFFF, w19=0xFFFF800000000000)),
    ],
)
def test_what_guests_do(exit_: Syscall, after: list[int]) -> None:
    assert legal(exit_, SET, after, may_starve=False) == ""


@pytest.mark.parametrize(
    ("exit_", "after", "complaint"),
    [
        (fault(9), SET, "signal 9"),
        (fault(2), SET, "signal 2"),
        (fault(11, -1), changed(w0=1), "not entered"),
        (Interrupted(InterruptReason.CANCELLED), SET, "nobody asked"),
        (Interrupted(InterruptReason.SHOOTDOWN), SET, "nobody asked"),
        (None, SET, "not an exit"),
        (CALL, changed(w17=0x3202), "impossible flags"),
        (CALL, changed(w17=0x20202), "impossible flags"),
        (fault(11), changed(w17=0x2), "impossible flags"),
        (fault(11), changed(w17=0x200), "impossible flags"),
        (fault(11), changed(w17=1 << 32 | 0x202), "impossible flags"),
        (fault(11), changed(w18=0x800000000000), "not canonical"),
        (CALL, changed(w19=1 << 63), "not canonical"),
    ],
)
def test_what_no_guest_can_do(exit_: Syscall, after: list[int], complaint: str) -> None:
    assert complaint in legal(exit_, SET, after, may_starve=False)


def test_out_of_memory_is_legal_for_who_has_a_limit() -> None:
    assert legal(fault(9), SET, SET, may_starve=True) == ""
