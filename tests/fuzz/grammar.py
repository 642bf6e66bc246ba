"""Pieces of hostile machine code: each production makes a few instructions that go for one thing, out of `words` and chance.

A production returns bytes and knows nothing of what ran before it. What a piece sets up may be torn down by the next one:
that is the point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuzz import words
from fuzz.places import CODE, CODE_BYTES, DATA, DATA_BYTES, EDGE, FLAGS, SELECTORS, STACK_TOP, SYSCALL_ENTRY, SYSCALL_INSTRUCTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.source import Source

_MOV_RAX, _MOV_RCX, _MOV_RDX, _MOV_RSP, _MOV_RSI, _MOV_RDI, _MOV_R11 = (
    bytes.fromhex(code) for code in ("48b8", "48b9", "48ba", "48bc", "48be", "48bf", "49bb")
)
_PREFIXES: Final = bytes.fromhex("66 67 f0 f2 f3 26 2e 36 3e 64 65 40 41 44 48 4c 4f")
_PUSH_IMM32: Final = b"\x68"
_POPFQ: Final = b"\x9d"


def _imm64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _imm32(value: int) -> bytes:
    return (value & 0xFFFF_FFFF).to_bytes(4, "little")


def _pointers(source: Source) -> bytes:
    """Often: a hostile address in RDI, RSI or both."""
    chance = source.unit()
    if chance < 0.4:
        return b""
    if chance < 0.7:
        return _MOV_RDI + _imm64(source.address())
    code = _MOV_RSI + _imm64(source.address())
    return code if chance < 0.85 else code + _MOV_RDI + _imm64(source.address())


def system_call(source: Source) -> bytes:
    return _pointers(source) + SYSCALL_INSTRUCTION


def software_interrupt(source: Source) -> bytes:
    return source.pick(words.CALLS) if source.unit() < 0.7 else bytes((0xCD, source.bits(8)))


def privileged(source: Source) -> bytes:
    return _MOV_RCX + _imm64(source.number()) + source.pick(words.PRIVILEGED)


def probe(source: Source) -> bytes:
    return _pointers(source) + b"\xb9" + _imm32(source.number()) + source.pick(words.PROBES)


def segment(source: Source) -> bytes:
    """MOV EAX, selector (or a base) and a segment instruction; now and then another event in the shadow of MOV SS."""
    value = source.address() if source.unit() < 0.3 else source.pick(SELECTORS)
    code = _MOV_RAX + _imm64(value) + source.pick(words.SEGMENTS)
    if source.unit() < 0.15:
        code += b"\xb8\x2b\0\0\0\x8e\xd0" + source.pick(words.CALLS)
    return code


def control(source: Source) -> bytes:
    return _pointers(source) + source.pick(words.CONTROL)


def memory(source: Source) -> bytes:
    return _pointers(source) + source.pick(words.STRINGS)


def string(source: Source) -> bytes:
    return _pointers(source) + b"\xb9" + _imm32(source.number()) + source.pick(words.STRINGS)


def vector(source: Source) -> bytes:
    return _pointers(source) + source.pick(words.VECTORS)


def xsave_area(source: Source) -> bytes:
    """An XSAVE image with one wild number in header or control words, then XRSTOR, FXRSTOR and kin from it."""
    area = DATA + 64 * source.below(48)
    offset = source.pick((0, 2, 24, 24, 28, 512, 512, 516, 520, 528, 568))
    poke = b"\x48\xbf" + _imm64(area) + b"\xc7\x87" + _imm32(offset) + _imm32(source.number())
    load = source.pick((b"\x0f\xae\x2f", b"\x48\x0f\xae\x2f", b"\x0f\xae\x0f", b"\x48\x0f\xae\x0f", b"\xdd\x27", b"\xd9\x27"))
    return _MOV_RAX + _imm64(source.number()) + _MOV_RDX + _imm64(source.number()) + poke + load


def mxcsr(source: Source) -> bytes:
    """LDMXCSR of a wild value, then a division of zero by zero."""
    value = source.pick((0, 0x1F00, 0x1E80, 0x1D80, 0xFFFF, 0x10000, source.bits(32)))
    return b"\x48\xbf" + _imm64(DATA + 32) + b"\xc7\x07" + _imm32(value) + b"\x0f\xae\x17\x0f\x57\xc0\x0f\x5e\xc0"


def x87(source: Source) -> bytes:
    """FLDCW that unmasks, 1/0, then something that notices."""
    value = source.pick((0x340, 0x37B, 0x300, 0xFFFF, 0, source.bits(16)))
    notice = source.pick((b"\x9b", b"\xd9\xe8", b"\x0f\x77", b"\xdd\x37", b"\x0f\x05"))
    return b"\x48\xbf" + _imm64(DATA + 32) + b"\x66\xc7\x07" + _imm32(value)[:2] + b"\xd9\x2f\xd9\xe8\xd9\xee\xde\xf9" + notice


def flags(source: Source) -> bytes:
    """POPF of wild flags: TF, AC, DF, NT, RF, VM, IOPL."""
    return _PUSH_IMM32 + _imm32(source.pick(FLAGS)) + _POPFQ


def stack(source: Source) -> bytes:
    """RSP somewhere else, then something that pushes, pops or traps."""
    then = source.pick(
        (b"\x50", b"\x58", b"\xcc", b"\x0f\x05", b"\xcd\x80", b"\xe8\0\0\0\0", b"\xc3", b"\xc9", b"\x48\xcf", b"\x9c")
    )
    return _MOV_RSP + _imm64(source.address()) + then


def far_transfer(source: Source) -> bytes:
    """LRETQ, IRETQ or a far jump through memory to any selector; the landing is code of ours, 32-bit addressable."""
    selector, target = source.pick(SELECTORS), CODE + source.below(256) if source.unit() < 0.7 else source.address()
    how = source.unit()
    if how < 0.4:
        return _PUSH_IMM32 + _imm32(selector) + _MOV_RAX + _imm64(target) + b"\x50\x48\xcb"
    if how < 0.8:
        ss = 0x2B if source.unit() < 0.7 else source.pick(SELECTORS)
        code = (
            _PUSH_IMM32 + _imm32(ss) + b"\x54" + _PUSH_IMM32 + _imm32(source.pick(FLAGS) | 0x200) + _PUSH_IMM32 + _imm32(selector)
        )
        return code + _MOV_RAX + _imm64(target) + b"\x50\x48\xcf"
    code = _MOV_RSI + _imm64(DATA + 256) + b"\xc7\x06" + _imm32(target) + b"\xc7\x46\x04" + _imm32(selector)
    return code + source.pick((b"\xff\x2e", b"\xff\x1e"))


def fake_system_call(source: Source) -> bytes:
    """A jump to the entry of system calls, with any RCX and R11 where SYSCALL leaves RIP and RFLAGS."""
    entry = SYSCALL_ENTRY + (0 if source.unit() < 0.8 else source.below(64))
    code = _MOV_RCX + _imm64(source.address()) + _MOV_R11 + _imm64(source.number()) + _MOV_RDI + _imm64(entry)
    return code + source.pick((b"\xff\xe7", b"\xff\xd7", b"\x57\xc3"))


def self_modifying(source: Source) -> bytes:
    """Stores into code: what comes next, or the other side of the page's end."""
    if source.unit() < 0.5:
        new = source.bytes(4)
        return b"\xc7\x05" + _imm32(source.below(12)) + new + b"\x90" * 4 + source.bytes(4)
    place = source.pick((CODE + 0xFFE, CODE + 0x1000, EDGE + 0xFFC, CODE + source.below(CODE_BYTES)))
    code = b"\x48\xbf" + _imm64(place) + b"\xc7\x07" + source.pick((b"\x0f\x05\x0f\x0b", source.bytes(4)))
    return code + (b"\xff\xe7" if source.unit() < 0.5 else b"")


