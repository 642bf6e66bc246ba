"""Scripts: what the first line of a file that begins with `#!` asks for.

Pure, because the line comes from a stranger. Which file the interpreter is, and how often one script may lead to another, is the
loader's business. Source: execve(2), "Interpreter scripts"; fs/binfmt_script.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asynckvm.linux.elf import ElfError, ElfProblem

# What the kernel reads of a file to find out what it is.
HEAD_BYTES: Final = 256
_MAGIC: Final = b"#!"
_BLANKS: Final = b" \t"


@dataclass(frozen=True, slots=True)
class Script:
    """The interpreter, and its one optional argument, which is the whole rest of the line."""

    interpreter: bytes
    argument: bytes | None


def parse(head: bytes) -> Script | None:
    """From the first HEAD_BYTES of a file, or all it has; None when it is no script. Raises ElfError."""
    if not head.startswith(_MAGIC):
        return None
    # The kernel's buffer is filled up with zeroes, and a NUL ends a name like a blank does.
    line, newline, _ = head[len(_MAGIC) : HEAD_BYTES].partition(b"\n")
    if not newline:
        line = head.ljust(HEAD_BYTES, b"\0")[len(_MAGIC) : HEAD_BYTES]
        # Without its end in sight, the argument may be cut, since an interpreter can read it again; the name may not.
        if not any(end in line.lstrip(_BLANKS) for end in (b" ", b"\t", b"\0")):
            raise ElfError(ElfProblem.BAD_SCRIPT, f"its interpreter's name does not end within {HEAD_BYTES} bytes")
        line = line[:-1]
    line = line.strip(_BLANKS)
    if not line:
        raise ElfError(ElfProblem.BAD_SCRIPT, "no interpreter is named")
    end = next((position for position, byte in enumerate(line) if byte in b" \t\0"), len(line))
    rest = line[end:].lstrip(_BLANKS)
    # An empty argument is one: that is what a blank before the end of a file without a newline gives.
    return Script(line[:end], rest.partition(b"\0")[0] if rest and line[end : end + 1] != b"\0" else None)
