"""Open descriptors of this process, without those of programs and libraries that a machine keeps open to map them again."""

from __future__ import annotations

import contextlib
import os

_PROGRAMS = "/usr/"


def count() -> int:
    """How many there are."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found += not os.readlink(f"/proc/self/fd/{number}").startswith(_PROGRAMS)
    return found