def walk(source: Source) -> bytes:
    """Stores or loads over many pages, by a stride, until something stops it."""
    access = source.pick((b"\x48\x89\x07", b"\x48\x8b\x1f", b"\xf0\x48\xff\x07"))
    stride = source.pick((64, 4096, 4096, 4092, 8, 0x200000, 0xFFFFF000))
    start = source.address() if source.unit() < 0.5 else DATA
    loop = access + b"\x48\x81\xc7" + _imm32(stride) + b"\xff\xc9"
    return _MOV_RDI + _imm64(start) + b"\xb9" + _imm32(1 << source.below(12)) + loop + b"\x75" + bytes((256 - len(loop) - 2,))


def busy(source: Source) -> bytes:
    """Endless stores and loads over its own pages, for whoever changes them meanwhile."""
    start = source.pick((DATA, DATA + 0xFF8, STACK_TOP - 64, CODE + 0x1800))
    end = source.pick((b"\xeb\xf6", b"\xf3\x90\xeb\xf4"))
    return (
        _MOV_RDI + _imm64(start) + _MOV_RSI + _imm64(DATA + source.below(DATA_BYTES)) + b"\xf0\x48\xff\x07\x48\x8b\x1e\x90" + end
    )


def absolute(source: Source) -> bytes:
    """MOV between RAX and a 64-bit absolute address."""
    return source.pick((b"\x48\xa1", b"\x48\xa3", b"\xa0", b"\x66\xa3", b"\x67\xa1")) + _imm64(source.address())


def prefixed(source: Source) -> bytes:
    """Up to 15 prefixes before any instruction."""
    count = 1 + source.below(15)
    prefixes = bytes(_PREFIXES[byte % len(_PREFIXES)] for byte in source.bytes(count))
    table = source.pick((words.CALLS, words.STRINGS, words.VECTORS, words.SEGMENTS, words.CONTROL, words.PRIVILEGED))
    return prefixes + source.pick(table)


def opcode(source: Source) -> bytes:
    """Any one- or two-byte opcode, with what may be its operands."""
    lead = b"\x0f" if source.unit() < 0.6 else b""
    return lead + source.bytes(1 + source.below(7))


def vex(source: Source) -> bytes:
    """VEX, XOP and EVEX encodings, BOUND's and LES's old bytes among them."""
    return source.pick((b"\xc5", b"\xc4", b"\x62", b"\x8f", b"\xd5")) + source.bytes(5)


def debug_registers(source: Source) -> bytes:
    return b"\x0f" + source.pick((b"\x21", b"\x23", b"\x20", b"\x22")) + bytes((0xC0 | source.bits(6),))


def noise(source: Source) -> bytes:
    return source.bytes(1 + source.below(15))


# Production and how often it is drawn.
_WEIGHTS: Final[dict[Callable[[Source], bytes], int]] = {
    system_call: 8, software_interrupt: 3, privileged: 5, probe: 4, segment: 6, control: 3, memory: 5, string: 4, vector: 6,
    xsave_area: 4, mxcsr: 2, x87: 2, flags: 6, stack: 4, far_transfer: 5, fake_system_call: 3, self_modifying: 4, walk: 3,
    busy: 1, absolute: 3, prefixed: 5, opcode: 6, vex: 4, debug_registers: 1, noise: 5,
}  # fmt: skip
PRODUCTIONS: Final = tuple(production for production, weight in _WEIGHTS.items() for _ in range(weight))
NAMES: Final = frozenset(production.__name__ for production in _WEIGHTS)
