"""How a system call fails: one exception that carries the error number. Nothing here reaches the user of the package."""

from __future__ import annotations

import errno
from typing import Final

# What a C type can hold, for arguments that are checked before they are used.
INT64_MAX: Final = (1 << 63) - 1


class SyscallError(Exception):
    """The guest's system call answers -number. `name` is its symbol, such as EBADF."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        return errno.errorcode.get(self.number, str(self.number))

    def __str__(self) -> str:
        return self.name
