"""What `await context.switch()` returns: the three ways in which a guest comes back, as frozen values for `match`.

The numbers of native exit kinds and interrupt bits are written down here once for the Python side. Nothing here reads native
memory (that is `platform.decode`) and nothing decides what an exit means for a program.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from asynckvm.model.memory import Access

__all__ = [
    "INTERRUPT_PRIORITY",
    "Exit",
    "ExitKind",
    "Fault",
    "FaultDetail",
    "Instruction",
    "InterruptReason",
    "Interrupted",
    "Syscall",
    "strongest",
]


class Instruction(enum.IntEnum):
    """Which instruction asked for a system call; the value is the vector reported by the core."""

    INT80 = 0x80
    SYSCALL = 0x100


class InterruptReason(enum.IntFlag):
    """Why a run was made to return. The values are the native AKVM_INTERRUPT_* bits."""

    BOUNCED = 1
    PREEMPTED = 2
    CANCELLED = 4
    TIMEOUT = 8
    SHOOTDOWN = 16
    CLOSED = 32


# Several interrupts of one run collapse into one; the first of these that is among them is reported. What ends a guest comes
# before what only delays it: a caller that is told CANCELLED needs no word of a preemption, but not the other way round.
INTERRUPT_PRIORITY: Final = (
    InterruptReason.CLOSED,
    InterruptReason.CANCELLED,
    InterruptReason.TIMEOUT,
    InterruptReason.BOUNCED,
    InterruptReason.PREEMPTED,
    InterruptReason.SHOOTDOWN,
)


def strongest(bits: int) -> InterruptReason:
    """The reason to report for a set of interrupt bits; BOUNCED when no known bit is set."""
    for reason in INTERRUPT_PRIORITY:
        if bits & reason:
            return reason
    return InterruptReason.BOUNCED


class ExitKind(enum.IntEnum):
    """enum akvm_exit_kind."""

    NONE = 0
    SYSCALL = 1
    FAULT = 2
    INTERRUPTED = 3
    OPERATION = 4
    ERROR = 5


class FaultDetail(enum.IntEnum):
    """enum akvm_fault: why the core could not serve a page fault itself."""

    NONE = 0
    UNMAPPED = 1
    ACCESS = 2
    BUS = 3
    MEMORY = 4
    LIMIT = 5


class Syscall(NamedTuple):
    """A system call. RIP is past the instruction; answer by setting RAX and switching again.

    `number`: EAX, 32 bits, as Linux reads it. `args`: for SYSCALL rdi rsi rdx r10 r8 r9 (64 bits); for INT 0x80
    ebx ecx edx esi edi ebp (32 bits).
    """

    number: int
    args: tuple[int, int, int, int, int, int]
    instruction: Instruction = Instruction.SYSCALL


class Fault(NamedTuple):
    """An exception of the guest, with the siginfo that Linux would deliver.

    `signal`, `code`, `address`: si_signo, si_code, si_addr. `access`: what a page fault tried, else NONE. `vector` and
    `error_code`: the processor's; vector -1 for a fault found before the entry (non-canonical registers).
    """

    signal: int
    code: int
    address: int
    access: Access
    vector: int
    error_code: int


class Interrupted(NamedTuple):
    """The run was made to return before the guest did anything; switching again continues it."""

    reason: InterruptReason


Exit: TypeAlias = Syscall | Fault | Interrupted
