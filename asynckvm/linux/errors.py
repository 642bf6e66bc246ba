"""How a system call fails: one exception that carries the error number. Nothing here reaches the user of the package."""

from __future__ import annotations

import errno
from typing import Final

# What a C type can hold, for arguments that are checked before they are used.
INT64_MAX: Final = (1 << 63) - 1

# A signal came first. Programs never see these numbers: what they become (EINTR, or the call made again) is decided when the
# signal is delivered. Source: include/linux/errno.h.
ERESTARTSYS: Final = 512  # again, if the handler was installed with SA_RESTART or there is none
ERESTARTNOINTR: Final = 513  # again in any case
ERESTARTNOHAND: Final = 514  # again only when no handler runs
ERESTART_RESTARTBLOCK: Final = 516  # as restart_syscall(2), which knows how much is left, when no handler runs
RESTARTS: Final = frozenset({ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK})


class SyscallError(Exception):
    """The guest's system call answers -number. `name` is its symbol, such as EBADF."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        return errno.errorcode.get(self.number, str(self.number))

    def instead_of_restart(self, number: int) -> SyscallError:
        """This error, but `number` where a signal came first: for calls that are not made again as others are."""
        return SyscallError(number) if self.number == ERESTARTSYS else self

    def __str__(self) -> str:
        return self.name
