"""The positions by which Python reads contexts are those of the C struct, and the numbers those of the header."""

from __future__ import annotations

import pytest
from unit.platform.fake_core import interface

from asynckvm.model import exits, memory, operations
from asynckvm.model.registers import REGISTER_NAMES, RegisterIndex
from asynckvm.platform import DirectCall, Restore, VcpuState, decode, layout

WORDS = [name for name in layout.__all__ if name.startswith("WORD_")]
FIELDS = [name for name in layout.__all__ if name.startswith("FIELD_")]
ENUMS = {
    "AKVM_DIRECT": DirectCall,
    "AKVM_EXIT": exits.ExitKind,
    "AKVM_FAULT": exits.FaultDetail,
    "AKVM_RESTORE": Restore,
    "AKVM_VCPU": VcpuState,
}
INTERRUPTS = {"BOUNCED": "BOUNCE", "PREEMPTED": "PREEMPT", "CANCELLED": "CANCEL", "CLOSED": "CLOSE"}


@pytest.mark.parametrize("name", [*WORDS, *FIELDS])
def test_positions(name: str) -> None:
    kind, field = name.split("_", 1)
    field = "kind" if name == "WORD_KIND_VECTOR" else field.lower()
    size = 8 if kind == "WORD" else 4
    assert interface().offsetof("struct akvm_context", field) == getattr(layout, name) * size


def test_registers() -> None:
    ffi = interface()
    for position, name in enumerate(REGISTER_NAMES):
        path = (name,) if name in {"fs_base", "gs_base"} else ("registers", name)
        assert ffi.offsetof("struct akvm_context", *path) == 8 * position == 8 * getattr(RegisterIndex, name)
    assert ffi.sizeof("struct akvm_context") == layout.CONTEXT_BYTES


@pytest.mark.parametrize("prefix", ENUMS)
def test_enums(prefix: str) -> None:
    library = interface().dlopen(None)
    for member in ENUMS[prefix]:
        assert getattr(library, f"{prefix}_{member.name}") == member.value


def test_constants() -> None:
    library = interface().dlopen(None)
    for reason in exits.InterruptReason:
        assert getattr(library, f"AKVM_INTERRUPT_{INTERRUPTS.get(str(reason.name), reason.name)}") == reason.value
    for right in memory.Access:
        assert getattr(library, f"AKVM_{right.name}") == right.value
    assert (library.AKVM_USER_MIN, library.AKVM_USER_MAX) == (memory.USER_MIN, memory.USER_MAX)
    assert library.AKVM_FAILURE_HOST == len(decode.FAILURES) - 1
    codes = [operation.CODE for operation in (operations.ReadMsr, operations.WriteMsr, operations.Flush, operations.Nothing)]
    names = ("READ_MSR", "WRITE_MSR", "FLUSH", "NOTHING")
    assert codes == [getattr(library, f"AKVM_OPERATION_{name}") for name in names]
