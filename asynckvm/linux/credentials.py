"""Who a process is to permission checks: user and group numbers, capabilities. Source: credentials(7), capabilities(7)."""

from __future__ import annotations

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
    # Sets of capabilities: what the process has dropped is not in them any more. None: what its user numbers give it.
    permitted: int | None = None
    effective: int | None = None
    inheritable: int = 0
    bounding: int = CAPABILITIES_ALL
    ambient: int = 0

    @classmethod
    def of(cls, user: int, group: int, groups: tuple[int, ...] = ()) -> Self:
        return cls(user, user, user, group, group, group, groups)

    @property
    def is_root(self) -> bool:
        """Whether checks are passed as with CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETUID and so on."""
        return self.euid == 0

    @property
    def is_secure(self) -> bool:
        """AT_SECURE: the program runs with other rights than those of its user."""
        return self.ruid != self.euid or self.rgid != self.egid

    @property
    def permitted_capabilities(self) -> int:
        given = CAPABILITIES_ALL if 0 in (self.ruid, self.euid, self.suid) else 0
        return given if self.permitted is None else self.permitted

    @property
    def effective_capabilities(self) -> int:
        given = CAPABILITIES_ALL if self.is_root else 0
        return given if self.effective is None else self.effective

    def executed(self) -> Credentials:
        """For a new program: root has what the bounding set leaves it, others have nothing. Source: capabilities(7)."""
        allowed = self.bounding if self.ruid == 0 or self.euid == 0 else self.ambient
        effective = allowed if self.euid == 0 else self.ambient
        if (self.permitted, self.effective, self.keep_capabilities) == (allowed, effective, False):
            return self
        return replace(self, permitted=allowed, effective=effective, keep_capabilities=False)

    def replace(self, **changes: object) -> Credentials:
        return replace(self, **changes)  # type: ignore[arg-type]
