"""From the native record of an exit to the value that `switch()` returns.

Reads a context that is off its vCPU; decides nothing about scheduling and nothing about what a program should do.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestTrapError, HostError, InternalError, OutOfMemoryError
from asynckvm.model.exits import (
    ExitKind,
    Fault,
    Instruction,
    Interrupted,
    InterruptReason,
    Syscall,
    strongest,
)
from asynckvm.model.memory import Access
from asynckvm.model.signals import (
    DEBUG,
    PAGE_FAULT,
    SSE_FAULT,
    VECTORS,
    X87_FAULT,
    Address,
    debug_code,
    page_fault_access,
    page_fault_signal,
    sse_code,
    x87_code,
)
from asynckvm.platform.binding import HINT_PROCESSES
from asynckvm.platform.layout import (
    FIELD_DETAIL,
    FIELD_ERROR_CODE,
    FIELD_HOST_ERRNO,
    FIELD_INTERRUPTS,
    FIELD_KIND,
    FIELD_KVM_EXIT_REASON,
    FIELD_VECTOR,
    WORD_ADDRESS,
    WORD_KIND_VECTOR,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.errors import AsyncKvmError
    from asynckvm.model.exits import Exit

__all__ = ["FAILURES", "INTERRUPTED", "SYSCALL_WORD", "decode", "decode_failure", "decode_syscall"]

# Kind and vector of the commonest exit in one comparison.
SYSCALL_WORD: Final = ExitKind.SYSCALL | Instruction.SYSCALL << 32
_SYSCALL: Final = Instruction.SYSCALL
_INT80: Final = Instruction.INT80
_LOW: Final = 0xFFFF_FFFF

INTERRUPTED: Final = {int(reason): Interrupted(reason) for reason in InterruptReason}

# enum akvm_failure.
FAILURES: Final = (
    "none",
    "KVM_RUN failed",
    "unexpected exit reason",
    "exception in ring 0",
    "impossible registers",
    "host call failed",
)


def decode_syscall(words: memoryview, new: Callable[..., Syscall] = tuple.__new__) -> Syscall:
    """A SYSCALL; the hot path. Number and arguments as Linux's entry code reads them."""
    return new(Syscall, (words[0] & _LOW, (words[5], words[4], words[3], words[10], words[8], words[9]), _SYSCALL))


def decode(words: memoryview, fields: memoryview, read_xsave: Callable[[], bytes]) -> Exit:
    """Any exit of a guest. Raises GuestTrapError for vectors no program can raise, InternalError for kinds that are none."""
    kind = fields[FIELD_KIND]
    if kind == ExitKind.SYSCALL:
        if words[WORD_KIND_VECTOR] == SYSCALL_WORD:
            return decode_syscall(words)
        args = (words[1] & _LOW, words[2] & _LOW, words[3] & _LOW, words[4] & _LOW, words[5] & _LOW, words[7] & _LOW)
        return Syscall(words[0] & _LOW, args, _INT80)
    if kind == ExitKind.FAULT:
        return _decode_fault(words, fields, read_xsave)
    if kind == ExitKind.INTERRUPTED:
        return INTERRUPTED[strongest(fields[FIELD_INTERRUPTS])]
    raise InternalError(f"a context came back with exit kind {kind}")


def _decode_fault(words: memoryview, fields: memoryview, read_xsave: Callable[[], bytes]) -> Fault:
    vector, error_code = fields[FIELD_VECTOR], fields[FIELD_ERROR_CODE]
    rip, rflags = words[16], words[17]
    if vector == PAGE_FAULT:
        signal, code = page_fault_signal(fields[FIELD_DETAIL])
        return Fault(signal, code, words[WORD_ADDRESS], page_fault_access(error_code), vector, error_code)
    row = VECTORS.get(vector)
    if row is None:
        raise GuestTrapError(vector, error_code, rip)
    code = row.code
    if vector == DEBUG:
        code = debug_code(rflags)
    elif vector in {X87_FAULT, SSE_FAULT}:
        # FXSAVE area of the XSAVE image: FCW at 0, FSW at 2, MXCSR at 24 (SDM vol. 1, 10.5.1).
        image = read_xsave()
        if vector == X87_FAULT:
            code = x87_code(int.from_bytes(image[0:2], "little"), int.from_bytes(image[2:4], "little"))
        else:
            code = sse_code(int.from_bytes(image[24:28], "little"))
    return Fault(row.signal, code, rip if row.address is Address.RIP else 0, Access.NONE, vector, error_code)


def decode_failure(fields: memoryview, dump: Callable[[], str]) -> AsyncKvmError:
    """The typed error of an AKVM_EXIT_ERROR. Of what can run out, processes are where each address space is one: on ptrace."""
    detail = fields[FIELD_DETAIL]
    host_errno = fields[FIELD_HOST_ERRNO]
    if host_errno >> 31:  # the field is signed, the view is not
        host_errno = (1 << 32) - host_errno
    name = FAILURES[detail] if detail < len(FAILURES) else f"failure {detail}"
    if host_errno in {errno.ENOMEM, errno.ENOSPC}:
        return OutOfMemoryError(name, host_errno, "the host has no memory for this guest: lower memory= or raise the limit")
    if host_errno == errno.EAGAIN:
        return HostError(name, host_errno, HINT_PROCESSES)
    reason = fields[FIELD_KVM_EXIT_REASON]
    return InternalError(f"{name} (exit reason {reason}, errno {host_errno})", dump())
