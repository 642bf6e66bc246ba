"""Who a process is to permission checks: user and group numbers, capabilities. Source: credentials(7), capabilities(7)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final, Self

# All capabilities up to CAP_CHECKPOINT_RESTORE.
CAPABILITIES_ALL: Final = (1 << 41) - 1


@dataclass(frozen=True, slots=True)
class Credentials:
    """Numbers of the sandbox's own: they decide about its files and processes, never about the host's."""

    ruid: int = 0
    euid: int = 0
    suid: int = 0
    rgid: int = 0
    egid: int = 0
    sgid: int = 0
    groups: tuple[int, ...] = ()
    no_new_privileges: bool = False
    keep_capabilities: bool = False

    @classmethod
    def of(cls, user: int, group: int, groups: tuple[int, ...] = ()) -> Self:
        return cls(user, user, user, group, group, group, groups)

    @classmethod
    def of_host(cls) -> Self:
        """The same numbers as this process's."""
        return cls(*os.getresuid(), *os.getresgid(), tuple(os.getgroups()))

    @property
    def is_root(self) -> bool:
        """Whether checks are passed as with CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETUID and so on."""
        return self.euid == 0

    @property
    def is_secure(self) -> bool:
        """AT_SECURE: the program runs with other rights than those of its user."""
        return self.ruid != self.euid or self.rgid != self.egid

    @property
    def capabilities(self) -> int:
        return CAPABILITIES_ALL if self.is_root else 0

    def in_group(self, group: int) -> bool:
        return group == self.egid or group in self.groups

    def replace(self, **changes: object) -> Credentials:
        return replace(self, **changes)  # type: ignore[arg-type]
