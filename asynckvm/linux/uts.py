"""The kernel that programs believe to run on: the host's release, which decides what C libraries dare to use, and a name that
tells nothing about the host, until the sandbox's root gives another. Source: uname(2), sethostname(2).
"""

from __future__ import annotations

import os
from typing import Final

NAME_MAX: Final = 64
# What the machine is called at first.
NODE: Final = "sandbox"


class SystemNames:
    """The names that a sandbox can change, as a UTS namespace: uts_namespaces(7)."""

    def __init__(self) -> None:
        self.node = NODE.encode()
        self.domain = b"(none)"

    def utsname(self) -> bytes:
        """struct new_utsname: six fields of 65 bytes."""
        host = os.uname()
        system, release, version = map(os.fsencode, (host.sysname, host.release, host.version))
        fields = (system, self.node, release, version, b"x86_64", self.domain)
        return b"".join(text[:NAME_MAX].ljust(NAME_MAX + 1, b"\0") for text in fields)
