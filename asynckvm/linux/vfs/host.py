"""A directory of the host as a file system: every access goes through its descriptor and `openat2`, so none can lead outside.

An inode of the host is told by its name only: nothing is kept about it, no descriptor either, so `HostEntry` is name and node in
one. Only regular files and directories can be opened. FIFOs and sockets are names at which this sandbox's own processes meet,
never the host's; devices are to look at; set-user-ID bits are neither heeded nor made. Source: path_resolution(7), openat2(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import time
import weakref
from typing import TYPE_CHECKING, Final

from asynckvm.errors import UsageError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.host import HostDescriptor, HostDirectory
from asynckvm.linux.files.open_file import O_ACCESS
from asynckvm.linux.vfs import host_names
from asynckvm.linux.vfs.node import Change, Endpoint, Entry, FileSystem, Node, Owner, Statistics
from asynckvm.linux.vfs.openat2 import look_beneath, open_beneath, require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.content import Budget
    from asynckvm.linux.vfs.location import Location

# <linux/magic.h>: file systems whose content is a kernel's state, through which a guest could reach this very process:
# proc, sysfs, debugfs, tracefs, securityfs, bpf, both cgroups, configfs, devpts, efivarfs.
_GUARDED: Final = frozenset(
    {0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x27E0EB, 0x63677270, 0x62656570, 0x1CD1, 0xDE5E81E4}
)
_STATFS_BYTES: Final = 120
_fstatfs = ctypes.CDLL(None, use_errno=True).fstatfs
# What open(2) may be told about a file of the host.
_OPEN_FLAGS: Final = O_ACCESS | os.O_APPEND | os.O_TRUNC
# How long a user other than root is believed to be allowed to search the directories of a read-only tree, and how many.
_BELIEVED_SECONDS: Final = 1.0
_BELIEVED_MAX: Final = 1024
_USER_XATTR: Final = b"user."
_TYPE: Final = 0o170000  # S_IFMT
_DIRECTORY: Final = stat.S_IFDIR
# Device, inode and mode in struct stat.
_HEAD: Final = struct.Struct("<QQ8xI")


class HostTree(FileSystem):
    """The directory or regular file at `path`; a guest can change what is in it only when it is `writable`.

    `budget` bounds how many of its files are open at a time.
    Raises OSError, UsageError for something that cannot be shared, CapabilityError on a kernel without openat2(2).
    """

    name = b"hostfs"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        *,
        writable: bool = False,
        source: bytes = b"host",
        budget: Budget | None = None,
    ) -> None:
        self.fd = -1
        require()
        real = os.path.realpath(os.fsencode(path))
        status = os.stat(real)  # noqa: PTH116
        name = b""
        if stat.S_ISREG(status.st_mode):
            real, name = os.path.split(real)
        elif not stat.S_ISDIR(status.st_mode):
            raise UsageError(f"only a directory or a regular file can be shared, and {os.fsdecode(real)} is neither")
        self.fd = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if _magic(self.fd) in _GUARDED:
            raise UsageError(f"{os.fsdecode(real)} shows the state of the host's kernel, and cannot be shared")
        # The numbers of the host's devices are also what the guest sees in stat(2).
        self.device = status.st_dev
        self.source = source
        self.writable = writable
        self.budget = budget
        # Entries that outlive a call, for renaming what somebody holds; and the meeting points of FIFOs and sockets.
        self.kept: weakref.WeakValueDictionary[int, HostEntry] = weakref.WeakValueDictionary()
        self.endpoints: weakref.WeakValueDictionary[tuple[int, int], Endpoint] = weakref.WeakValueDictionary()
        self._believed: set[tuple[object, ...]] = set()
        self._believed_until = 0.0
        # The file's name, when it is one file only.
        self.base = name
        self._root = HostEntry(self, name, stat.S_IFMT(status.st_mode))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    @property
    def root(self) -> Entry:
        return self._root

    def statistics(self) -> Statistics:
        found = os.fstatvfs(self.fd)
        return Statistics(
            _magic(self.fd), found.f_bsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_namemax,
        )  # fmt: skip

    def look(self, path: bytes, *, follow: bool = False) -> HostEntry:
        """What `path` names, or the first link on the way there. SyscallError."""
        status, taken, target = look_beneath(self.fd, path or b".", follow=follow)
        device, inode, mode = _HEAD.unpack_from(status)
        entry = HostEntry(self, path[:taken], mode & _TYPE)
        entry._identity = device, inode
        entry._status, entry._target = status, target
        return entry

    def check_search(self, path: bytes, caller: Caller) -> None:
        """Whether the caller may search each directory on the way to `path`. EACCES, ENOTDIR, ELOOP for a link among them."""
        now = time.monotonic()
        if self.writable or now >= self._believed_until or len(self._believed) > _BELIEVED_MAX:
            self._believed.clear()
            self._believed_until = now + _BELIEVED_SECONDS
        credentials = caller.credentials
        known = (path.rpartition(b"/")[0], credentials.euid, credentials.egid, credentials.groups)
        if known in self._believed:
            return
        end = 0
        while end >= 0:
            directory = self.look(path[:end])
            if directory.is_link:
                raise SyscallError(errno.ELOOP)
            if not directory.is_directory:
                raise SyscallError(errno.ENOTDIR)
            caller.check(directory.attributes(), os.X_OK)
            end = path.find(b"/", end + 1)
        self._believed.add(known)


class HostEntry(Entry, Node):
    """A name below the tree and what it leads to. `relative` is its path from the tree's directory, b"" for that itself."""

    __slots__ = ("_endpoint", "_identity", "_made", "_status", "_target", "relative", "tree", "type")

    leaps = True

    def __init__(self, tree: HostTree, relative: bytes, kind: int) -> None:
        self.tree = tree
        self.relative = relative
        # What the walk just saw, for the call that walked; only the identity is true any more afterwards.
        self._status = self._target = b""
        self._identity: tuple[int, int] | None = None
        # Kept by whoever keeps the entry; there is one for all entries of the inode.
        self._endpoint: Endpoint | None = None
        # Made by the call that is being answered: its maker may open it as it likes, whatever its mode.
        self._made = False
        self.type = kind
        self.deleted = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostEntry) and self.relative == other.relative and self.tree is other.tree

    def __hash__(self) -> int:
        return hash((id(self.tree), self.relative))

    # ------------------------------------------------------------ as a name

    @property
    def node(self) -> HostEntry:  # type: ignore[override]
        return self

    @property
    def name(self) -> bytes:  # type: ignore[override]
        return self.relative.rpartition(b"/")[2]

    @property
    def parent(self) -> Entry | None:  # type: ignore[override]
        return self.up()

    def up(self) -> HostEntry | None:
        if self.relative in (b"", self.tree.base):
            return None
        return HostEntry(self.tree, self.relative.rpartition(b"/")[0], stat.S_IFDIR)

    @property
    def path(self) -> bytes:
        return b"/" + self.relative if self.relative else b""

    def is_below(self, other: Entry) -> bool:
        if not isinstance(other, HostEntry) or other.tree is not self.tree:
            return False
        return not other.relative or self.relative == other.relative or self.relative.startswith(other.relative + b"/")

    def look(self, names: Sequence[bytes], caller: Caller, *, follow: bool) -> tuple[HostEntry, int]:
        if self.deleted:
            raise SyscallError(errno.ENOENT)
        if self.type != _DIRECTORY:
            raise SyscallError(errno.ENOTDIR)
        relative = self.below(b"/".join(names))
        try:
            found = self.tree.look(relative, follow=follow)
        except SyscallError:
            # What the caller may not search, it is not told about either.
            if caller.credentials.euid:
                self.tree.check_search(relative, caller)
            raise
        if caller.credentials.euid:
            self.tree.check_search(found.relative, caller)
        left = len(relative) - len(found.relative)
        if not left:
            return found, len(names)
        if len(found.relative) <= len(self.relative):
            raise SyscallError(errno.ELOOP)  # this directory itself, or one above it, became a link
        return found, len(names) - relative.count(b"/", -left)

    def names_to_mount(self, names: Sequence[bytes], points: Iterable[Entry]) -> int:
        path = self.below(b"/".join(names)) + b"/"
        start = self.relative.count(b"/") if self.relative else -1
        depths = [len(names)]
        for point in points:
            if isinstance(point, HostEntry) and path.startswith(point.relative + b"/"):
                depth = point.relative.count(b"/") - start
                depths += [depth] if depth > 0 else []
        return min(depths)

    def below(self, name: bytes) -> bytes:
        return self.relative + b"/" + name if self.relative else name

    # ------------------------------------------------------------ as a node

    @property
    def identity(self) -> tuple[int, int]:
        return self._identity or self._see().identity

    def settle(self) -> None:
        self._status = self._target = b""
        self._made = False
        if self.tree.writable:
            self.tree.kept[id(self)] = self

    def reach(self, flags: int = os.O_PATH) -> int:
        """A descriptor of this very inode, owned by the caller. ESTALE when the name leads to another one by now."""
        if self.deleted:
            raise SyscallError(errno.ENOENT)
        return open_beneath(self.tree.fd, self.relative or b".", flags, self._identity or self._see().identity)

    def _see(self, *, follow: bool = False) -> HostEntry:
        """What is there now, which has to be this very inode, as in `reach`."""
        if self.deleted:
            raise SyscallError(errno.ENOENT)
        now = self.tree.look(self.relative, follow=follow)
        if now.relative != self.relative:
            raise SyscallError(errno.ELOOP)
        if self._identity is None:
            self._identity = now.identity
        elif self._identity != now.identity:
            raise SyscallError(errno.ESTALE)
        return now

    def attributes(self) -> Attributes:
        return Attributes.of_status(self.status())

    def status(self) -> bytes:
        return self._status or self._see()._status

    def lookup(self, entry: Entry, name: bytes, caller: Caller) -> Entry:  # noqa: ARG002
        return self.look((name,), caller, follow=False)[0]

    def read_link(self, caller: Caller) -> bytes:  # noqa: ARG002
        if not self.is_link:
            raise SyscallError(errno.EINVAL)
        return self._target or self._see(follow=True)._target

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        self._check_writable(flags)
        if self.tree.budget is None:
            return self._open(flags)
        self.tree.budget.charge_descriptor()
        try:
            file = self._open(flags)
        except BaseException:
            self.tree.budget.refund_descriptor()
            raise
        file.watch_close(self._closed)
        return file

    def _closed(self, file: OpenFile) -> None:  # noqa: ARG002
        assert self.tree.budget is not None
        self.tree.budget.refund_descriptor()

    def _open(self, flags: int) -> OpenFile:
        if self.type == _DIRECTORY:
            return HostDirectory(self.reach(os.O_RDONLY | os.O_DIRECTORY), flags)
        if self.type != stat.S_IFREG:
            raise SyscallError(errno.ENXIO if self.type == stat.S_IFSOCK else errno.EACCES)
        how = flags & _OPEN_FLAGS | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = self.reach(how)
        except SyscallError as error:
            if error.number != errno.EACCES or not self._made:
                raise
            fd = host_names.open_made(self, how)
        return HostDescriptor(fd, flags, regular=True)

    def _check_writable(self, flags: int) -> None:
        if not self.tree.writable and (flags & O_ACCESS != os.O_RDONLY or flags & os.O_TRUNC):
            raise SyscallError(errno.EROFS)

    def endpoint(self) -> Endpoint:
        if self.type not in (stat.S_IFIFO, stat.S_IFSOCK):
            raise SyscallError(errno.ENXIO)
        if self._endpoint is None:
            self._endpoint = self.tree.endpoints.setdefault(self.identity, Endpoint())
        return self._endpoint

    # ------------------------------------------------------------ names, in a writable tree

    def make(self, entry: Entry, name: bytes, mode: int, owner: Owner, target: bytes = b"") -> Entry:  # noqa: ARG002
        with host_names.directory(self) as fd:
            host_names.make(fd, name, mode, owner, target)
        relative = self.below(name)
        made = self.tree.look(relative)
        made._made = True
        return made

    def link(self, entry: Entry, name: bytes, node: Node) -> None:  # noqa: ARG002
        if not isinstance(node, HostEntry) or node.tree is not self.tree:
            raise SyscallError(errno.EXDEV)
        with host_names.directory(self) as fd, host_names.directory(node.up()) as source:
            os.link(node.name, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)

    def unlink(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        with host_names.directory(self) as fd:
            os.unlink(child.name, dir_fd=fd)
        self._gone(child)

    def remove_directory(self, entry: Entry, child: Entry) -> None:  # noqa: ARG002
        with host_names.directory(self) as fd:
            os.rmdir(child.name, dir_fd=fd)
        self._gone(child)

    def rename(self, entry: Entry, child: Entry, into: Entry, name: bytes, replaced: Entry | None, flags: int) -> None:  # noqa: ARG002
        assert isinstance(into, HostEntry)
        old, new = self.below(child.name), into.below(name)
        with host_names.directory(self) as source, host_names.directory(into) as target:
            host_names.rename(source, child.name, target, name, flags)
        for item in list(self.tree.kept.values()):
            if item.deleted:
                continue
            if item.relative == old or item.relative.startswith(old + b"/"):
                item.relative = new + item.relative[len(old) :]
            elif item.relative == new or item.relative.startswith(new + b"/"):
                if replaced is not None and flags:
                    item.relative = old + item.relative[len(new) :]
                else:
                    item.deleted = True

    def _gone(self, child: Entry) -> None:
        for item in list(self.tree.kept.values()):
            if item == child:
                item.deleted = True

    # ------------------------------------------------------------ attributes, in a writable tree

    def change(self, change: Change) -> None:
        self._check_writable(os.O_WRONLY)
        before = self.attributes()
        if self.is_link:
            with host_names.directory(self.up()) as fd:
                host_names.change(self.name, change, before, directory=fd)
            return
        fd = self.reach()
        try:
            host_names.change(b"/proc/self/fd/%d" % fd, change, before)
        finally:
            os.close(fd)
            self._status = b""

    def truncate(self, length: int) -> None:
        self._check_writable(os.O_WRONLY)
        if self.type != stat.S_IFREG:
            raise SyscallError(errno.EINVAL)
        fd = self.reach()
        try:
            os.truncate(f"/proc/self/fd/{fd}", length)
        finally:
            os.close(fd)
            self._status = b""

    def xattrs(self) -> Iterator[bytes]:
        if not (self.is_directory or self.type == stat.S_IFREG):
            return iter(())
        fd = self.reach()
        try:
            names = os.listxattr(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return (found for found in map(os.fsencode, names) if found.startswith(_USER_XATTR))

    def get_xattr(self, name: bytes) -> bytes:
        """Those of users only: the others are between the host and its own programs."""
        if not name.startswith(_USER_XATTR):
            raise SyscallError(errno.EOPNOTSUPP if name.startswith(b"system.") else errno.ENODATA)
        if not (self.is_directory or self.type == stat.S_IFREG):
            raise SyscallError(errno.ENODATA)
        fd = self.reach()
        try:
            return os.getxattr(f"/proc/self/fd/{fd}", name)
        finally:
            os.close(fd)


def _magic(fd: int) -> int:
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int.from_bytes(buffer.raw[:8], "little")
