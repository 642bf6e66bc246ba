"""Which signal a Linux kernel sends for each exception vector: (signal, code, address) as arch/x86/kernel/traps.c has it.

One table, one function. Whether a program has a handler for the signal is not known here, and status registers come in as
arguments: nothing is read from the guest.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from asynckvm.model.exits import FaultDetail
from asynckvm.model.memory import Access

__all__ = [
    "PAGE_FAULT",
    "SEED_DEVIATIONS",
    "SIGBUS",
    "SIGFPE",
    "SIGILL",
    "SIGKILL",
    "SIGSEGV",
    "SIGTRAP",
    "SI_KERNEL",
    "VECTORS",
    "Address",
    "Deviation",
    "Row",
    "float_code",
    "page_fault_access",
    "page_fault_signal",
    "sse_code",
    "x87_code",
]

SIGILL: Final = 4
SIGTRAP: Final = 5
SIGBUS: Final = 7
SIGFPE: Final = 8
SIGKILL: Final = 9
SIGSEGV: Final = 11

SI_KERNEL: Final = 0x80
ILL_ILLOPN: Final = 2
TRAP_BRKPT: Final = 1
TRAP_TRACE: Final = 2
FPE_INTDIV: Final = 1
FPE_FLTDIV: Final = 3
FPE_FLTOVF: Final = 4
FPE_FLTUND: Final = 5
FPE_FLTRES: Final = 6
FPE_FLTINV: Final = 7
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRALN: Final = 1
BUS_ADRERR: Final = 2

DEBUG: Final = 1
PAGE_FAULT: Final = 14
X87_FAULT: Final = 16
SSE_FAULT: Final = 19

_TRAP_FLAG: Final = 1 << 8


class Address(enum.Enum):
    """What a row puts into si_addr."""

    ZERO = "0"
    RIP = "the interrupted instruction (after it, for traps)"


class Row(NamedTuple):
    """Signal, code and address of one vector."""

    signal: int
    code: int
    address: Address
    name: str


# Total over what ring 3 can raise. #PF (14) has its own function; #DB, #MF and #XM refine the code given here. Absent vectors
# (NMI, #DF, #MC, #VE, #CP, 32 and up) cannot come from a program that runs on this machine's kernel half: they end the guest
# with GuestTrapError. #NM is absent because FPU state is always loaded: Linux would die on it as well.
VECTORS: Final[dict[int, Row]] = {
    0: Row(SIGFPE, FPE_INTDIV, Address.RIP, "#DE"),
    1: Row(SIGTRAP, TRAP_BRKPT, Address.RIP, "#DB"),
    3: Row(SIGTRAP, SI_KERNEL, Address.ZERO, "#BP"),
    4: Row(SIGSEGV, SI_KERNEL, Address.ZERO, "#OF"),
    5: Row(SIGSEGV, SI_KERNEL, Address.ZERO, "#BR"),
    6: Row(SIGILL, ILL_ILLOPN, Address.RIP, "#UD"),
    9: Row(SIGFPE, SI_KERNEL, Address.ZERO, "coprocessor segment overrun"),
    10: Row(SIGSEGV, SI_KERNEL, Address.ZERO, "#TS"),
    11: Row(SIGBUS, SI_KERNEL, Address.ZERO, "#NP"),
    12: Row(SIGBUS, SI_KERNEL, Address.ZERO, "#SS"),
    13: Row(SIGSEGV, SI_KERNEL, Address.ZERO, "#GP"),
    16: Row(SIGFPE, FPE_FLTINV, Address.RIP, "#MF"),
    17: Row(SIGBUS, BUS_ADRALN, Address.ZERO, "#AC"),
    19: Row(SIGFPE, FPE_FLTINV, Address.RIP, "#XM"),
}


class Deviation(NamedTuple):
    """Where the KVM platform that this design descends from tells a program something else than Linux does."""

    vector: int
    seed: str
    ours: str
    why: str


SEED_DEVIATIONS: Final = (
    Deviation(1, "SIGTRAP 1, RIP", "SIGTRAP TRAP_TRACE when RFLAGS.TF is set, else TRAP_BRKPT; RIP", "send_sigtrap()"),
    Deviation(3, "SIGTRAP 1, RIP", "SIGTRAP SI_KERNEL, 0", "do_int3_user()"),
    Deviation(4, "SIGFPE 2", "SIGSEGV SI_KERNEL, 0", "exc_overflow()"),
    Deviation(5, "SIGSEGV SI_KERNEL, RIP", "SIGSEGV SI_KERNEL, 0", "exc_bounds(); there is no MPX"),
    Deviation(6, "SIGILL ILL_ILLOPC", "SIGILL ILL_ILLOPN, RIP", "handle_invalid_op()"),
    Deviation(9, "panic of the process", "SIGFPE SI_KERNEL, 0", "exc_coproc_segment_overrun()"),
    Deviation(10, "SIGSEGV SI_KERNEL, RIP", "SIGSEGV SI_KERNEL, 0", "exc_invalid_tss()"),
    Deviation(11, "SIGSEGV SI_KERNEL, RIP", "SIGBUS SI_KERNEL, 0", "exc_segment_not_present()"),
    Deviation(12, "SIGSEGV SI_KERNEL, RIP", "SIGBUS SI_KERNEL, 0", "exc_stack_segment()"),
    Deviation(13, "SIGSEGV SI_KERNEL, RIP", "SIGSEGV SI_KERNEL, 0", "gp_user_force_sig_segv()"),
    Deviation(
        14, "code by the W bit", "MAPERR without a region, ACCERR against its rights", "bad_area(), bad_area_access_error()"
    ),
    Deviation(16, "SIGFPE 7", "SIGFPE decoded from FSW and FCW", "fpu__exception_code()"),
    Deviation(17, "SIGBUS BUS_ADRERR", "SIGBUS BUS_ADRALN, 0", "exc_alignment_check()"),
    Deviation(19, "SIGFPE 7", "SIGFPE decoded from MXCSR", "fpu__exception_code()"),
    Deviation(2, "SIGBUS (NMI injected on EFAULT)", "#PF with detail BUS: SIGBUS BUS_ADRERR, CR2", "do_sigbus()"),
)


def float_code(raised: int) -> int:
    """si_code for unmasked x87/SSE exception flags (IE DE ZE OE UE PE in bits 0..5), in Linux's order of precedence."""
    if raised & 0x01:
        return FPE_FLTINV
    if raised & 0x04:
        return FPE_FLTDIV
    if raised & 0x08:
        return FPE_FLTOVF
    if raised & 0x12:
        return FPE_FLTUND
    if raised & 0x20:
        return FPE_FLTRES
    # Linux takes this for a spurious exception and returns to the program; with the status unknown there must be some code.
    return FPE_FLTINV


