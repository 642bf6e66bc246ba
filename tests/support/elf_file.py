"""ELF files made to order: as small as they can be, and as wrong as a test wants them."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_INTERP, PT_PHDR, PT_GNU_STACK = 1, 3, 6, 0x6474E551
ET_EXEC, ET_DYN = 2, 3
R, W, X = 4, 2, 1


class Header(NamedTuple):
    """One program header."""

    kind: int = PT_LOAD
    flags: int = R | X
    offset: int = 0
    address: int = 0x400000
    file_bytes: int = 0x200
    memory_bytes: int = 0x200
    align: int = 0x1000


def elf(
    *headers: Header,
    kind: int = ET_EXEC,
    machine: int = 62,
    entry: int = 0x400100,
    size: int = 0x200,
    ident: bytes = b"\x7fELF\x02\x01\x01",
    table_offset: int = HEADER.size,
    entry_bytes: int = PROGRAM_HEADER.size,
    count: int | None = None,
) -> bytes:
    """The bytes of a file of at least `size` bytes, zero after its headers."""
    headers = headers or (Header(),)
    count = len(headers) if count is None else count
    data = HEADER.pack(
        ident.ljust(16, b"\0"), kind, machine, 1, entry, table_offset, 0, 0, HEADER.size, entry_bytes, count, 0, 0, 0
    )
    for item in headers:
        data += PROGRAM_HEADER.pack(
            item.kind, item.flags, item.offset, item.address, item.address, item.file_bytes, item.memory_bytes, item.align
        )
    return data.ljust(size, b"\0")
