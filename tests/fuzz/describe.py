"""Cases and results as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzz.case import REGISTERS
from fuzz.storm import Storm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fuzz.case import Case

_HEX_COLUMNS = 96


def describe(case: Case | Storm) -> str:
    """All of a case."""
    if isinstance(case, Storm):
        lines = [f"storm {case.seed}:{case.number}, killed after {case.kill_after_ms} ms"]
        lines += [f"  call {call.number}({', '.join(f'{value:#x}' for value in call.args)})" for call in case.calls]
        return "\n".join(lines)
    code = case.code.hex()
    values = [f"{name} {value:#x}" for name, value in zip(REGISTERS, case.registers, strict=True)]
    lines = [f"case {case.seed}:{case.number}: {', '.join(case.names)}", f"  code at {case.address:#x}, access {case.access}:"]
    lines += [f"    {code[start : start + _HEX_COLUMNS]}" for start in range(0, len(code), _HEX_COLUMNS)]
    lines += [f"  {', '.join(values[start : start + 5])}" for start in range(0, len(values), 5)]
    lines.append(f"  restore {case.restore}, fill {case.fill:#x}, pieces {', '.join(f'{piece:#x}' for piece in case.pieces)}")
    lines.append(f"  twin {case.twin}, answered {case.answered}")
    if case.image:
        lines.append(f"  XSAVE image {case.image.hex()}")
    lines += [f"  turn {number}: {turn}" for number, turn in enumerate(case.turns)]
    lines += [f"  {step}" for step in case.steps]
    return "\n".join(lines)


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Two columns."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
