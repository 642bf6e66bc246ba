"""Signal frames: laid out as the C library's ucontext_t says, and read back as Linux does, hostile ones included."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from asynckvm.linux.signals import frame as frames
from asynckvm.linux.signals import xstate
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.altstack import SS_AUTODISARM, AlternateStack
from asynckvm.linux.signals.frame import Frame, Trap
from asynckvm.linux.signals.info import SigInfo
from asynckvm.linux.signals.numbers import SA_ONSTACK, SA_RESTORER, SA_SIGINFO
from asynckvm.model.registers import REGISTER_NAMES, Registers

AVX, AVX512 = 7, 0xE7
IMAGE_BYTES = 4096
AREA = xstate.area_bytes(AVX, IMAGE_BYTES)
STACK = 0x7FFE_0000_1238
FLAGS = 0x202 | 0x400 | 0x100 | 0x10000 | 0x8D5
REGISTERS = Registers(**{name: 0x1111 * (number + 1) for number, name in enumerate(REGISTER_NAMES)}).replace(
    rsp=STACK, rflags=FLAGS
)
ACTION = Action(0x401000, SA_SIGINFO | SA_RESTORER, 0x402000, 0)
INFO = SigInfo(10, -1, union=bytes(range(32)))
# gregset_t of <sys/ucontext.h> begins this far into the frame: pretcode, uc_flags, uc_link, uc_stack.
GREGS = 8 + 40


def build(action: Action = ACTION, registers: Registers = REGISTERS, stack: AlternateStack | None = None) -> Frame | None:
    return frames.build(INFO, action, registers, 0x55AA, stack or AlternateStack(), Trap(14, 6, 0xDEAD000), AREA)


def built(**options: Any) -> Frame:
    frame = build(**options)
    assert frame is not None
    return frame


def test_where_a_frame_lies() -> None:
    frame = built()
    assert frame.fp_address % 64 == 0
    assert (frame.address + 8) % 16 == 0
    assert frame.fp_address + AREA + 4 <= STACK - 128
    assert frame.address + len(frame.content) <= frame.fp_address
    assert STACK - frame.address < frames.minimum_stack_bytes(AREA) + 128


def test_what_a_frame_says() -> None:
    frame = built()
    content = frame.content
    assert struct.unpack_from("<QQQQI4xQ", content) == (0x402000, 7, 0, 0, 2, 0)
    order = [*(f"r{number}" for number in range(8, 16)), "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "rflags"]
    assert struct.unpack_from("<18Q", content, GREGS) == tuple(getattr(REGISTERS, name) for name in order)
    assert struct.unpack_from("<4H4QQ", content, GREGS + 144) == (0x33, 0, 0, 0x2B, 6, 14, 0x55AA, 0xDEAD000, frame.fp_address)
    assert struct.unpack_from("<Q", content, 8 + 296) == (0x55AA,)
    assert content[8 + 304 :] == INFO.pack()


def test_what_a_handler_starts_with() -> None:
    frame = built()
    registers = frame.registers
    assert (registers.rdi, registers.rsi, registers.rdx) == (10, frame.address + 312, frame.address + 8)
    assert (registers.rax, registers.rsp, registers.rip) == (0, frame.address, 0x401000)
    assert registers.rflags == FLAGS & ~0x10500
    assert (registers.rbx, registers.fs_base) == (REGISTERS.rbx, REGISTERS.fs_base)


def test_without_siginfo_none_is_written() -> None:
    assert len(built(action=Action(1, SA_RESTORER, 2, 0)).content) == 312


def test_without_restorer_there_is_no_frame() -> None:
    assert build(action=Action(1, SA_SIGINFO, 0, 0)) is None


@pytest.mark.parametrize("stack_pointer", [0, 100, 500, 0x7FFF_FFFF_FFFF, 1 << 63, (1 << 64) - 8])
def test_stack_pointers_that_point_nowhere(stack_pointer: int) -> None:
    assert build(registers=REGISTERS.replace(rsp=stack_pointer)) is None


def test_the_alternate_stack_is_entered_once() -> None:
    action = Action(1, SA_RESTORER | SA_ONSTACK, 2, 0)
    stack = AlternateStack(0x10000, 0, 8192)
    frame = built(action=action, stack=stack)
    assert 0x10000 < frame.address < frame.fp_address + AREA <= 0x12000
    nested = built(action=action, stack=stack, registers=frame.registers)
    assert 0x10000 < nested.address < frame.address - 128
    assert built(stack=stack).address > 0x12000


def test_an_alternate_stack_that_is_too_small_has_no_frame() -> None:
    action = Action(1, SA_RESTORER | SA_ONSTACK, 2, 0)
    assert build(action=action, stack=AlternateStack(0x10000, 0, 1024)) is None
    stack = AlternateStack(0x10000, 0, 8192)
    assert build(stack=stack, registers=REGISTERS.replace(rsp=0x10200)) is None


def test_a_stack_that_disarms_itself_is_entered_again() -> None:
    stack = AlternateStack(0x10000, SS_AUTODISARM, 8192)
    frame = built(action=Action(1, SA_RESTORER | SA_ONSTACK, 2, 0), stack=stack, registers=REGISTERS.replace(rsp=0x10800))
    assert frame.address > 0x10800
    assert struct.unpack_from("<I", frame.content, 8 + 24) == (SS_AUTODISARM,)


# ---------------------------------------------------------------- and back


def changed(content: bytes, offset: int, layout: str, *values: int) -> bytes:
    image = bytearray(content)
    struct.pack_into("<" + layout, image, offset, *values)
    return bytes(image)


def parse(content: bytes, registers: Registers = Registers()) -> frames.Interrupted:  # noqa: B008
    return frames.parse(content[8 : 8 + frames.CONTEXT_BYTES], registers)


def test_a_frame_comes_back() -> None:
    frame = built(stack=AlternateStack(0x10000, 0, 8192))
    before = parse(frame.content, REGISTERS.replace(rflags=0x202))
    assert before.registers == REGISTERS
    assert before == frames.Interrupted(before.registers, 0x55AA, AlternateStack(0x10000, 0, 8192), frame.fp_address, True)


def test_only_harmless_flags_come_back() -> None:
    content = changed(built().content, GREGS + 17 * 8, "Q", (1 << 64) - 1)
    assert parse(content, Registers(rflags=0x202)).registers.rflags == 0x50DD5 | 0x202
    content = changed(content, GREGS + 17 * 8, "Q", 0)
    assert parse(content, Registers(rflags=0x200202)).registers.rflags == 0x200202


@pytest.mark.parametrize(
    ("cs", "ss", "uc_flags", "valid"),
    [
        (0x33, 0x2B, 7, True),
        (0x30, 0x28, 7, True),
        (0x23, 0x2B, 7, False),
        (0, 0x2B, 7, False),
        (0x33, 0, 7, False),
        (0x33, 0, 3, True),
    ],
)
def test_segments(cs: int, ss: int, uc_flags: int, valid: bool) -> None:
    content = changed(built().content, GREGS + 144, "4H", cs, 0, 0, ss)
    assert parse(changed(content, 8, "Q", uc_flags)).segments_valid is valid


# ---------------------------------------------------------------- FP state


def image(xcr0: int = AVX) -> bytes:
    """An image in which every byte that belongs to a component is different from its neighbours."""
    state = bytearray(xstate.initial(IMAGE_BYTES))
    for start, end in ((0, 24), (32, 416), (576, xstate.area_bytes(xcr0, IMAGE_BYTES))):
        state[start:end] = bytes((7 * position + position // 256) % 256 for position in range(start, end))
    struct.pack_into("<I", state, 24, 0x1FA0)
    struct.pack_into("<Q", state, 512, xcr0)
    return bytes(state)


def test_sizes_of_the_area() -> None:
    assert [xstate.area_bytes(xcr0, 4096) for xcr0 in (1, 3, 7, 0xE7, 0x2E7)] == [576, 576, 832, 2688, 2696]
    assert xstate.area_bytes(0x7 | 1 << 18, 11008) == 11008
    # A component that nobody has heard of: as much as there is.
    assert xstate.area_bytes(0x7 | 1 << 40, 4096) == 4096


@pytest.mark.parametrize("xcr0", [3, AVX, AVX512])
def test_fp_state_comes_back(xcr0: int) -> None:
    area = xstate.area_bytes(xcr0, IMAGE_BYTES)
    state = image(xcr0)
    frame = xstate.save(state, xcr0, area)
    assert len(frame) == xstate.frame_bytes(area) == area + 4
    assert struct.unpack_from("<IIQI", frame, 464) == (0x46505853, area + 4, xcr0, area)
    assert struct.unpack_from("<I", frame, area) == (0x46505845,)
    assert xstate.restore(frame, xcr0, IMAGE_BYTES) == state


def saved() -> bytes:
    return xstate.save(image(), AVX, AREA)


def restored(frame: bytes) -> bytes:
    state = xstate.restore(frame, AVX, IMAGE_BYTES)
    assert state is not None
    return state


@pytest.mark.parametrize(("offset", "layout", "value"), [(464, "I", 0), (AREA, "I", 0)])
def test_without_magic_only_the_legacy_region_counts(offset: int, layout: str, value: int) -> None:
    state = restored(changed(saved(), offset, layout, value))
    assert state[:416] == image()[:416]
    assert struct.unpack_from("<Q", state, 512) == (3,)
    assert not any(state[576:])


def test_a_legacy_region_alone_is_enough() -> None:
    legacy = changed(saved(), 464, "I", 0)[:512]
    assert not xstate.claims_area(legacy)
    assert restored(legacy)[:416] == image()[:416]


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(24, "I", 0x10000), (24, "I", 0xFFFFFFFF), (512, "Q", 1 << 9), (512, "Q", 1 << 63), (520, "Q", 1 << 63), (528, "Q", 1)],
)
def test_what_the_processor_would_refuse(offset: int, layout: str, value: int) -> None:
    assert xstate.restore(changed(saved(), offset, layout, value), AVX, IMAGE_BYTES) is None


def test_components_that_are_absent_become_initial() -> None:
    state = restored(changed(saved(), 512, "Q", 4))
    assert state[:24] == xstate.initial(IMAGE_BYTES)[:24]
    assert struct.unpack_from("<I", state, 24) == (0x1FA0,)
    assert not any(state[32:416])
    assert state[576:832] == image()[576:832]
    # Not asked for: as absent, and then nobody looks at MXCSR.
    state = restored(changed(changed(saved(), 472, "Q", 1), 24, "I", 0xFFFFFFFF))
    assert state[:24] == image()[:24]
    assert state[24:] == xstate.initial(IMAGE_BYTES)[24:32] + image()[32:160] + xstate.initial(IMAGE_BYTES)[160:]
