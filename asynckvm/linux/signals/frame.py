"""struct rt_sigframe: what a thread was doing, written to its stack for a handler to see, and read back by rt_sigreturn(2).

Pure: from registers and values to (address, bytes) and new registers, and from bytes to values; nobody's memory is touched. What
comes back was in the guest's hands, so only what Linux lets a program change is taken from it. Source:
arch/x86/kernel/signal.c (get_sigframe), signal_64.c (x64_setup_rt_frame, restore_sigcontext), uapi/asm/sigcontext.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.signals import altstack, xstate
from asynckvm.linux.signals.altstack import AlternateStack
from asynckvm.linux.signals.numbers import SA_ONSTACK, SA_RESTORER, SA_SIGINFO
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import REGISTER_NAMES, Registers

if TYPE_CHECKING:
    from asynckvm.linux.signals.action import Action
    from asynckvm.linux.signals.info import SigInfo

# The ABI leaves this much below the stack pointer to the function that runs.
_RED_ZONE: Final = 128
_ALIGNMENT: Final = 16
_UC_FP_XSTATE, _UC_SIGCONTEXT_SS, _UC_STRICT_RESTORE_SS = 1, 2, 4
_UC_FLAGS: Final = _UC_FP_XSTATE | _UC_SIGCONTEXT_SS | _UC_STRICT_RESTORE_SS
_USER_CS: Final = 0x33
_USER_SS: Final = 0x2B
_RING3: Final = 3

_POINTER: Final = struct.Struct("<Q")
# uc_flags, uc_link; then stack_t, struct sigcontext, the mask.
_CONTEXT_HEAD: Final = struct.Struct("<QQ")
_ORDER: Final = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip",
)  # fmt: skip
# The registers above, flags; cs gs fs ss; err trapno oldmask cr2 fpstate; reserved.
_SIGCONTEXT: Final = struct.Struct("<18Q4H5Q64x")
_CONTEXT_BYTES: Final = _CONTEXT_HEAD.size + altstack.BYTES + _SIGCONTEXT.size + _POINTER.size
_FRAME_BYTES: Final = _POINTER.size + _CONTEXT_BYTES + 128
_INFO_OFFSET: Final = _POINTER.size + _CONTEXT_BYTES
# What rt_sigreturn(2) reads: the frame without pretcode, which the handler's `ret` has taken off, and without siginfo.
CONTEXT_BYTES: Final = _CONTEXT_BYTES

_CF, _PF, _AF, _ZF, _SF, _TF, _DF, _OF, _RF, _AC = 0x1, 0x4, 0x10, 0x40, 0x80, 0x100, 0x400, 0x800, 0x10000, 0x40000
# FIX_EFLAGS: those that a program's frame may set.
_FLAGS_RESTORED: Final = _CF | _PF | _AF | _ZF | _SF | _TF | _DF | _OF | _RF | _AC
_FLAGS_CLEARED: Final = _DF | _RF | _TF


class Trap(NamedTuple):
    """The last exception of a thread: vector, error code, CR2. A frame shows it whatever the signal is."""

    number: int = 0
    error_code: int = 0
    address: int = 0


class Frame(NamedTuple):
    """A frame to write: at `address`, and its FP state at `fp_address`. `registers` are those the handler starts with."""

    address: int
    content: bytes
    fp_address: int
    registers: Registers


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a frame says about the interrupted thread. `segments_valid`: an IRET to it would not fault."""

    registers: Registers
    mask: int
    stack: AlternateStack
    fp_address: int
    segments_valid: bool


def minimum_stack_bytes(area: int) -> int:
    """AT_MINSIGSTKSZ: what delivering one signal takes, with all alignment lost."""
    padding = xstate.ALIGNMENT + _ALIGNMENT + _POINTER.size
    size = _FRAME_BYTES + xstate.frame_bytes(area) + padding
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


def build(
    info: SigInfo, action: Action, registers: Registers, mask: int, stack: AlternateStack, trap: Trap, area: int
) -> Frame | None:
    """The frame of a handler, with `mask` to be restored after it; None when it has no place, or nowhere to return to."""
    if not action.flags & SA_RESTORER:
        return None
    place = _place(registers.rsp, stack, area, on_stack=bool(action.flags & SA_ONSTACK))
    if place is None:
        return None
    address, fp_address = place
    content = b"".join(
        (
            _POINTER.pack(action.restorer),
            _CONTEXT_HEAD.pack(_UC_FLAGS, 0),
            stack.pack(),
            _pack_sigcontext(registers, mask, trap, fp_address),
            _POINTER.pack(mask),
            info.pack() if action.flags & SA_SIGINFO else b"",
        )
    )
    changed = registers.replace(
        rdi=info.number,
        rsi=address + _INFO_OFFSET,
        rdx=address + _POINTER.size,
        rax=0,
        rsp=address,
        rip=action.handler,
        rflags=registers.rflags & ~_FLAGS_CLEARED,
    )
    return Frame(address, content, fp_address, changed)


def _place(stack_pointer: int, stack: AlternateStack, area: int, *, on_stack: bool) -> tuple[int, int] | None:
    """(frame, FP state) below the red zone, or on the alternate stack; None where an alternate stack has no room."""
    entering = on_stack and stack.is_entered(stack_pointer)
    nested = stack.is_used(stack_pointer)
    top = stack.pointer + stack.size if entering else stack_pointer - _RED_ZONE
    fp_address = (top - xstate.frame_bytes(area)) // xstate.ALIGNMENT * xstate.ALIGNMENT
    address = (fp_address - _FRAME_BYTES) // _ALIGNMENT * _ALIGNMENT - _POINTER.size
    if (entering or nested) and not stack.contains(address):
        return None
    # Whoever writes it refuses what is mapped to nobody; this keeps numbers in the range of an address.
    return (address, fp_address) if 0 <= address < fp_address + xstate.frame_bytes(area) <= USER_MAX else None


def _pack_sigcontext(registers: Registers, mask: int, trap: Trap, fp_address: int) -> bytes:
    return _SIGCONTEXT.pack(
        *(getattr(registers, name) for name in _ORDER), registers.rflags,
        _USER_CS, 0, 0, _USER_SS,
        trap.error_code, trap.number, mask, trap.address, fp_address,
    )  # fmt: skip


def parse(image: bytes, registers: Registers) -> Interrupted:
    """What to go on with, from the CONTEXT_BYTES at the stack pointer of rt_sigreturn(2) and the registers it was called with."""
    flags, _ = _CONTEXT_HEAD.unpack_from(image)
    stack_offset = _CONTEXT_HEAD.size
    offset = stack_offset + altstack.BYTES
    fields = _SIGCONTEXT.unpack_from(image, offset)
    values = dict(zip(_ORDER, fields, strict=False))
    rflags, cs, ss, fp_address = fields[17], fields[18], fields[21], fields[26]
    values["rflags"] = registers.rflags & ~_FLAGS_RESTORED | rflags & _FLAGS_RESTORED
    return Interrupted(
        registers=registers.replace(**values),
        mask=_POINTER.unpack_from(image, offset + _SIGCONTEXT.size)[0],
        stack=altstack.unpack(image[stack_offset:offset]),
        fp_address=fp_address,
        # A program that does not ask for its own SS gets ours.
        segments_valid=cs | _RING3 == _USER_CS and (not flags & _UC_STRICT_RESTORE_SS or ss | _RING3 == _USER_SS),
    )


assert set(_ORDER) < set(REGISTER_NAMES)
