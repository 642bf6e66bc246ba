"""How much of one thing all processes of a sandbox may have together: a count with a bound, and the error beyond it.

What more than a count decides has its own: open files (`files.account`), pipes, files in memory, signals.
"""

from __future__ import annotations

from asynckvm.linux.errors import SyscallError


class Quota:
    """At most `limit`; SyscallError(`error`) for who wants more."""

    def __init__(self, limit: int, error: int) -> None:
        self.limit = limit
        self.used = 0
        self._error = error

    def check(self, count: int = 1) -> None:
        """Whether so many may be charged."""
        if self.used + count > self.limit:
            raise SyscallError(self._error)

    def charge(self, count: int = 1) -> None:
        self.check(count)
        self.used += count

    def refund(self, count: int = 1) -> None:
        self.used -= count
