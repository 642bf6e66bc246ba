"""Idempotent ring-0 operations as values: what `Machine.retry_in_guest` can be asked to run on a vCPU.

The numbers are the native `enum akvm_operation`. Running and retrying them is `platform.retry`'s work.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final, TypeAlias

__all__ = ["MISC_FEATURES_ENABLES", "Flush", "Nothing", "Operation", "ReadMsr", "WriteMsr"]

# MSR 0x140; bit 0 makes CPUID in ring 3 raise #GP (SDM vol. 4, table 2-2).
MISC_FEATURES_ENABLES: Final = 0x140


@dataclasses.dataclass(frozen=True, slots=True)
class ReadMsr:
    """RDMSR; the result is the 64-bit value."""

    CODE: ClassVar[int] = 0
    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class WriteMsr:
    """WRMSR of a 64-bit value."""

    CODE: ClassVar[int] = 1
    index: int
    value: int


@dataclasses.dataclass(frozen=True, slots=True)
class Flush:
    """Reload CR3: drop the vCPU's non-global translations."""

    CODE: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Nothing:
    """Enter ring 0 and come back: shows that the vCPU is alive."""

    CODE: ClassVar[int] = 3


Operation: TypeAlias = ReadMsr | WriteMsr | Flush | Nothing
