"""The nouns every kind of file system is made of: `Node` (an inode), `Entry` (a name of one) and `FileSystem`.

A node answers for one file and refuses what its kind cannot do. It checks no permission, knows no mount and no process: who may
do what is decided by its callers (`names`, `changes`, `opening`). Source: inode(7), Documentation/filesystems/vfs.rst.
"""

from __future__ import annotations

import abc
import errno
import itertools
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.files.pipe import Pipe
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location

NAME_MAX: Final = 255
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
# Numbers of file systems without a device, as makedev(0, n); hosts' own begin at 1.
_devices: Final = itertools.count(1 << 10)


class Owner(NamedTuple):
    """Who a new file belongs to."""

    user: int
    group: int


class Change(NamedTuple):
    """New attributes of a file; None leaves one as it is. Times in nanoseconds, -1 for now; `mode` without the file's type."""

    mode: int | None = None
    user: int | None = None
    group: int | None = None
    accessed: int | None = None
    modified: int | None = None


NOW: Final = -1


class Statistics(NamedTuple):
    """What statfs(2) tells: `magic` as in <linux/magic.h>, sizes in blocks of `block_size` bytes."""

    magic: int
    block_size: int = 4096
    blocks: int = 0
    free: int = 0
    available: int = 0
    files: int = 0
    free_files: int = 0
    name_max: int = NAME_MAX


class Endpoint:
    """What the processes of a sandbox meet at through a name: the pipe behind a FIFO, the socket bound to a path.

    There is one for each such inode. Whoever opens or binds it first sets `pipe` or `socket`.
    """

    __slots__ = ("__weakref__", "pipe", "socket")

    def __init__(self) -> None:
        self.pipe: Pipe | None = None
        self.socket: object | None = None


class Entry:
    """A name in a directory and the node it leads to, as Linux's dentry. The root of a file system has no parent."""

    __slots__ = ("__weakref__", "deleted", "name", "node", "parent")

    # Whether `look` takes several names at once.
    leaps = False

    def __init__(self, parent: Entry | None, name: bytes, node: Node) -> None:
        self.parent = parent
        self.name = name
        self.node = node
        self.deleted = False

    def up(self) -> Entry | None:
        """The directory this name is in; None at the root."""
        return self.parent

    @property
    def path(self) -> bytes:
        """From the root of the file system: b"" for that itself, else b"/a/b"."""
        names: list[bytes] = []
        entry: Entry | None = self
        while entry is not None and entry.parent is not None:
            names.append(entry.name)
            entry = entry.parent
        return b"".join(b"/" + name for name in reversed(names))

    def is_below(self, other: Entry) -> bool:
        """Whether this is `other` or inside of it."""
        entry: Entry | None = self
        while entry is not None:
            if entry == other:
                return True
            entry = entry.up()
        return False

    def look(self, names: Sequence[bytes], caller: Caller, *, follow: bool) -> tuple[Entry, int]:  # noqa: ARG002
        """What several names (none . or ..) lead to, each searched for in the one before, and how many of them did.

        All of them, unless one on the way is a link: then it is what was found. `follow`: so will the caller, if it is the last.
        """
        raise SyscallError(errno.ENOTDIR)

    def names_to_mount(self, names: Sequence[bytes], points: Iterable[Entry]) -> int:  # noqa: ARG002
        """How many of `names` one look may take, so that it ends at the first of the mount points on the way."""
        return 1


class FileSystem(abc.ABC):
    """A mounted thing: `root` is its tree, `name` its type in /proc/mounts, `source` what was mounted."""

    name: bytes = b"none"
    source: bytes = b"none"
    options: bytes = b""

    def __init__(self) -> None:
        self.device = os.makedev(0, next(_devices))

    @property
    @abc.abstractmethod
    def root(self) -> Entry: ...

    def statistics(self) -> Statistics:
        raise SyscallError(errno.ENOSYS)

    def close(self) -> None:  # noqa: B027
        """Give back what it holds of the host. Nobody uses it any more."""


class Node(abc.ABC):
    """An inode. What raises here is what most kinds refuse."""

    __slots__ = ()

    # S_IFMT of its mode, which never changes.
    type: int
    # Whether a file without any name may be given one.
    linkable: bool = False

    @property
    @abc.abstractmethod
    def identity(self) -> tuple[int, int]:
        """(device, inode): equal for two nodes of one file. Locks and watches belong to it."""

    @property
    def is_directory(self) -> bool:
        return self.type == stat.S_IFDIR

    @property
    def is_link(self) -> bool:
        return self.type == stat.S_IFLNK

    @abc.abstractmethod
    def attributes(self) -> Attributes: ...

    def status(self) -> bytes:
        """The same as struct stat."""
        return self.attributes().status

    def settle(self) -> None:  # noqa: B027
        """The node is kept beyond this call: nothing about it may be remembered that others can change."""

    # ------------------------------------------------------------ reading

    def lookup(self, entry: Entry, name: bytes, caller: Caller) -> Entry:  # noqa: ARG002
        """The entry `name` (neither . nor ..) of this directory, which was reached as `entry`. ENOENT."""
        raise SyscallError(errno.ENOTDIR)

    def read_link(self, caller: Caller) -> bytes:  # noqa: ARG002
        """Where a symbolic link points."""
        raise SyscallError(errno.EINVAL)

    def jump(self, caller: Caller) -> Location | None:  # noqa: ARG002
        """Where a magic link leads by itself, without its text being walked; None for an ordinary link."""
        return None

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        """Open what is no FIFO and no socket. `flags` are open(2)'s; creating is done already, O_TRUNC is not. Never blocks."""
        raise SyscallError(errno.ENXIO)

    def endpoint(self) -> Endpoint:
        """Of a FIFO or socket. ENXIO when it is none, or not of this sandbox."""
        raise SyscallError(errno.ENXIO)

    # ------------------------------------------------------------ names in a directory

    def make(self, entry: Entry, name: bytes, mode: int, owner: Owner, target: bytes = b"") -> Entry:  # noqa: ARG002
        """A new file of any type that `mode` says (S_IFMT and permissions); `target` for a symbolic link. EEXIST."""
        raise SyscallError(errno.EPERM)

    def make_unnamed(self, entry: Entry, mode: int, owner: Owner, *, linkable: bool) -> Entry:  # noqa: ARG002
        """For O_TMPFILE: a regular file without a name, which `link` may give it one when it is `linkable`."""
        raise SyscallError(errno.EOPNOTSUPP)

    def link(self, entry: Entry, name: bytes, node: Node) -> None:  # noqa: ARG002
        """A further name for `node`, which is no directory and of this file system."""
        raise SyscallError(errno.EPERM)

    def unlink(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        raise SyscallError(errno.EPERM)

    def remove_directory(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        raise SyscallError(errno.EPERM)

    def rename(self, entry: Entry, child: Entry, into: Entry, name: bytes, replaced: Entry | None, flags: int) -> None:  # noqa: ARG002
        """`child` of this directory becomes `name` of the directory `into`, where `replaced` is now. Types agree already."""
        raise SyscallError(errno.EPERM)

    # ------------------------------------------------------------ attributes

    def change(self, change: Change) -> None:  # noqa: ARG002
        raise SyscallError(errno.EPERM)

    def truncate(self, length: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def xattrs(self) -> Iterator[bytes]:
        """Names of extended attributes."""
        return iter(())

    def get_xattr(self, name: bytes) -> bytes:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)

    def remove_xattr(self, name: bytes) -> None:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)
