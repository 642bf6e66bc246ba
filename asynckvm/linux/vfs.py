"""The host's files as a guest sees them: below one root, read-only, reached by a walk of our own.

Paths are never handed to the host kernel whole. Each component is opened by itself without following links, so a path can
neither leave the root nor pass through the host's /proc, whose magic links and `mem` files would open this very process,
and with it every guest, to the guest. Only regular files, directories and a few harmless devices can be opened.
Nothing here reads or writes a file's content. Source: path_resolution(7), open(2), proc(5).
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable

PATH_MAX: Final = 4096
# An open directory keeps a node for each directory above it; the descriptors belong to all guests of this process.
NODES_MAX: Final = 384
_LINKS_MAX: Final = 40
_O_ACCESS: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
# Host file systems whose content is this kernel's state rather than stored data.
_GUARDED_FILE_SYSTEMS: Final = frozenset({b"proc", b"debugfs", b"tracefs"})
# Files of procfs that say the same to every process and nothing about any.
_HARMLESS_PROC: Final = frozenset(
    {b"cpuinfo", b"filesystems", b"loadavg", b"meminfo", b"stat", b"uptime", b"version"},
)
_EXECUTABLE: Final = b"/proc/self/exe"
# Devices without a state that one program could use against another: null, zero, full, random, urandom.
_DEVICES: Final = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))


class Budget:
    """How many nodes a view has, each of which is a descriptor of this process."""

    __slots__ = ("nodes",)

    def __init__(self) -> None:
        self.nodes = 0

    def check(self) -> None:
        """Before one more. Raises SyscallError."""
        if self.nodes >= NODES_MAX:
            raise SyscallError(errno.EMFILE)


class Node:
    """A file that was reached: an O_PATH descriptor, closed with the last reference, and how it was reached."""

    __slots__ = ("budget", "fd", "name", "parent", "status")

    def __init__(self, fd: int, name: bytes, parent: Node | None, budget: Budget) -> None:
        self.fd = fd
        self.name = name
        self.parent = parent
        self.budget = budget
        self.status = os.fstat(fd)
        budget.nodes += 1

    def __del__(self) -> None:
        os.close(self.fd)
        self.budget.nodes -= 1

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def path(self) -> bytes:
        names: list[bytes] = []
        node: Node | None = self
        while node is not None:
            if node.parent is not None:
                names.append(node.name)
            node = node.parent
        return b"/" + b"/".join(reversed(names))


class Location:
    """Where a node was reached."""

    path: bytes


class View:
    """A read-only view of the host below `root`. `executable` answers /proc/self/exe: its path, and a fresh descriptor."""

    def __init__(self, root: bytes, executable: bytes, open_executable: Callable[[], int]) -> None:
        self._budget = Budget()
        self.root = Node(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), b"", None, self._budget)
        self._executable = executable
        self._open_executable = open_executable

    def resolve(self, start: Node, path: bytes, *, follow: bool = True) -> Node:
        """Walk `path` from `start`; `follow` says whether a link in the last place is followed. Raises SyscallError, OSError."""
        if not path:
            raise SyscallError(errno.ENOENT)
        if path == _EXECUTABLE and follow:
            self._budget.check()
            return Node(self._open_executable(), b"exe", self.root, self._budget)
        node = self.root if path.startswith(b"/") else start
        # The names still to walk, the next one last. A slash at the end asks for a directory, as a final "." does.
        todo = _names(path)
        links = 0
        while todo:
            name = todo.pop()
            if not node.is_directory:
                raise SyscallError(errno.ENOTDIR)
            if name == b".":
                continue
            if name == b"..":
                node = node.parent or node
                continue
            child = self._child(node, name)
            if child.is_link and (todo or follow):
                links += 1
                if links > _LINKS_MAX:
                    raise SyscallError(errno.ELOOP)
                target = os.readlink(b"", dir_fd=child.fd)
                todo += _names(target)
                if target.startswith(b"/"):
                    node = self.root
                continue
            node = child
        return node

    def open(self, node: Node, flags: int) -> int:
        """A host descriptor for reading the file, or for using the device; the caller owns it. Raises SyscallError, OSError."""
        mode = node.status.st_mode
        writing = (flags & _O_ACCESS) != os.O_RDONLY or bool(flags & os.O_TRUNC)
        if stat.S_ISCHR(mode) and node.status.st_rdev in _DEVICES:
            return self._reopen(node, flags & _O_ACCESS)
        if stat.S_ISDIR(mode):
            if writing or flags & os.O_CREAT:
                raise SyscallError(errno.EISDIR)
        elif stat.S_ISLNK(mode):
            raise SyscallError(errno.ELOOP)
        elif not stat.S_ISREG(mode):
            raise SyscallError(errno.EACCES)
        if writing:
            raise SyscallError(errno.EROFS)
        if self._is_guarded(node) and node.path != b"/proc/" + node.name:
            raise SyscallError(errno.EACCES)
        return self._reopen(node, os.O_RDONLY)

    def read_link(self, start: Node, path: bytes) -> bytes:
        if path == _EXECUTABLE:
            return self._executable
        node = self.resolve(start, path, follow=False)
        if not node.is_link:
            raise SyscallError(errno.EINVAL)
        return os.readlink(b"", dir_fd=node.fd)

    def check_access(self, node: Node, mode: int) -> None:
        """access(2): nothing is writable but the devices."""
        if mode & os.W_OK and not stat.S_ISCHR(node.status.st_mode):
            raise SyscallError(errno.EROFS)
        if not os.access(f"/proc/self/fd/{node.fd}", mode):
            raise SyscallError(errno.EACCES)

    def _child(self, node: Node, name: bytes) -> Node:
        if self._is_guarded(node) and not (node.parent is self.root and name in _HARMLESS_PROC):
            raise SyscallError(errno.EACCES)
        self._budget.check()
        return Node(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=node.fd), name, node, self._budget)

    def _is_guarded(self, node: Node) -> bool:
        return node.status.st_dev in self._guarded_devices

    @cached_property
    def _guarded_devices(self) -> frozenset[int]:
        """st_dev of every file system that may not be entered, wherever it is mounted. Source: proc(5), mountinfo."""
        found = set()
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            fields = line.split()
            if fields[fields.index(b"-") + 1] in _GUARDED_FILE_SYSTEMS:
                major, minor = fields[2].split(b":")
                found.add(os.makedev(int(major), int(minor)))
        return frozenset(found)

    @staticmethod
    def _reopen(node: Node, access: int) -> int:
        # By its descriptor: what is opened is what was looked at, whatever its name means by now.
        return os.open(f"/proc/self/fd/{node.fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _names(path: bytes) -> list[bytes]:
    names = [name for name in path.split(b"/") if name]
    if path.endswith(b"/"):
        names.append(b".")
    names.reverse()
    return names
