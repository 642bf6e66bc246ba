"""The vector table against Linux, row by row, and the decoding of status registers against the manual."""

from __future__ import annotations

import pytest

from asynckvm.model import signals
from asynckvm.model.exits import FaultDetail
from asynckvm.model.memory import Access
from asynckvm.model.signals import SEED_DEVIATIONS, SI_KERNEL, VECTORS, Address

# (signal, code, si_addr is RIP) of arch/x86/kernel/traps.c, in Linux 6.x, written down independently of the table.
LINUX = {
    0: (8, 1, True),  # exc_divide_error: FPE_INTDIV
    1: (5, 1, True),  # exc_debug_user without a step: TRAP_BRKPT
    3: (5, SI_KERNEL, False),  # do_int3_user: do_trap(..., 0, NULL)
    4: (11, SI_KERNEL, False),  # exc_overflow
    5: (11, SI_KERNEL, False),  # exc_bounds
    6: (4, 2, True),  # handle_invalid_op: ILL_ILLOPN
    9: (8, SI_KERNEL, False),  # exc_coproc_segment_overrun
    10: (11, SI_KERNEL, False),  # exc_invalid_tss
    11: (7, SI_KERNEL, False),  # exc_segment_not_present
    12: (7, SI_KERNEL, False),  # exc_stack_segment
    13: (11, SI_KERNEL, False),  # exc_general_protection
    16: (8, 7, True),  # math_error, refined
    17: (7, 1, False),  # exc_alignment_check: BUS_ADRALN
    19: (8, 7, True),  # math_error, refined
}


def test_every_row() -> None:
    assert {vector: (row.signal, row.code, row.address is Address.RIP) for vector, row in VECTORS.items()} == LINUX


def test_vectors_without_a_row_are_those_no_program_raises() -> None:
    assert set(range(32)) - set(VECTORS) == {2, 7, 8, 14, 15, 18, *range(20, 32)}


def test_deviations_are_about_rows_that_exist() -> None:
    assert {deviation.vector for deviation in SEED_DEVIATIONS} <= set(VECTORS) | {2, 14}
    assert all(deviation.seed != deviation.ours for deviation in SEED_DEVIATIONS)


@pytest.mark.parametrize(
    ("raised", "code"), [(1, 7), (4, 3), (8, 4), (2, 5), (16, 5), (32, 6), (0, 7), (63, 7), (62, 3), (58, 4), (50, 5)]
)
def test_float_flags_in_linux_order(raised: int, code: int) -> None:
    assert signals.float_code(raised) == code
    assert signals.x87_code(0x37F & ~raised, raised) == code
    assert signals.x87_code(0x37F & ~raised, 0x3F) == code
    assert signals.sse_code(0x1F80 & ~(raised << 7) | 0x3F) == code


def test_masked_flags_do_not_count() -> None:
    assert signals.x87_code(0x37F & ~0x04, 0x05) == signals.FPE_FLTDIV
    assert signals.sse_code(0x1F80 & ~(0x08 << 7) | 0x09) == signals.FPE_FLTOVF


def test_single_step_and_int1() -> None:
    assert (signals.debug_code(0x302), signals.debug_code(0x202)) == (2, 1)


@pytest.mark.parametrize(
    ("error", "access"),
    [(4, Access.READ), (5, Access.READ), (6, Access.WRITE), (7, Access.WRITE), (0x14, Access.EXECUTE), (0x15, Access.EXECUTE)],
)
def test_access_of_a_page_fault(error: int, access: Access) -> None:
    assert signals.page_fault_access(error) == access
    assert signals.page_fault_access(error | 0x8020) == access


def test_page_faults_by_region() -> None:
    found = {detail: signals.page_fault_signal(detail) for detail in FaultDetail}
    assert found == {
        FaultDetail.NONE: (11, 1),
        FaultDetail.UNMAPPED: (11, 1),
        FaultDetail.ACCESS: (11, 2),
        FaultDetail.BUS: (7, 2),
        FaultDetail.MEMORY: (9, SI_KERNEL),
        FaultDetail.LIMIT: (9, SI_KERNEL),
    }
    assert signals.page_fault_signal(77) == (11, 1)
