"""Exit statuses of the `asynckvm` command. Numbers only; one place, so that no two ends can be confused.

A program that ran hands on its own status: its exit code, or 128 + N when signal N killed it. Everything else is ours: below
128, and away from the small numbers that programs use.
"""

from __future__ import annotations

import enum
from typing import Final


class Status(enum.IntEnum):
    """What `asynckvm` exits with when the program did not end by itself."""

    USAGE = 2
    ARGUMENTS = 112
    RESOURCES = 113
    UNUSABLE = 114
    INTERNAL = 115
    DIRECTORY = 116
    NOT_ELF = 117
    ARCHITECTURE = 118
    TRUNCATED = 119
    MALFORMED = 121
    TIMEOUT = 124
    PERMISSION = 126
    NOT_FOUND = 127
    INTERRUPTED = 130


MEANINGS: Final = {
    Status.USAGE: "the command line is wrong",
    Status.ARGUMENTS: "the arguments and the environment are too long for a program",
    Status.RESOURCES: "this host ran out of something the program needed to start",
    Status.UNUSABLE: "no platform here that guests could run on; `asynckvm doctor` says what is missing",
    Status.INTERNAL: "asynckvm itself failed",
    Status.DIRECTORY: "PROGRAM is a directory",
    Status.NOT_ELF: "PROGRAM is not an ELF file",
    Status.ARCHITECTURE: "PROGRAM is for another architecture",
    Status.TRUNCATED: "PROGRAM is a truncated ELF file",
    Status.MALFORMED: "PROGRAM is a malformed ELF file, or its dynamic linker is no usable one",
    Status.TIMEOUT: "the time given by --timeout ran out; the program was killed",
    Status.PERMISSION: "PROGRAM is not executable, or may not be read",
    Status.NOT_FOUND: "PROGRAM was not found",
    Status.INTERRUPTED: "interrupted (Ctrl-C); the program was killed",
}


def table() -> str:
    """The statuses as lines of help."""
    lines = ["  N    the program's own exit code", "  128+N the program was killed by signal N (segmentation fault: 139)"]
    lines += [f"  {status.value:<4} {MEANINGS[status]}" for status in Status]
    return "\n".join(lines).replace("  N    ", "  N     ").replace("  128+N", "  128+N")
