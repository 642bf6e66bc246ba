"""What procfs and devfs are made of: directories, texts and links that exist because somebody looks at them.

Nothing in such a tree can be created or removed by a guest. A text is produced while it is read, a bounded piece at a time,
however long it is. Source: Documentation/filesystems/seq_file.rst, getdents64(2).
"""

from __future__ import annotations

import abc
import errno
import stat
import time
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import OpenFile
from asynckvm.linux.files.listing import Listed, Listing
from asynckvm.linux.files.open_file import sought
from asynckvm.linux.vfs.node import Entry, FileSystem, Node, Owner, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location

ROOT: Final = Owner(0, 0)
# Positions in a listing of names that are numbers begin here.
_NUMBERS: Final = 1 << 16
# Most of a text that one read produces, and pieces of it that one read looks at on its way to its position.
_TEXT_BYTES: Final = 1 << 16
_PIECES: Final = 1024
# What one write to a text may be long.
STORE_BYTES: Final = 4096


class SyntheticFileSystem(FileSystem, abc.ABC):
    """`magic` is what statfs(2) tells. All of its files seem to be as old as the mount."""

    def __init__(self, name: bytes, magic: int) -> None:
        super().__init__()
        self.name = self.source = name
        self.born = time.time_ns()
        self._magic = magic
        self._root = Entry(None, b"", self.make_root())

    @property
    def root(self) -> Entry:
        return self._root

    @abc.abstractmethod
    def make_root(self) -> Directory:
        """Called once."""

    def statistics(self) -> Statistics:
        return Statistics(self._magic)


class Synthetic(Node):
    """`key` names the node within its file system: equal keys are one file."""

    def __init__(self, fs: SyntheticFileSystem, key: bytes, mode: int, owner: Owner = ROOT) -> None:
        self.fs = fs
        self.key = key
        self.owner = owner
        self.mode = mode
        self.type = stat.S_IFMT(mode)

    @property
    def identity(self) -> tuple[int, int]:
        return self.fs.device, inode_of(self.key)

    @property
    def special(self) -> int:
        """The device number of a device."""
        return 0

    def seen_by(self, caller: Caller) -> Node:  # noqa: ARG002
        """The same file for another caller: what it opens may depend on that."""
        return self

    def attributes(self) -> Attributes:
        device, inode = self.identity
        born, (user, group) = self.fs.born, self.owner
        return Attributes(
            device, inode, self.mode, links=2 if self.is_directory else 1, user=user, group=group, special=self.special,
            block_size=1024, accessed=born, modified=born, changed=born,
        )  # fmt: skip


def inode_of(key: bytes) -> int:
    """Beyond all numbers of processes and descriptors, so that those of /proc do not look like small inodes."""
    return 1 << 32 | zlib.crc32(key)


# ---------------------------------------------------------------- directories


class Name(NamedTuple):
    """What a directory lists: of `mode` only the type counts."""

    name: bytes
    mode: int
    inode: int


class Directory(Synthetic, abc.ABC):
    """What is in it is decided by `find` and `names`, each time anew; names that are numbers come last, in their order."""

    version = 0

    def __init__(self, fs: SyntheticFileSystem, key: bytes, mode: int = 0o555, owner: Owner = ROOT) -> None:
        super().__init__(fs, key, stat.S_IFDIR | mode, owner)

    @abc.abstractmethod
    def find(self, name: bytes, caller: Caller) -> Node | None:
        """None when there is nothing of that name."""

    @abc.abstractmethod
    def names(self) -> Iterable[Name]:
        """All but "." and ".."."""

    def lookup(self, entry: Entry, name: bytes, caller: Caller) -> Entry:
        node = self.find(name, caller)
        if node is None:
            raise SyscallError(errno.ENOENT)
        return Entry(entry, name, node)

    def open(self, flags: int, location: Location) -> OpenFile:
        return Listing(self, location, flags)

    def listing(self, entry: Entry, position: int) -> Iterator[Listed]:
        own, above = self.identity[1], (entry.up() or entry).node.identity[1]
        places = [Name(b".", stat.S_IFDIR, own), Name(b"..", stat.S_IFDIR, above), *self.names()]
        for place, (name, inode_type, inode) in enumerate(places):
            # A number keeps its position when others come and go.
            following = (_NUMBERS + int(name) if name.isdigit() else place) + 1
            if following > position:
                yield Listed(following, name, inode, inode_type)


