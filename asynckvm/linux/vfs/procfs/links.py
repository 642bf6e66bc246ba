"""The magic links of /proc: they lead to the file itself, whatever its name has become. Source: proc(5), symlink(7).

What an open file without a name leads to is opened once more here: a pipe gets another open file description of the same
object; a stream of the host has no second one to give, so its own is shared; all else is ENXIO, as in Linux.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import OpenFile
from asynckvm.linux.files.pipe import PipeEnd
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.mounts import Mount
from asynckvm.linux.vfs.node import Endpoint, Entry, Node
from asynckvm.linux.vfs.synthetic import Directory, Link, Name, Synthetic, Text, inode_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.node import Owner
    from asynckvm.linux.vfs.synthetic import SyntheticFileSystem
    from asynckvm.linux.wait import WaitQueue

_DELETED: Final = b" (deleted)"
# One of each kind, with the number its first instance has in Linux (include/linux/proc_ns.h).
_NAMESPACES: Final = {
    b"cgroup": 4026531835, b"ipc": 4026531839, b"mnt": 4026531841, b"net": 4026531840, b"pid": 4026531836,
    b"pid_for_children": 4026531836, b"time": 4026531834, b"time_for_children": 4026531834, b"user": 4026531837,
    b"uts": 4026531838,
}  # fmt: skip


class MagicLink(Synthetic):
    """`place` tells where it leads, `guard` raises for who may not know."""

    def __init__(
        self,
        fs: SyntheticFileSystem,
        key: bytes,
        place: Callable[[], Location],
        guard: Callable[[Caller], None],
        owner: Owner,
        mode: int = 0o777,
    ) -> None:
        super().__init__(fs, key, stat.S_IFLNK | mode, owner)
        self._place = place
        self._guard = guard

    def jump(self, caller: Caller) -> Location:
        self._guard(caller)
        location = self._place()
        node, entry = location.node, location.entry
        if isinstance(node, Synthetic) and (seen := node.seen_by(caller)) is not node:
            return Location(location.mount, Entry(entry.parent, entry.name, seen))
        return location

    def read_link(self, caller: Caller) -> bytes:
        self._guard(caller)
        return shown(self._place(), caller)


def shown(location: Location, caller: Caller) -> bytes:
    """The path as the caller would write it; what it cannot reach is shown from the root of all mounts."""
    if isinstance(location.entry, _Nameless):
        return location.entry.path
    path = location.path_from(caller.fs.root)
    path = (location.path_from(None) if path is None else path) or b"/"
    return path + _DELETED if location.entry.deleted else path


# ---------------------------------------------------------------- descriptors


class DescriptorDirectory(Directory):
    """/proc/PID/fd, and with `information` /proc/PID/fdinfo."""

    def __init__(
        self,
        fs: SyntheticFileSystem,
        key: bytes,
        process: Process,
        guard: Callable[[Caller], None],
        owner: Owner,
        *,
        information: bool,
        mode: int,
    ) -> None:
        super().__init__(fs, key, mode, owner)
        self._process = process
        self._guard = guard
        self._information = information

    def find(self, name: bytes, caller: Caller) -> Node | None:
        self._guard(caller)
        file = self._file(int(name)) if name.isdigit() and str(int(name)).encode() == name else None
        if file is None:
            return None
        number, key = int(name), self.key + b"/" + name
        if self._information:
            return Text(
                self.fs, key, lambda: self._describe(number), guard=lambda: self._guard(caller), mode=0o400, owner=self.owner
            )
        mode = (0o500 if file.readable else 0) | (0o300 if file.writable else 0)
        return MagicLink(self.fs, key, lambda: self._place(number), self._guard, self.owner, mode)

    def names(self) -> Iterable[Name]:
        if self._process.exited:
            return []
        kind = stat.S_IFREG if self._information else stat.S_IFLNK
        return [Name(b"%d" % fd, kind, inode_of(self.key + b"/%d" % fd)) for fd in self._process.files]

    def _file(self, number: int) -> OpenFile | None:
        if self._process.exited:
            return None
        try:
            return self._process.files.get(number)
        except SyscallError:
            return None

    def _place(self, number: int) -> Location:
        file = self._file(number)
        if file is None:
            raise SyscallError(errno.ENOENT)
        location = file.location
        if location is not None and not isinstance(location.entry, _Nameless):
            return location
        mount = Mount(self.fs, None, 0, 0)
        return Location(mount, _Nameless(file))

    def _describe(self, number: int) -> Iterator[bytes]:
        file = self._file(number)
        if file is None:
            raise SyscallError(errno.ENOENT)
        try:
            position = file.seek(0, os.SEEK_CUR)
        except (SyscallError, OSError):
            position = 0
        flags = file.flags | (os.O_CLOEXEC if self._process.files.closes_on_exec(number) else 0)
        mount = file.location.mount.number if file.location is not None else 0
        try:
            inode = file.attributes().inode
        except (SyscallError, OSError):
            inode = 0
        yield b"pos:\t%d\nflags:\t0%o\nmnt_id:\t%d\nino:\t%d\n" % (position, flags, mount, inode)
        yield file.details()


class _Nameless(Entry):
    """The name of an open file that has none: how /proc shows it."""

    __slots__ = ("file",)

    def __init__(self, file: OpenFile) -> None:
        super().__init__(None, b"", _OpenNode(file))
        self.file = file

    @property
    def path(self) -> bytes:
        return self.file.describe()


class _OpenNode(Node):
    """The inode of an open file without a name. Its open file is not held: what is closed cannot be opened any more."""

    __slots__ = ("_file", "type")

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self.type = stat.S_IFMT(file.attributes().mode)
        if self.type == stat.S_IFIFO and not isinstance(file, PipeEnd):
            # A stream of the host may look like a pipe, and is none that could be opened as one.
            self.type = stat.S_IFCHR

    @property
    def identity(self) -> tuple[int, int]:
        attributes = self._file.attributes()
        return attributes.device, attributes.inode

    def attributes(self) -> Attributes:
        return self._file.attributes()

    def endpoint(self) -> Endpoint:
        if not isinstance(self._file, PipeEnd):
            return super().endpoint()
        found = Endpoint()
        found.pipe = self._file.pipe
        return found

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        file = self._file
        if isinstance(file, PipeEnd):
            return PipeEnd(file.pipe, flags)
        if file.references and stat.S_IFMT(file.attributes().mode) not in (0, stat.S_IFSOCK):
            return _Shared(file, flags)
        raise SyscallError(errno.ENXIO)

    def truncate(self, length: int) -> None:
        """For O_TRUNC: nothing that can be opened here has a length."""


class _Shared(OpenFile):
    """Another open file description over the same stream, with flags of its own."""

    def __init__(self, file: OpenFile, flags: int) -> None:
        super().__init__(flags)
        if isinstance(file, _Shared):
            file = file._file  # one step, however often this is repeated
        file.hold()
        self._file: OpenFile = file
        self.queue = file.queue

    @property
    def positioned(self) -> bool:
        return self._file.positioned

    def _check(self, *, allowed: bool) -> None:
        if not allowed:
            raise SyscallError(errno.EACCES)

    def read(self, length: int) -> bytes:
        self._check(allowed=self._file.readable)
        return self._file.read(length)

    def write(self, data: bytes) -> int:
        self._check(allowed=self._file.writable)
        return self._file.write(data)

    def pread(self, length: int, offset: int) -> bytes:
        self._check(allowed=self._file.readable)
        return self._file.pread(length, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        self._check(allowed=self._file.writable)
        return self._file.pwrite(data, offset)

    def seek(self, offset: int, whence: int) -> int:
        return self._file.seek(offset, whence)

    def poll(self) -> int:
        return self._file.poll()

    def queue_for(self, task: Task) -> WaitQueue:
        return self._file.queue_for(task)

    def attributes(self) -> Attributes:
        return self._file.attributes()

    def describe(self) -> bytes:
        return self._file.describe()

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        return self._file.ioctl(task, request, argument)

    def close(self) -> None:
        self._file.release()


# ---------------------------------------------------------------- namespaces


class NamespaceDirectory(Directory):
    """A sandbox is one of each; there are no others to enter, so the links can only be read."""

    def __init__(self, fs: SyntheticFileSystem, key: bytes, guard: Callable[[Caller], None], owner: Owner) -> None:
        super().__init__(fs, key, 0o511, owner)
        self._guard = guard

    def find(self, name: bytes, caller: Caller) -> Node | None:
        self._guard(caller)
        number = _NAMESPACES.get(name)
        if number is None:
            return None
        kind = name.removesuffix(b"_for_children")
        return Link(self.fs, self.key + b"/" + name, lambda _: b"%s:[%d]" % (kind, number), self.owner)

    def names(self) -> Iterable[Name]:
        return [Name(name, stat.S_IFLNK, inode_of(self.key + b"/" + name)) for name in _NAMESPACES]