def x87_code(control: int, status: int) -> int:
    """si_code of #MF from FCW and FSW (SDM vol. 1, 8.5)."""
    return float_code(status & ~control & 0x3F)


def sse_code(mxcsr: int) -> int:
    """si_code of #XM from MXCSR: flags in bits 0..5, their masks in bits 7..12 (SDM vol. 1, 10.2.3)."""
    return float_code(mxcsr & ~(mxcsr >> 7) & 0x3F)


def debug_code(rflags: int) -> int:
    """si_code of #DB in ring 3, which has no debug registers: a single step, or INT1."""
    return TRAP_TRACE if rflags & _TRAP_FLAG else TRAP_BRKPT


_ACCESS_BY_ERROR: Final = tuple(
    Access.EXECUTE if error & 0x10 else Access.WRITE if error & 0x02 else Access.READ for error in range(32)
)


def page_fault_access(error_code: int) -> Access:
    """What a page fault tried, from its error code: bit 4 fetch, bit 1 write, else read (SDM vol. 3, 4.7)."""
    return _ACCESS_BY_ERROR[error_code & 0x1F]


_PAGE_FAULTS: Final[dict[int, tuple[int, int]]] = {
    FaultDetail.UNMAPPED: (SIGSEGV, SEGV_MAPERR),
    FaultDetail.ACCESS: (SIGSEGV, SEGV_ACCERR),
    FaultDetail.BUS: (SIGBUS, BUS_ADRERR),
    # Out of memory, whether the machine's or the space's own limit: what Linux's OOM killer sends.
    FaultDetail.MEMORY: (SIGKILL, SI_KERNEL),
    FaultDetail.LIMIT: (SIGKILL, SI_KERNEL),
}


def page_fault_signal(detail: int) -> tuple[int, int]:
    """(signal, code) of a page fault the core could not serve; an unknown detail counts as unmapped."""
    return _PAGE_FAULTS.get(detail, (SIGSEGV, SEGV_MAPERR))
