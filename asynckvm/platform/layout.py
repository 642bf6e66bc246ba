"""Where the fields of `struct akvm_context` are, as positions in the two views of `Binding.context_views`.

Python reads contexts through these positions because a field access through cffi costs several times an index. A test
compares every position with the compiled struct.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CONTEXT_BYTES",
    "FIELD_DETAIL",
    "FIELD_ERROR_CODE",
    "FIELD_GENERATION",
    "FIELD_HOST_ERRNO",
    "FIELD_INDEX",
    "FIELD_INTERRUPTS",
    "FIELD_KIND",
    "FIELD_KVM_EXIT_REASON",
    "FIELD_RESTORE",
    "FIELD_SUBMITTED",
    "FIELD_VCPU",
    "FIELD_VECTOR",
    "WORD_ADDRESS",
    "WORD_DIRECT_CALLS",
    "WORD_EXITS",
    "WORD_KIND_VECTOR",
    "WORD_NATIVE_EXITS",
    "WORD_RAN_NS",
    "WORD_STARTED_NS",
    "WORD_TOTAL_NS",
]

# 64-bit words after the twenty registers.
WORD_ADDRESS: Final = 20
WORD_RAN_NS: Final = 21
WORD_TOTAL_NS: Final = 22
WORD_EXITS: Final = 23
WORD_NATIVE_EXITS: Final = 24
WORD_STARTED_NS: Final = 25
WORD_KIND_VECTOR: Final = 26  # kind in the low half, vector in the high one: x86 is little-endian
WORD_DIRECT_CALLS: Final = 32  # one word for each of enum akvm_direct_call

# 32-bit fields.
FIELD_KIND: Final = 52
FIELD_VECTOR: Final = 53
FIELD_ERROR_CODE: Final = 54
FIELD_DETAIL: Final = 55
FIELD_INTERRUPTS: Final = 56
FIELD_KVM_EXIT_REASON: Final = 57
FIELD_HOST_ERRNO: Final = 58  # signed
FIELD_VCPU: Final = 59
FIELD_INDEX: Final = 60
FIELD_GENERATION: Final = 61
FIELD_RESTORE: Final = 62
FIELD_SUBMITTED: Final = 63

CONTEXT_BYTES: Final = 280
