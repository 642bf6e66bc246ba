"""tmpfs: a file system in memory with Linux's semantics, bounded by a budget of bytes and inodes.

Directories keep their entries in the order of their making, each with a position that never changes. Source: tmpfs(5), inode(7),
mm/shmem.c for what it answers where the manual is silent.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.listing import Listed, Listing
from asynckvm.linux.files.memory import F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, MemoryFile
from asynckvm.linux.vfs.content import Budget, Content
from asynckvm.linux.vfs.node import NOW, RENAME_EXCHANGE, Change, Endpoint, Entry, FileSystem, Node, Owner, Statistics
from asynckvm.linux.vfs.xattrs import Xattrs
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location

_MAGIC: Final = 0x01021994
# What a directory's size counts for each entry, "." and ".." included.
_ENTRY_BYTES: Final = 20
_DAY: Final = 24 * 3600 * 10**9
# A target longer than this costs a page, as in Linux.
_SHORT_LINK: Final = 128
_ROOT: Final = Owner(0, 0)
_POSITIONS: Final = 2  # those of "." and "..", before all others


class TmpfsEntry(Entry):
    """A name with its position in the listing of its directory."""

    __slots__ = ("position",)

    def __init__(self, parent: Entry | None, name: bytes, node: TmpfsNode, position: int) -> None:
        super().__init__(parent, name, node)
        self.position = position


class Tmpfs(FileSystem):
    """An empty file system. `mode` and `owner` are those of its root directory."""

    name = b"tmpfs"
    source = b"tmpfs"

    def __init__(self, budget: Budget, *, mode: int = 0o755, owner: Owner = _ROOT) -> None:
        super().__init__()
        self.budget = budget
        self.inodes = itertools.count(1)
        self.names = itertools.count(_POSITIONS)
        self._root = TmpfsEntry(None, b"", Directory(self, stat.S_IFDIR | mode, owner), 0)

    @property
    def root(self) -> Entry:
        return self._root

    def statistics(self) -> Statistics:
        budget = self.budget
        blocks, free = budget.size // PAGE, max(budget.size - budget.used, 0) // PAGE
        return Statistics(_MAGIC, PAGE, blocks, free, free, budget.inodes, max(budget.inodes - budget.used_inodes, 0))

    def close(self) -> None:
        """Take the tree apart, so that every file goes at once: names and directories know each other."""
        directories = [self._root.node]
        while directories:
            node = directories.pop()
            if isinstance(node, Directory):
                directories += [child.node for child in node.children.values()]
                node.children.clear()

    def unnamed(self, name: bytes, mode: int, owner: Owner) -> TmpfsEntry:
        """A regular file that is in no directory, shown as `name`: what O_TMPFILE and memfd_create(2) make."""
        node = File(self, stat.S_IFREG | mode, owner)
        node.links = 0
        entry = TmpfsEntry(self._root, name, node, 0)
        entry.deleted = True
        return entry


class TmpfsNode(Node):
    """What all inodes have. Times in nanoseconds."""

    __slots__ = (
        "accessed", "born", "changed", "fs", "group", "inode", "links", "modified", "permissions", "type", "user", "xattributes",
    )  # fmt: skip

    def __init__(self, fs: Tmpfs, mode: int, owner: Owner) -> None:
        self.fs = fs
        fs.budget.charge_inode()
        self.inode = next(fs.inodes)
        self.type = stat.S_IFMT(mode)
        self.permissions = stat.S_IMODE(mode)
        self.user, self.group = owner
        self.links = 1
        self.accessed = self.modified = self.changed = self.born = time.time_ns()
        self.xattributes: Xattrs | None = None

    def __del__(self) -> None:
        # An inode for which there was no room has no number.
        if hasattr(self, "inode"):
            self.fs.budget.refund_inode()

    @property
    def identity(self) -> tuple[int, int]:
        return self.fs.device, self.inode

    def attributes(self) -> Attributes:
        size, blocks = self.sizes()
        return Attributes(
            self.fs.device, self.inode, self.type | self.permissions, self.links, self.user, self.group, 0, size, PAGE, blocks,
            self.accessed, self.modified, self.changed, self.born,
        )  # fmt: skip

    def sizes(self) -> tuple[int, int]:
        """Size in bytes, and blocks."""
        return 0, 0

    def accessed_now(self) -> None:
        """As mounted with relatime."""
        now = time.time_ns()
        if self.accessed <= self.modified or self.accessed <= self.changed or now - self.accessed >= _DAY:
            self.accessed = now

    def modified_now(self) -> None:
        self.modified = self.changed = time.time_ns()

    def change(self, change: Change) -> None:
        now = self.changed = time.time_ns()
        if change.user is not None:
            self.user = change.user
        if change.group is not None:
            self.group = change.group
        if change.mode is not None:
            self.permissions = stat.S_IMODE(change.mode)
        if change.accessed is not None:
            self.accessed = now if change.accessed == NOW else change.accessed
        if change.modified is not None:
            self.modified = now if change.modified == NOW else change.modified

    def xattrs(self) -> Iterator[bytes]:
        return iter(self.xattributes or ())

    def get_xattr(self, name: bytes) -> bytes:
        return (self.xattributes or Xattrs(self.fs.budget)).get(name)

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        if self.xattributes is None:
            self.xattributes = Xattrs(self.fs.budget)
        self.xattributes.set(name, value, flags)
        self.changed = time.time_ns()

    def remove_xattr(self, name: bytes) -> None:
        (self.xattributes or Xattrs(self.fs.budget)).remove(name)
        self.changed = time.time_ns()


class File(TmpfsNode):
    """A regular file."""

    __slots__ = ("content", "linkable", "seals")

    def __init__(self, fs: Tmpfs, mode: int, owner: Owner) -> None:
        super().__init__(fs, mode, owner)
        self.content = Content(fs.budget)
        self.seals = F_SEAL_SEAL
        # Has never had a name and may be given one.
        self.linkable = False

    def sizes(self) -> tuple[int, int]:
        return self.content.size, self.content.allocated // 512

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        if flags & os.O_TRUNC:
            self.truncate(0)
        return MemoryFile(self, flags)

    def drop_privileges(self) -> None:
        """Set-user-ID, and set-group-ID where it is not a mark for locking."""
        self.permissions &= ~(stat.S_ISUID | (stat.S_ISGID if self.permissions & stat.S_IXGRP else 0))

    def truncate(self, length: int) -> None:
        size = self.content.size
        if (length < size and self.seals & F_SEAL_SHRINK) or (length > size and self.seals & F_SEAL_GROW):
            raise SyscallError(errno.EPERM)
        self.content.truncate(length)
        self.modified_now()


class Link(TmpfsNode):
    """A symbolic link."""

    __slots__ = ("_charged", "target")

    def __init__(self, fs: Tmpfs, owner: Owner, target: bytes) -> None:
        self._charged = 0
        super().__init__(fs, stat.S_IFLNK | 0o777, owner)
        if len(target) > _SHORT_LINK:
            fs.budget.charge(PAGE)
            self._charged = PAGE
        self.target = target

    def __del__(self) -> None:
        super().__del__()
        self.fs.budget.refund(self._charged)

    def sizes(self) -> tuple[int, int]:
        return len(self.target), self._charged // 512

    def read_link(self, caller: Caller) -> bytes:  # noqa: ARG002
        self.accessed_now()
        return self.target


class Meeting(TmpfsNode):
    """A FIFO or a socket."""

    __slots__ = ("_endpoint",)

    def __init__(self, fs: Tmpfs, mode: int, owner: Owner) -> None:
        super().__init__(fs, mode, owner)
        self._endpoint = Endpoint()

    def endpoint(self) -> Endpoint:
        return self._endpoint


class Directory(TmpfsNode):
    """A directory. All its names come from the callers' one set of checks: here they are only kept."""

    __slots__ = ("children", "version")

    def __init__(self, fs: Tmpfs, mode: int, owner: Owner) -> None:
        super().__init__(fs, mode, owner)
        self.children: dict[bytes, TmpfsEntry] = {}
        self.links = 2
        self.version = 0

    def sizes(self) -> tuple[int, int]:
        return (len(self.children) + 2) * _ENTRY_BYTES, 0

    def lookup(self, entry: Entry, name: bytes, caller: Caller) -> Entry:  # noqa: ARG002
        child = self.children.get(name)
        if child is None:
            raise SyscallError(errno.ENOENT)
        return child

    def open(self, flags: int, location: Location) -> OpenFile:
        return Listing(self, location, flags)

    def listing(self, entry: Entry, position: int) -> Iterator[Listed]:
        self.accessed_now()
        if position < 1:
            yield Listed(1, b".", self.inode, self.type)
        if position < _POSITIONS:
            parent = entry.up()
            yield Listed(_POSITIONS, b"..", parent.node.identity[1] if parent is not None else self.inode, self.type)
        for name, child in self.children.items():
            if child.position >= position:
                yield Listed(child.position + 1, name, child.node.identity[1], child.node.type)

    # ------------------------------------------------------------ names

    def make(self, entry: Entry, name: bytes, mode: int, owner: Owner, target: bytes = b"") -> Entry:
        if name in self.children:
            raise SyscallError(errno.EEXIST)
        kind = stat.S_IFMT(mode)
        node: TmpfsNode
        if kind == stat.S_IFREG:
            node = File(self.fs, mode, owner)
        elif kind == stat.S_IFDIR:
            node = Directory(self.fs, mode, owner)
        elif kind == stat.S_IFLNK:
            node = Link(self.fs, owner, target)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            node = Meeting(self.fs, mode, owner)
        else:
            raise SyscallError(errno.EPERM)
        child = TmpfsEntry(entry, name, node, 0)
        self._insert(child, name, entry)
        return child

    def make_unnamed(self, entry: Entry, mode: int, owner: Owner, *, linkable: bool) -> Entry:
        child = self.fs.unnamed(b"", mode, owner)
        assert isinstance(child.node, File)
        child.node.linkable = linkable
        child.parent, child.name = entry, b"#%d" % child.node.identity[1]
        return child

    def link(self, entry: Entry, name: bytes, node: Node) -> None:
        assert isinstance(node, TmpfsNode)
        if node.links:
            # A further name takes room as an inode does.
            self.fs.budget.charge_inode()
        node.links += 1
        node.changed = time.time_ns()
        if isinstance(node, File):
            node.linkable = False
        self._insert(TmpfsEntry(entry, name, node, 0), name, entry)

    def unlink(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        self._remove(child)

    def remove_directory(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        _check_empty(child)
        self._remove(child)

    def rename(self, entry: Entry, child: Entry, into: Entry, name: bytes, replaced: Entry | None, flags: int) -> None:
        target = into.node
        assert isinstance(child, TmpfsEntry)
        assert isinstance(target, Directory)
        old = child.name
        if flags & RENAME_EXCHANGE:
            assert isinstance(replaced, TmpfsEntry)
            self._take(child)
            target._take(replaced)
            self._insert(replaced, old, entry)
        else:
            if replaced is not None:
                if replaced.node.is_directory:
                    _check_empty(replaced)
                target._remove(replaced)
            self._take(child)
        target._insert(child, name, into)
        child.node.change(Change())

    def _insert(self, child: TmpfsEntry, name: bytes, entry: Entry) -> None:
        child.parent, child.name, child.position = entry, name, next(self.fs.names)
        child.deleted = False
        self.children[name] = child
        self.links += child.node.is_directory
        self._changed()

    def _take(self, child: TmpfsEntry) -> None:
        del self.children[child.name]
        self.links -= child.node.is_directory
        self._changed()

    def _remove(self, child: Entry) -> None:
        assert isinstance(child, TmpfsEntry)
        node = child.node
        assert isinstance(node, TmpfsNode)
        self._take(child)
        child.deleted = True
        if isinstance(node, Directory):
            node.links = 0
        else:
            node.links -= 1
            if node.links:
                self.fs.budget.refund_inode()
        node.changed = time.time_ns()

    def _changed(self) -> None:
        self.version += 1
        self.modified_now()


def _check_empty(child: Entry) -> None:
    assert isinstance(child.node, Directory)
    if child.node.children:
        raise SyscallError(errno.ENOTEMPTY)
