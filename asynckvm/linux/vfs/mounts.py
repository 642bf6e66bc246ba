"""The mounts of a sandbox: a tree of file systems, made by the host before and while programs run, never by a guest.

Source: mount_namespaces(7), statfs(2), proc(5) for the rows of /proc/mounts.
"""

from __future__ import annotations

import errno
import functools
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import Watches
from asynckvm.linux.vfs.content import Budget
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.tmpfs import Tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.vfs.node import Entry, FileSystem

ST_RDONLY, ST_NOSUID, ST_NODEV, ST_NOEXEC, ST_RELATIME = 1, 2, 4, 8, 4096
_OPTIONS: Final = ((ST_NOSUID, b"nosuid"), (ST_NODEV, b"nodev"), (ST_NOEXEC, b"noexec"), (ST_RELATIME, b"relatime"))
# For files without a name, when nobody says otherwise.
_MEMORY_BYTES: Final = 256 << 20
_MEMORY_FILES: Final = 4096


class Row(NamedTuple):
    """One mount as /proc/self/mountinfo describes it; paths are not escaped."""

    number: int
    parent: int
    device: int
    root: bytes
    point: bytes
    options: bytes
    type: bytes
    source: bytes
    super_options: bytes


class Mount:
    """One file system at one place. `flags` are ST_* of <sys/statvfs.h>; nosuid and nodev always hold."""

    def __init__(self, fs: FileSystem, point: Location | None, flags: int, number: int) -> None:
        self.fs = fs
        self.root: Entry = fs.root
        self.point = point
        self.flags = flags | ST_NOSUID | ST_NODEV | ST_RELATIME
        self.number = number
        self.top = Location(self, self.root)
        # What is mounted on an entry of this mount.
        self.children: dict[Entry, Mount] = {}

    @functools.cached_property
    def path(self) -> bytes:
        """From the root of all mounts, b"" for that itself. A name that something is mounted on keeps its place."""
        return self.point.path_from(None) or b"" if self.point is not None else b""

    @property
    def read_only(self) -> bool:
        return bool(self.flags & ST_RDONLY)

    @property
    def no_exec(self) -> bool:
        return bool(self.flags & ST_NOEXEC)

    @property
    def options(self) -> bytes:
        names = [name for flag, name in _OPTIONS if self.flags & flag]
        return b",".join([b"ro" if self.read_only else b"rw", *names])


class Mounts:
    """All mounts of a sandbox, from the root file system on. `memory` holds files without a name: memfd_create(2)."""

    def __init__(self, fs: FileSystem, flags: int = 0, *, memory: Tmpfs | None = None) -> None:
        self._numbers = itertools.count(20)
        # Who wants to know what is done to files: those who do it report it here.
        self.watches = Watches()
        self.unnamed = memory if memory is not None else Tmpfs(Budget(_MEMORY_BYTES, _MEMORY_FILES))
        self.memory = Mount(self.unnamed, None, 0, 0)
        self._mounts = [Mount(fs, None, flags, next(self._numbers))]

    def __iter__(self) -> Iterator[Mount]:
        return iter(self._mounts)

    @property
    def kinds(self) -> list[bytes]:
        """The types of file systems, for /proc/filesystems."""
        return list(dict.fromkeys([b"proc", b"tmpfs", b"devtmpfs", b"devpts", *(mount.fs.name for mount in self._mounts)]))

    @property
    def root(self) -> Location:
        mount = self._mounts[0]
        return self.top(Location(mount, mount.root))

    def add(self, fs: FileSystem, point: Location, flags: int = 0) -> Mount:
        """Mount `fs` on `point`, on top of what may be there already. ENOTDIR unless both are directories or neither is."""
        if fs.root.node.is_directory != point.node.is_directory:
            raise SyscallError(errno.ENOTDIR)
        point = self.top(point)
        mount = Mount(fs, point, flags, next(self._numbers))
        point.mount.children[point.entry] = mount
        self._mounts.append(mount)
        return mount

    @staticmethod
    def top(location: Location) -> Location:
        """The root of what is mounted on `location`, or itself."""
        while location.mount.children and (mount := location.mount.children.get(location.entry)) is not None:
            location = mount.top
        return location

    def close(self) -> None:
        """No program will look at them any more."""
        for mount in (self.memory, *self._mounts):
            mount.fs.close()
            mount.children.clear()

    def rows(self, root: Location | None = None) -> Iterator[Row]:
        """In the order of mounting; only those below `root`, as seen from there."""
        root = root if root is not None else self.root
        for mount in self._mounts:
            path = Location(mount, mount.root).path_from(root)
            if path is None:
                continue
            yield Row(
                mount.number, mount.point.mount.number if mount.point is not None else mount.number, mount.fs.device, b"/",
                path or b"/", mount.options, mount.fs.name, mount.fs.source, mount.fs.options or mount.options[:2],
            )  # fmt: skip


def holds_mounts(location: Location) -> bool:
    """Whether something is mounted on the name or below it: such a name can be neither removed nor renamed."""
    return any(point.is_below(location.entry) for point in location.mount.children)