class FixedDirectory(Directory):
    """Nodes that stay: each has one entry for ever, so that something can be mounted on it."""

    def __init__(self, fs: SyntheticFileSystem, key: bytes, mode: int = 0o555, owner: Owner = ROOT) -> None:
        super().__init__(fs, key, mode, owner)
        self.nodes: dict[bytes, Synthetic] = {}
        self._entries: dict[bytes, Entry] = {}

    def add(self, name: bytes, node: Synthetic) -> None:
        self.nodes[name] = node

    def find(self, name: bytes, caller: Caller) -> Node | None:  # noqa: ARG002
        return self.nodes.get(name)

    def names(self) -> Iterable[Name]:
        return [Name(name, node.mode, node.identity[1]) for name, node in self.nodes.items()]

    def lookup(self, entry: Entry, name: bytes, caller: Caller) -> Entry:
        if name in self.nodes:
            found = self._entries.get(name)
            if found is None:
                found = self._entries[name] = Entry(entry, name, self.nodes[name])
            return found
        return super().lookup(entry, name, caller)


# ---------------------------------------------------------------- texts


class Text(Synthetic):
    """A file whose content `produce` gives in pieces; `store`, if there is one, takes what is written to it.

    `guard` is called when it is opened, for what its mode cannot say.
    """

    def __init__(
        self,
        fs: SyntheticFileSystem,
        key: bytes,
        produce: Callable[[], Iterable[bytes]],
        *,
        store: Callable[[bytes], None] | None = None,
        guard: Callable[[], None] | None = None,
        mode: int = 0o444,
        owner: Owner = ROOT,
    ) -> None:
        super().__init__(fs, key, stat.S_IFREG | mode, owner)
        self.produce = produce
        self.store = store
        self._guard = guard

    def open(self, flags: int, location: Location) -> OpenFile:
        if self._guard is not None:
            self._guard()
        return OpenText(self, location, flags)

    def truncate(self, length: int) -> None:
        """Shells open what they write to with O_TRUNC: there is nothing to cut."""


class OpenText(OpenFile):
    """Of the text it keeps only what surrounds the position: a read further back produces it again from its start."""

    def __init__(self, text: Text, location: Location, flags: int) -> None:
        super().__init__(flags)
        self.location = location
        self._text = text
        self._position = 0
        self._pieces: Iterator[bytes] = iter(())
        self._buffer = b""
        self._start = -1  # of the buffer; before the first read nothing was produced

    @property
    def pollable(self) -> bool:
        return False

    def read(self, length: int) -> bytes:
        data = self.pread(length, self._position)
        self._position += len(data)
        return data

    def pread(self, length: int, offset: int) -> bytes:
        if not offset or self._start < 0 or offset < self._start:
            self._pieces = iter(self._text.produce())
            self._buffer, self._start = b"", 0
        skip = offset - self._start
        parts, size = [self._buffer], len(self._buffer)
        for _ in range(_PIECES):
            if size >= skip + min(length, _TEXT_BYTES):
                break
            piece = next(self._pieces, None)
            if piece is None:
                break
            if size <= skip:
                # What lies before the position is not needed any more.
                self._start += size
                skip -= size
                parts, size = [], 0
            parts.append(piece)
            size += len(piece)
        self._buffer = b"".join(parts)
        data = self._buffer[skip : skip + min(length, _TEXT_BYTES)] if skip < size else b""
        # The bytes of this read stay: what could not be stored is read again.
        cut = min(skip, size)
        self._buffer = self._buffer[cut:]
        self._start += cut
        return data

    def write(self, data: bytes) -> int:
        return self.pwrite(data, self._position)

    def pwrite(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        if self._text.store is None:
            raise SyscallError(errno.EIO)
        if len(data) > STORE_BYTES:
            raise SyscallError(errno.EINVAL)
        self._text.store(data)
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        self._position = sought(self._position, offset, whence)
        return self._position

    def truncate(self, length: int) -> None:
        """As for the node."""

    def attributes(self) -> Attributes:
        return self._text.attributes()


class Link(Synthetic):
    """A symbolic link whose target `target` tells for each caller."""

    def __init__(self, fs: SyntheticFileSystem, key: bytes, target: Callable[[Caller], bytes], owner: Owner = ROOT) -> None:
        super().__init__(fs, key, stat.S_IFLNK | 0o777, owner)
        self._target = target

    def read_link(self, caller: Caller) -> bytes:
        return self._target(caller)
