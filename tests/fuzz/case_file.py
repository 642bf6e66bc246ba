"""Cases as files: the corpus of what once broke something. All of a case is written down, so that it stays what it is when the
grammar changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fuzz.case import REGISTERS, Case, Turn
from fuzz.script import Step
from fuzz.storm import CallRecord, Storm

if TYPE_CHECKING:
    from pathlib import Path


def dump(case: Case | Storm, broke: str) -> str:
    """`broke`: one line on what it broke."""
    if isinstance(case, Storm):
        calls = [[call.number, *(f"{value:#x}" for value in call.args)] for call in case.calls]
        return _text({"broke": broke, "kind": "storm", "calls": calls, "kill_after_ms": case.kill_after_ms})
    data = {
        "broke": broke,
        "kind": "case",
        "names": case.names,
        "code": case.code.hex(),
        "pieces": [f"{piece:#x}" for piece in case.pieces],
        "address": f"{case.address:#x}",
        "fill": case.fill,
        "access": case.access,
        "registers": {name: f"{value:#x}" for name, value in zip(REGISTERS, case.registers, strict=True)},
        "restore": case.restore,
        "image": case.image.hex(),
        "turns": [[f"{turn.answer:#x}", turn.how, turn.register, f"{turn.value:#x}"] for turn in case.turns],
        "steps": [list(step) for step in case.steps],
        "twin": case.twin,
        "answered": case.answered,
    }
    return _text(data)


def load(path: Path) -> tuple[Case | Storm, str]:
    """The case, and what it broke."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["kind"] == "storm":
        calls = tuple(CallRecord(number, tuple(int(value, 16) for value in args)) for number, *args in data["calls"])
        return Storm(0, 0, calls, data["kill_after_ms"]), data["broke"]
    return _case(data), data["broke"]


def _case(data: dict[str, Any]) -> Case:
    return Case(
        0,
        0,
        tuple(data["names"]),
        bytes.fromhex(data["code"]),
        tuple(int(piece, 16) for piece in data["pieces"]),
        int(data["address"], 16),
        data["fill"],
        data["access"],
        tuple(int(data["registers"][name], 16) for name in REGISTERS),
        data["restore"],
        bytes.fromhex(data["image"]),
        tuple(Turn(int(answer, 16), how, register, int(value, 16)) for answer, how, register, value in data["turns"]),
        tuple(Step(*step) for step in data["steps"]),
        data["twin"],
        data["answered"],
    )


def _text(data: dict[str, Any]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
