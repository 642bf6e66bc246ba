"""What of the host a sandbox sees beside its own root: directories and files, read-only unless said."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from asynckvm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Bind:
    """The host's `source` at `target`, an absolute path of the sandbox."""

    source: str
    target: str
    writable: bool = False

    @classmethod
    def parse(cls, text: str) -> Bind:
        """SOURCE[:TARGET][:ro|:rw], as on a command line."""
        parts = text.split(":")
        writable = parts[-1] == "rw"
        if len(parts) > 1 and parts[-1] in ("ro", "rw"):
            parts.pop()
        if not 1 <= len(parts) <= 2 or not parts[0]:
            raise UsageError(f"not a bind: {text!r}; write SOURCE[:TARGET][:ro|:rw]")
        source = os.path.abspath(parts[0])  # noqa: PTH100  links stay as they are named
        target = parts[1] if len(parts) == 2 else source
        return cls(source, target, writable).checked()

    def checked(self) -> Bind:
        if not self.target.startswith("/") or ".." in self.target.split("/"):
            raise UsageError(f"not an absolute path inside a sandbox: {self.target!r}")
        return self


# A Bind, "SOURCE[:TARGET][:ro|:rw]", or a tuple (source, target[, "ro" or "rw"]).
BindLike: TypeAlias = "Bind | str | tuple[str, str] | tuple[str, str, str]"


def bind_of(value: BindLike) -> Bind:
    if isinstance(value, Bind):
        return value.checked()
    if isinstance(value, str):
        return Bind.parse(value)
    source, target, *mode = value
    if mode not in ([], ["ro"], ["rw"]):
        raise UsageError(f"not a bind: {value!r}; the third part is 'ro' or 'rw'")
    return Bind(os.fspath(source), os.fspath(target), mode == ["rw"]).checked()
