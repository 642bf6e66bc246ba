"""`Location`: where a file was reached, which its node alone does not know: through which mount, and by which name.

Source: struct path in Documentation/filesystems/vfs.rst; getcwd(2) for how paths are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asynckvm.linux.vfs.mounts import Mount
    from asynckvm.linux.vfs.node import Entry, Node

_UNREACHABLE = b"(unreachable)"
_DELETED = b" (deleted)"


class Location:
    """A name in a mounted file system. Values: equal when mount and entry are."""

    __slots__ = ("entry", "mount")

    def __init__(self, mount: Mount, entry: Entry) -> None:
        self.mount = mount
        self.entry = entry

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.mount is other.mount and self.entry == other.entry

    def __hash__(self) -> int:
        return hash((id(self.mount), self.entry))

    @property
    def node(self) -> Node:
        return self.entry.node

    @property
    def path(self) -> bytes:
        """From the root of all mounts, as /proc/self/fd shows it, with " (deleted)" after a name that is gone."""
        path = self.path_from(None) or b"/"
        return path + _DELETED if self.entry.deleted else path

    def shown_from(self, root: Location) -> bytes:
        """For getcwd(2): from `root`, or after "(unreachable)"."""
        path = self.path_from(root)
        if path is None:
            return _UNREACHABLE + (self.path_from(None) or b"/")
        return path or b"/"

    def path_from(self, root: Location | None) -> bytes | None:
        """Names from `root` on, b"" for itself; None when this is not below it. None as root: that of all mounts."""
        if root is None:
            return self.mount.path + self.entry.path.removeprefix(self.mount.root.path)
        parts: list[bytes] = []
        location: Location | None = self
        while location is not None:
            if location.mount is root.mount and location.entry.is_below(root.entry):
                parts.append(location.entry.path.removeprefix(root.entry.path))
                return b"".join(reversed(parts))
            parts.append(location.entry.path.removeprefix(location.mount.root.path))
            location = location.mount.point
        return None
