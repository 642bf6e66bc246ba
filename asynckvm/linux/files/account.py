"""How many files a sandbox has open: a bound for all its processes together, beside what RLIMIT_NOFILE is for each.

A file counts from its first descriptor on until it is closed, also while it only travels in a message or is held by a call.
Source: Documentation/admin-guide/sysctl/fs.rst (file-max, file-nr), fs/file_table.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_FILES: Final = 65_536


class OpenFileAccount:
    """`collect` is called before anybody is refused: it may find files that nobody can reach any more."""

    def __init__(self, bound: int = OPEN_FILES, collect: Callable[[], None] | None = None) -> None:
        self.bound = bound
        self.count = 0
        self._collect = collect

    def check_room(self) -> None:
        """ENFILE when there is none for one more."""
        if self.count >= self.bound and self._collect is not None:
            self._collect()
        if self.count >= self.bound:
            raise SyscallError(errno.ENFILE)
