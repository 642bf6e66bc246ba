"""From a path to a location: the walk of path_resolution(7), over links, mounts and `..`, with the caller's permissions.

Everything a path can do to leave where it should stay ends here or in `openat2`. Names inside one tree of the host are handed
to it several at a time; the first link among them comes back. Source: path_resolution(7), openat2(2), symlink(7).
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.mounts import Mounts
from asynckvm.linux.vfs.node import NAME_MAX

if TYPE_CHECKING:
    from asynckvm.linux.vfs.caller import Caller

PATH_MAX: Final = 4096
_LINKS_MAX: Final = 40
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
RESOLVE_CACHED: Final = 32
_SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT
_LINK: Final = stat.S_IFLNK
_DIRECTORY: Final = stat.S_IFDIR
# So many names one walk takes, those of links included: more than any path has, and soon done. ELOOP beyond.
_NAMES_MAX: Final = 3072
# A name that asks for a directory without searching it: the slash at the end of a path.
_SLASH: Final = b""
_DOTS: Final = frozenset({b".", b"..", _SLASH})


def resolve(caller: Caller, start: Location, path: bytes, *, follow: bool = True) -> Location:
    """What `path` leads to from `start`; `follow` says whether a link in the last place is followed. Raises SyscallError."""
    return Walk(caller, start).to(path, follow=follow)


class Walk:
    """One walk. `location` is how far it came; `flags` are the RESOLVE_* of openat2(2)."""

    __slots__ = ("_links", "_names", "_reads", "_root", "caller", "flags", "location")

    def __init__(self, caller: Caller, start: Location, flags: int = 0) -> None:
        self.caller = caller
        self.location = start
        self.flags = flags
        # What `..` cannot leave and absolute links start from.
        self._root = start if flags & _SCOPED else caller.fs.root
        self._links = 0
        self._names = 0
        self._reads = False

    def to(self, path: bytes, *, follow: bool = True, read: bool = False) -> Location:
        """The whole path. `read`: a link in the last place is not followed, but will be read."""
        self._reads = read
        self._walk(self._begin(path), 0, follow=follow and not read)
        return self.location

    def to_parent(self, path: bytes) -> tuple[bytes, bool]:
        """All but the last name, which is returned, and whether a slash follows it. b"" as name: the path is "/" only.

        `location` is then the directory that the name is in, and may be searched.
        """
        names = self._begin(path)
        slash = path.endswith(b"/")
        if slash:
            names.pop(0)
        self._walk(names, 1, follow=True)
        if names:
            self._check_search()
        return (names[0] if names else b""), slash

    def child(self, name: bytes) -> Location:
        """What `name` (neither . nor ..) is in `location`, with what is mounted there; a link is not followed."""
        if len(name) > NAME_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        mount, entry = self.location.mount, self.location.entry
        found = Location(mount, entry.node.lookup(entry, name, self.caller))
        return self._cross(found) if mount.children else found

    def follow(self, link: Location) -> bytes | None:
        """Follow `link`, found in `location`: the path to go on with from there, or None when `location` is the target now."""
        self._links += 1
        if self._links > _LINKS_MAX or self.flags & RESOLVE_NO_SYMLINKS:
            raise SyscallError(errno.ELOOP)
        target = link.node.jump(self.caller)
        if target is not None:
            if self.flags & RESOLVE_NO_MAGICLINKS:
                raise SyscallError(errno.ELOOP)
            if self.flags & _SCOPED or (self.flags & RESOLVE_NO_XDEV and target.mount is not self.location.mount):
                raise SyscallError(errno.EXDEV)
            self.location = target
            return None
        path = link.node.read_link(self.caller)
        if not path:
            raise SyscallError(errno.ENOENT)
        return path

    # ------------------------------------------------------------ steps

    def _begin(self, path: bytes) -> list[bytes]:
        """The names of `path`, the next one last; a slash at the end is one of them."""
        if not path:
            raise SyscallError(errno.ENOENT)
        if len(path) >= PATH_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        if path[0] == 0x2F:
            if self.flags & RESOLVE_BENEATH:
                raise SyscallError(errno.EXDEV)
            if self.flags & RESOLVE_NO_XDEV and self._root.mount is not self.location.mount:
                raise SyscallError(errno.EXDEV)
            self.location = self._root
        names = list(filter(None, path.split(b"/")))
        self._names += len(names)
        if self._names > _NAMES_MAX:
            raise SyscallError(errno.ELOOP)
        if path[-1] == 0x2F:
            names.append(_SLASH)
        names.reverse()
        return names

    def _walk(self, names: list[bytes], keep: int, *, follow: bool) -> None:
        """Take names until `keep` are left. `names` changes with every link."""
        while len(names) > keep:
            if names[-1] in _DOTS:
                self._dot(names.pop())
                continue
            if self.location.entry.leaps:
                found = self._leap(names, keep, follow=follow)
            else:
                self._check_search()
                found = self.child(names.pop())
            if found.entry.node.type == _LINK and (names or follow):
                path = self.follow(found)
                if path is not None:
                    names += self._begin(path)
            else:
                self.location = found

    def _dot(self, name: bytes) -> None:
        if name == _SLASH:
            if self.location.entry.node.type != _DIRECTORY:
                raise SyscallError(errno.ENOTDIR)
            return
        self._check_search()
        if name == b"..":
            self._up()

    def _leap(self, names: list[bytes], keep: int, *, follow: bool) -> Location:
        """As many names as one look into the host's tree can take; `location` is then the directory of the last one."""
        location = self.location
        entry, mount = location.entry, location.mount
        taken = names[keep:]
        taken.reverse()
        if not _DOTS.isdisjoint(taken):
            taken = list(itertools.takewhile(lambda name: name not in _DOTS, taken))
        if mount.children:
            taken = taken[: entry.names_to_mount(taken, mount.children)]
        found, count = entry.look(taken, self.caller, follow=follow or self._reads or len(taken) < len(names))
        del names[-count:]
        if found.node.type == _LINK:
            self.location = Location(mount, found.up() or found)
        return self._cross(Location(mount, found)) if mount.children else Location(mount, found)

    def _check_search(self) -> None:
        node = self.location.entry.node
        if node.type != _DIRECTORY:
            raise SyscallError(errno.ENOTDIR)
        if self.caller.credentials.euid:
            self.caller.check(node.attributes(), os.X_OK)

    def _up(self) -> None:
        location = self.location
        if location == self._root:
            if self.flags & RESOLVE_BENEATH:
                raise SyscallError(errno.EXDEV)
            return
        while location.entry == location.mount.root:
            if location.mount.point is None:
                return
            if self.flags & RESOLVE_NO_XDEV:
                raise SyscallError(errno.EXDEV)
            location = location.mount.point
            if location == self._root:
                break
        parent = location.entry.up()
        if parent is not None and location != self._root:
            location = Location(location.mount, parent)
        self.location = self._cross(location)

    def _cross(self, location: Location) -> Location:
        if not location.mount.children:
            return location
        top = Mounts.top(location)
        if top is not location and self.flags & RESOLVE_NO_XDEV:
            raise SyscallError(errno.EXDEV)
        return top
