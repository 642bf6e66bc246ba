"""The root of /proc: a directory for each process, and the files about the sandbox as a whole. Source: proc(5)."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs.procfs import sysctl, system
from asynckvm.linux.vfs.procfs.process import ProcessDirectory
from asynckvm.linux.vfs.synthetic import FixedDirectory, Link, Name, SyntheticFileSystem, Text, inode_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.node import Node
    from asynckvm.linux.vfs.synthetic import Directory

_MAGIC: Final = 0x9FA0
# Numbers of processes have at most this many digits.
_DIGITS: Final = 10


class ProcFileSystem(SyntheticFileSystem):
    """Of one sandbox; mount it on /proc."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        super().__init__(b"proc", _MAGIC)

    def make_root(self) -> Directory:
        return _Root(self, self.kernel)


class _Root(FixedDirectory):
    def __init__(self, fs: SyntheticFileSystem, kernel: Kernel) -> None:
        super().__init__(fs, b"")
        self._kernel = kernel
        for name, produce in system.TEXTS.items():
            self.add(name, Text(fs, name, lambda produce=produce: produce(kernel)))  # type: ignore[misc]
        self.add(b"self", Link(fs, b"self", lambda caller: b"%d" % _own(caller).process.pid))
        self.add(b"thread-self", Link(fs, b"thread-self", _thread_self))
        self.add(b"mounts", Link(fs, b"mounts", lambda _: b"self/mounts"))
        self.add(b"net", Link(fs, b"net", lambda _: b"self/net"))
        ipc = FixedDirectory(fs, b"sysvipc")
        ipc.add(b"shm", Text(fs, b"sysvipc/shm", kernel.segments.rows))
        self.add(b"sysvipc", ipc)
        self.add(b"sys", sysctl.directory(fs, kernel))

    def find(self, name: bytes, caller: Caller) -> Node | None:
        number = number_of(name)
        if number is None:
            return None
        kernel = self._kernel
        process = kernel.processes.get(number)
        if process is None and (task := kernel.tasks.get(number)) is not None:
            # Threads have directories too, which nobody lists.
            process = task.process
        if process is None:
            return None
        return ProcessDirectory(self.fs, process, caller)

    def names(self) -> Iterable[Name]:
        yield from super().names()
        for pid in sorted(self._kernel.processes):
            yield Name(b"%d" % pid, stat.S_IFDIR, inode_of(b"%d" % pid))


def number_of(name: bytes) -> int | None:
    """A process or descriptor number as Linux would write it, else None."""
    if not name.isdigit() or len(name) > _DIGITS or (name[0] == 0x30 and len(name) > 1):
        return None
    return int(name)


def _own(caller: Caller) -> Task:
    if caller.task is None:
        raise SyscallError(errno.ENOENT)
    return caller.task


def _thread_self(caller: Caller) -> bytes:
    task = _own(caller)
    return b"%d/task/%d" % (task.process.pid, task.tid)
