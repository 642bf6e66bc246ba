"""Extended attributes kept in memory: the user.* ones of files in tmpfs. Source: xattr(7), setxattr(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.vfs.content import Budget

XATTR_CREATE, XATTR_REPLACE = 1, 2
NAME_MAX: Final = 255
SIZE_MAX: Final = 65536
# What one name costs besides its bytes; and what all names of a file may have, so that they can always be listed.
_OVERHEAD: Final = 256
_LIST_MAX: Final = 65536
_USER: Final = b"user."


class Xattrs:
    """The attributes of one file; `budget` pays for them."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._values: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    def __del__(self) -> None:
        self._budget.refund(sum(_cost(name, value) for name, value in self._values.items()))

    def get(self, name: bytes) -> bytes:
        check_name(name)
        value = self._values.get(name)
        if value is None:
            raise SyscallError(errno.ENODATA)
        return value

    def set(self, name: bytes, value: bytes, flags: int) -> None:
        check_name(name)
        old = self._values.get(name)
        if flags & XATTR_CREATE and old is not None:
            raise SyscallError(errno.EEXIST)
        if flags & XATTR_REPLACE and old is None:
            raise SyscallError(errno.ENODATA)
        if old is None and sum(len(other) + 1 for other in self._values) + len(name) >= _LIST_MAX:
            raise SyscallError(errno.ENOSPC)
        self._budget.charge(_cost(name, value) - (_cost(name, old) if old is not None else 0))
        self._values[name] = value

    def remove(self, name: bytes) -> None:
        self._budget.refund(_cost(name, self.get(name)))
        del self._values[name]


def check_name(name: bytes) -> None:
    """ERANGE for one of a wrong length, EOPNOTSUPP for one that only the kernel's other parts could keep."""
    if not name or len(name) > NAME_MAX:
        raise SyscallError(errno.ERANGE)
    if not name.startswith(_USER):
        raise SyscallError(errno.EPERM if name.startswith(b"trusted.") else errno.EOPNOTSUPP)
    if name == _USER:
        raise SyscallError(errno.EINVAL)


def _cost(name: bytes, value: bytes) -> int:
    return len(name) + len(value) + _OVERHEAD
