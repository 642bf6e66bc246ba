"""The initial stack of a program: arguments, environment and auxiliary vector, byte for byte as Linux lays them out.

Pure: from values to bytes. Who writes them where is decided in `loader`.
Source: the x86-64 System V ABI, §3.4.1; getauxval(3); create_elf_tables() in fs/binfmt_elf.c.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

# Linux's bounds (execve(2)): one string is at most 32 pages, all of them a quarter of the stack limit of 8 MiB.
STRING_BYTES_MAX: Final = 32 * PAGE
STRINGS_BYTES_MAX: Final = 2 << 20
PLATFORM: Final = b"x86_64\0"
RANDOM_BYTES: Final = 16
CLOCK_TICKS: Final = 100


class Auxiliary(enum.IntEnum):
    """Keys of the auxiliary vector, <linux/auxvec.h>."""

    NULL = 0
    PHDR = 3
    PHENT = 4
    PHNUM = 5
    PAGESZ = 6
    BASE = 7
    FLAGS = 8
    ENTRY = 9
    UID = 11
    EUID = 12
    GID = 13
    EGID = 14
    PLATFORM = 15
    HWCAP = 16
    CLKTCK = 17
    SECURE = 23
    RANDOM = 25
    HWCAP2 = 26
    EXECFN = 31
    MINSIGSTKSZ = 51


class ArgumentsTooLongError(ValueError):
    """Arguments and environment exceed what Linux accepts (E2BIG)."""


@dataclass(frozen=True, slots=True)
class InitialStack:
    """`data` belongs at `pointer`, which is the first stack pointer (16-byte aligned) and up to the stack's top."""

    pointer: int
    data: bytes


def build(
    top: int,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    program: bytes,
    vector: Sequence[tuple[int, int]],
    random: bytes,
) -> InitialStack:
    """Lay out everything below `top`. `vector` holds the entries that need no address on the stack; those for the random
    bytes, the platform string and the program's name are added. Raises ArgumentsTooLongError."""
    _check_lengths([*arguments, *environment, program])
    # From the top: eight zero bytes, the program's name, then environment and arguments, which ps(1) finds in one piece.
    strings = b"".join(text + b"\0" for text in [*arguments, *environment])
    name_at = top - 8 - len(program) - 1
    strings_at = name_at - len(strings)
    platform_at = (strings_at & ~15) - len(PLATFORM)
    random_at = platform_at - RANDOM_BYTES
    entries = [
        *vector,
        (Auxiliary.RANDOM, random_at),
        (Auxiliary.EXECFN, name_at),
        (Auxiliary.PLATFORM, platform_at),
        (Auxiliary.NULL, 0),
    ]
    words = [len(arguments)]
    position = strings_at
    for group in (arguments, environment):
        for text in group:
            words.append(position)
            position += len(text) + 1
        words.append(0)
    for key, value in entries:
        words += (key, value)
    pointer = (random_at - 8 * len(words)) & ~15
    data = bytearray(top - pointer)
    struct.pack_into(f"<{len(words)}Q", data, 0, *words)
    for address, content in (
        (random_at, random[:RANDOM_BYTES]),
        (platform_at, PLATFORM),
        (strings_at, strings),
        (name_at, program),
    ):
        data[address - pointer : address - pointer + len(content)] = content
    return InitialStack(pointer, bytes(data))


def _check_lengths(texts: Sequence[bytes]) -> None:
    for text in texts:
        if b"\0" in text:
            raise ValueError(f"a NUL byte in {text[:40]!r}")
        if len(text) >= STRING_BYTES_MAX:
            raise ArgumentsTooLongError(f"an argument of {len(text)} bytes; Linux allows {STRING_BYTES_MAX - 1}")
    # Each string also costs its pointer.
    total = sum(len(text) + 1 + 8 for text in texts)
    if total > STRINGS_BYTES_MAX:
        raise ArgumentsTooLongError(f"{total} bytes of arguments and environment; Linux allows {STRINGS_BYTES_MAX}")
