"""Storms of system calls against the Linux personality: a list of (number, six arguments), as a function of (seed, index), and
the one program that makes the calls of whatever list it reads from its standard input."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.places import ADDRESSES, ONES, PAGE
from fuzz.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

# The program's memory: list and scratch in one read-write segment.
LIST: Final = 0x10000000
LIST_BYTES: Final = 0x8000
SCRATCH: Final = LIST + LIST_BYTES
SCRATCH_BYTES: Final = 0x18000
_ENTRY: Final = 0x400000
# read(0, LIST, LIST_BYTES) until the end; then, for each record, the call, its result stored beside it; then exit_group(0).
_PROGRAM: Final = bytes.fromhex(
    "be00000010 31db 31ff ba00800000 29da 31c0 0f05 4885c0 7e07 01c3 4801c6 ebe7"
    "bd00000010 448b6500 4883c540 488b4500 488b7d08 488b7510 488b5518 4c8b5520 4c8b4528 4c8b4d30 0f05 48894538 4883c540"
    "41ffcc 75d5 b8e7000000 31ff 0f05 f4"
)
_RECORD: Final = struct.Struct("<8Q")
_CALLS_MAX: Final = 48
_ELF: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")

# Bytes at SCRATCH when a storm begins: paths, I/O vectors, times, masks, at offsets that arguments name.
PATHS: Final = (
    b"/", b"/etc/passwd", b".", b"..", b"inside", b"folder/../inside", b"loop", b"/proc/self/exe", b"/proc/self/mem",
    b"/dev/zero", b"/dev/null", b"fifo", b"x" * 300, b"/" + b"d/" * 2040, b"", b"link", b"/proc/self/fd/0", b"/dev/full",
    b"/dev/kvm", b"inside/", b"/dev/urandom", b"folder", b"/sys/kernel", b"\xff\xfe\x01", b"/".join([b"d"] * 24),
)  # fmt: skip
_IOVECS: Final = struct.pack(
    "<16Q", SCRATCH + 0x9000, 64, SCRATCH + 0x9000, ONES >> 1, 0, 16, 0xFFFFFFFF00000000, 8, SCRATCH, 0x17FF0, SCRATCH, 1 << 62,
    SCRATCH + 0xA000, 0, ONES, ONES,
)  # fmt: skip
_TIMES: Final = struct.pack(
    "<16q", 0, 1000, 0, 999_999_999, -1, 0, 0, 1_000_000_000, (1 << 63) - 1, 0, 1 << 62, 999_999_999, 0, 0, 10**10, 5
)


class CallRecord(NamedTuple):
    number: int
    args: tuple[int, ...]


class Storm(NamedTuple):
    """`kill_after_ms`: when the program is killed at the latest."""

    seed: int
    number: int
    calls: tuple[CallRecord, ...]
    kill_after_ms: int


def _scratch() -> tuple[bytes, tuple[int, ...]]:
    """The bytes at SCRATCH, and the addresses in them that mean something."""
    memory, places = bytearray(), []
    for path in PATHS:
        places.append(SCRATCH + len(memory))
        memory += path + b"\0"
    memory += bytes(-len(memory) % 64)
    for table, step in ((_IOVECS, 16), (_TIMES, 16)):
        places += [SCRATCH + len(memory) + offset for offset in range(0, len(table), step)]
        memory += table
    return bytes(memory), tuple(places)


SCRATCH_MEMORY, _PLACES = _scratch()
_POINTERS: Final = (
    *_PLACES,
    *_PLACES,
    SCRATCH + 0x9000,
    SCRATCH + SCRATCH_BYTES - 1,
    SCRATCH + SCRATCH_BYTES,
    _ENTRY,
    *ADDRESSES,
)
_SIZES: Final = (
    0, 1, 4, 7, 8, 16, 64, 255, 4095, 4096, 4097, 1 << 16, (1 << 20) - 1, 1 << 20, 1 << 21, 1 << 27, 1 << 31, (1 << 31) - PAGE,
    1 << 32, 1 << 46, 0x7FFFFFFFF000, 1 << 47, (1 << 63) - 1, 1 << 63, ONES, ONES - 4095,
)  # fmt: skip
_SMALL: Final = (
    0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 15, 16, 31, 33, 63, 64, 65, 0x22, 0x32, 0x800, 0x1000, 0x10000, 0x80000, 0x410000,
    0x100022, 255, 256, 1024, 0x5401, 0x5413, 0x541B, 0x1002, 0x1001, 1030, ONES, ONES - 99, ONES - 1, 0x7FFFFFFF, 0x80000000,
    0xFFFFFFFF,
)  # fmt: skip
# Numbers worth more than others: what has a handler.
_KNOWN: Final = (
    *range(22), 24, 25, 28, 32, 33, 40, 62, 63, 72, 74, 79, 80, 81, 89, 95, 96, 97, 98, 99, 100, 115, 127, 131, 157, 158, 160,
    200, 201, 204, 217, 218, 221, 228, 229, 234, 257, 262, 267, 269, 273, 274, 292, 295, 296, 302, 318, 332, 436, 439,
)  # fmt: skip
# The end, or a wait without end: sometimes.
_LAST: Final = (34, 35, 60, 130, 202, 202, 230, 231)


def make(seed: int, index: int) -> Storm:
    source = Source(seed, index)
    calls = tuple(_call(source) for _ in range(1 + source.below(_CALLS_MAX)))
    return Storm(seed, index, calls, source.pick((0, 2, 5, 20, 50, 100)))


def _call(source: Source) -> CallRecord:
    chance = source.unit()
    if chance < 0.84:
        number = source.pick(_KNOWN)
    elif chance < 0.95:
        number = source.below(471)
    elif chance < 0.96:
        number = source.pick(_LAST)
    else:
        number = source.number()
    return CallRecord(number, tuple(_argument(source) for _ in range(6)))


def _fd(source: Source) -> int:
    return source.below(8)


def _wild(source: Source) -> int:
    return source.number()


_KINDS: Final[tuple[Callable[[Source], int], ...]] = (
    _fd,
    _fd,
    lambda source: source.pick(_POINTERS),
    lambda source: source.pick(_POINTERS),
    lambda source: source.pick(_PLACES),
    lambda source: source.pick(_SIZES),
    lambda source: source.pick(_SMALL),
    lambda source: source.pick(_SMALL),
    _wild,
)


def _argument(source: Source) -> int:
    return source.pick(_KINDS)(source)


def encode(storm: Storm) -> bytes:
    """What the program reads: the number of records in a record of its own, the records, and the scratch memory behind them."""
    records = [_RECORD.pack(len(storm.calls), *bytes(7))]
    records += [_RECORD.pack(call.number, *call.args, 0) for call in storm.calls]
    return b"".join(records)


def program() -> bytes:
    """An ELF file: code at _ENTRY, and LIST and SCRATCH, with what is at SCRATCH from the start, in one segment."""
    code_offset, data_offset = PAGE, 2 * PAGE
    data = bytes(LIST_BYTES) + SCRATCH_MEMORY
    head = _ELF.pack(b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), 2, 62, 1, _ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    head += _SEGMENT.pack(1, 5, code_offset, _ENTRY, _ENTRY, len(_PROGRAM), len(_PROGRAM), PAGE)
    head += _SEGMENT.pack(1, 6, data_offset, LIST, LIST, len(data), LIST_BYTES + SCRATCH_BYTES, PAGE)
    return (head.ljust(code_offset, b"\0") + _PROGRAM).ljust(data_offset, b"\0") + data
