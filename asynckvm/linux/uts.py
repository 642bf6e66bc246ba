"""The kernel that programs believe to run on: the host's names, which decide what C libraries dare to use. Source: uname(2)."""

from __future__ import annotations

import os
from typing import Final

_FIELD: Final = 65
DOMAIN: Final = "(none)"


def node() -> str:
    """The name of the machine."""
    return os.uname().nodename


def utsname() -> bytes:
    """struct new_utsname: six fields of 65 bytes."""
    host = os.uname()
    fields = (host.sysname, node(), host.release, host.version, "x86_64", DOMAIN)
    return b"".join(os.fsencode(text)[: _FIELD - 1].ljust(_FIELD, b"\0") for text in fields)
