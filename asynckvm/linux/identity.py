"""Who a guest process is: its numbers, its user, and the kernel it believes to run on.

Values only. The user and the system's name are the host's, as are the files it sees; process numbers are its own: nothing of
the host's processes can be named by a guest. Source: credentials(7), uname(2).
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Final

# Numbers begin where a booted system's first daemons would be; 1 is init, the parent of all.
PARENT: Final = 1
_numbers: Final = itertools.count(100)
_UTSNAME_FIELD: Final = 65


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers of one process; its only thread has its number too."""

    pid: int = field(default_factory=lambda: next(_numbers))
    parent: int = PARENT
    user: int = field(default_factory=os.getuid)
    effective_user: int = field(default_factory=os.geteuid)
    group: int = field(default_factory=os.getgid)
    effective_group: int = field(default_factory=os.getegid)
    groups: tuple[int, ...] = field(default_factory=lambda: tuple(os.getgroups()))

    @property
    def ruid(self) -> int:
        return self.user

    @property
    def euid(self) -> int:
        return self.effective_user

    @property
    def rgid(self) -> int:
        return self.group

    @property
    def egid(self) -> int:
        return self.effective_group

    @property
    def is_secure(self) -> bool:
        """AT_SECURE: the program runs with other rights than those of its user."""
        return self.user != self.effective_user or self.group != self.effective_group


def utsname() -> bytes:
    """struct new_utsname: six fields of 65 bytes."""
    host = os.uname()
    fields = (host.sysname, host.nodename, host.release, host.version, "x86_64", "(none)")
    return b"".join(os.fsencode(text)[: _UTSNAME_FIELD - 1].ljust(_UTSNAME_FIELD, b"\0") for text in fields)
