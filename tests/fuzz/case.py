"""A case: all that an attacker is given and all that is done to it, as a function of (master seed, index).

Made here, run by `attacker`, written to and read from the corpus by `case_file`.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

from fuzz import script
from fuzz.grammar import PRODUCTIONS
from fuzz.places import CODE, CODE_BYTES, DATA, EDGE, FLAGS, PAGE, STACK_TOP
from fuzz.source import Source

REGISTERS: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "fs_base", "gs_base",
)  # fmt: skip
RSP, RIP, RFLAGS = 6, 16, 17
# READ | EXECUTE, and with WRITE.
_ACCESS: Final = (5, 5, 7)
_FILLS: Final = (0xF4, 0xCC, 0x90, 0x00, 0x0F, 0xC3)
_ENDS: Final = (b"\x0f\x05",) * 8 + (b"\x0f\x05\xf4", b"\x0f\x0b", b"", b"", b"\xcd\x80", b"\x0f\x05\xeb\xec", b"\xeb\xfe")
_TURNS: Final = (1, 2, 2, 3, 3, 4, 4, 6)


# A second thread: none, one in the same memory, or one in a copy of it.
ALONE, TOGETHER, FORKED = 0, 1, 2
_TWINS: Final = (ALONE,) * 12 + (TOGETHER, TOGETHER, FORKED)
# How a case goes on after a fault.
NEXT_PIECE, SKIP, SET = 0, 1, 2


class Turn(NamedTuple):
    """What follows an exit: `answer` goes to RAX after a system call. After anything else RIP goes to the next piece of code
    (NEXT_PIECE), or on by `value` bytes (SKIP), or register `register` becomes `value` (SET).
    """

    answer: int
    how: int
    register: int
    value: int


class Case(NamedTuple):
    """`code` lies at `address`, its pieces at `pieces`, in memory filled with `fill` and mapped with `access`; `image` is the
    first bytes of an XSAVE image (legacy region and header), or empty for the initial state. `answered`: some of its system
    calls are answered on the vCPU's thread.
    """

    seed: int
    number: int
    names: tuple[str, ...]
    code: bytes
    pieces: tuple[int, ...]
    address: int
    fill: int
    access: int
    registers: tuple[int, ...]
    restore: int
    image: bytes
    turns: tuple[Turn, ...]
    steps: tuple[script.Step, ...]
    twin: int
    answered: bool


def make(seed: int, index: int) -> Case:
    source = Source(seed, index)
    drawn = [source.pick(PRODUCTIONS) for _ in range(1 + source.below(6))]
    parts = [production(source) for production in drawn]
    parts.append(source.pick(_ENDS))
    code = b"".join(parts)
    address = _place(source, len(code))
    pieces = tuple(itertools.accumulate([len(part) for part in parts[:-1]], initial=address))
    turns = tuple(_turn(source) for _ in range(source.pick(_TURNS)))
    return Case(
        seed,
        index,
        tuple(production.__name__ for production in drawn),
        code,
        pieces,
        address,
        source.pick(_FILLS),
        source.pick(_ACCESS),
        _registers(source, address),
        source.pick((0, 0, 1, 2)),
        _image(source) if source.unit() < 0.1 else b"",
        turns,
        script.draw(source, len(turns)),
        source.pick(_TWINS),
        source.unit() < 0.1,
    )


def _place(source: Source, length: int) -> int:
    """At the start of a page, across two, at the end of all code, or at the end of user space."""
    chance = source.unit()
    if chance < 0.7:
        return CODE
    if chance < 0.8:
        return CODE + PAGE - source.below(min(length, PAGE) + 1)
    if chance < 0.9:
        return max(CODE, CODE + CODE_BYTES - length)
    return EDGE + PAGE - length


def _registers(source: Source, rip: int) -> tuple[int, ...]:
    values = [source.address() if source.unit() < 0.5 else source.number() for _ in range(16)]
    values[4], values[5] = DATA + 64 * source.below(32), DATA + 64 * source.below(32)
    if source.unit() < 0.8:
        values[RSP] = STACK_TOP - 256
    flags = 0x202 if source.unit() < 0.7 else source.pick(FLAGS)
    base = source.address() if source.unit() < 0.1 else 0
    if source.unit() < 0.04:
        rip = source.address()
    return (*values, rip, flags, base, base ^ source.bits(12) if base else 0)


def _image(source: Source) -> bytes:
    """Random x87 and SSE state. Mostly valid; MXCSR, and the header, sometimes not."""
    mxcsr = 0x1F80 if source.unit() < 0.5 else source.bits(16)
    if source.unit() < 0.1:
        mxcsr = source.bits(32)
    control = source.pick((0x37F, 0x37F, source.bits(16)))
    head = control.to_bytes(2, "little") + source.bytes(22) + mxcsr.to_bytes(4, "little") + b"\0\0\0\0"
    parts = source.pick((3, 3, 3, 7, 1, 0, 2, source.bits(64)))
    extended = source.bytes(256) if source.unit() < 0.5 else b""
    return head + source.bytes(384) + bytes(96) + parts.to_bytes(8, "little") + bytes(56) + extended


def _turn(source: Source) -> Turn:
    chance = source.unit()
    if chance < 0.6:
        return Turn(source.number(), NEXT_PIECE, 0, 0)
    if chance < 0.75:
        return Turn(source.number(), SKIP, 0, 1 + source.below(15))
    register = source.below(20)
    return Turn(source.number(), SET, register, 0x202 if register == RFLAGS else source.address())
