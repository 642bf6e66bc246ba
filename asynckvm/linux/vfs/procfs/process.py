"""/proc/PID and /proc/PID/task/TID: what is in the directory of a process or thread, and who may look at it.

A node is made for each look-up and knows whose it was, because some files are guarded by more than their mode: what shows the
insides of a process is for those who could trace it. Source: proc(5), ptrace(2) "access mode checking".
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux import tracing
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs.node import Owner
from asynckvm.linux.vfs.procfs import maps, mountinfo, net, status
from asynckvm.linux.vfs.procfs.links import DescriptorDirectory, MagicLink, NamespaceDirectory
from asynckvm.linux.vfs.synthetic import ROOT, Directory, Name, Text, inode_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location
    from asynckvm.linux.vfs.node import Node
    from asynckvm.linux.vfs.synthetic import SyntheticFileSystem


class _File(NamedTuple):
    """`guarded`: only for who may look inside. `store` takes what is written."""

    produce: Callable[[Process, Task | None], Iterable[bytes]]
    guarded: bool = False
    mode: int = 0o444
    store: Callable[[Process, Task | None, bytes], None] | None = None


_FILES: Final[Mapping[bytes, _File]] = {
    b"auxv": _File(status.auxv, guarded=True, mode=0o400),
    b"cgroup": _File(status.cgroup),
    b"cmdline": _File(status.cmdline),
    b"comm": _File(status.comm, mode=0o644, store=status.set_comm),
    b"environ": _File(status.environ, guarded=True, mode=0o400),
    b"gid_map": _File(status.id_map, mode=0o644),
    b"io": _File(status.io, guarded=True, mode=0o400),
    b"limits": _File(status.limits),
    b"loginuid": _File(status.login, mode=0o644),
    b"maps": _File(maps.maps, guarded=True),
    b"mountinfo": _File(mountinfo.mountinfo),
    b"mounts": _File(mountinfo.mounts),
    b"oom_adj": _File(status.oom_adjustment, mode=0o644),
    b"oom_score": _File(status.oom_score),
    b"oom_score_adj": _File(status.oom_adjustment, mode=0o644, store=status.set_oom_adjustment),
    b"personality": _File(status.personality, guarded=True, mode=0o400),
    b"sessionid": _File(status.login),
    b"setgroups": _File(status.setgroups, mode=0o644),
    b"smaps": _File(maps.smaps, guarded=True),
    b"smaps_rollup": _File(maps.rollup, guarded=True),
    b"stat": _File(status.stat),
    b"statm": _File(status.statm),
    b"status": _File(status.status),
    b"uid_map": _File(status.id_map, mode=0o644),
    b"wchan": _File(status.wchan),
}
_DIRECTORIES: Final[Mapping[bytes, int]] = {b"fd": 0o500, b"fdinfo": 0o555, b"ns": 0o511, b"net": 0o555}
_LINKS: Final = (b"cwd", b"exe", b"root")


def may_inspect(caller: Caller, process: Process) -> bool:
    """PTRACE_MODE_READ_FSCREDS."""
    if caller.is_root or (caller.task is not None and caller.task.process is process):
        return True
    return tracing.is_of(process, caller.credentials.euid, caller.credentials.egid)


class _ThreadDirectory(Directory):
    """What processes and threads have in common. `task` is None for the process as a whole."""

    def __init__(self, fs: SyntheticFileSystem, key: bytes, process: Process, task: Task | None, caller: Caller) -> None:
        credentials = process.credentials
        owner = Owner(credentials.euid, credentials.egid) if process.dumpable == 1 else ROOT
        super().__init__(fs, key, owner=owner)
        self.process = process
        self.task = task
        self.caller = caller

    def find(self, name: bytes, caller: Caller) -> Node | None:
        self.check_alive()
        key, process = self.key + b"/" + name, self.process
        file = _FILES.get(name)
        if file is not None:
            return self._text(key, file, caller)
        if name in _LINKS:
            return MagicLink(self.fs, key, lambda: _place(process, name), self._guard, self.owner)
        if name in (b"fd", b"fdinfo"):
            information = name == b"fdinfo"
            return DescriptorDirectory(
                self.fs, key, process, self._guard, self.owner, information=information, mode=_DIRECTORIES[name]
            )
        if name == b"ns":
            return NamespaceDirectory(self.fs, key, self._guard, self.owner)
        if name == b"net":
            return net.directory(self.fs)
        return None

    def _text(self, key: bytes, file: _File, caller: Caller) -> Text:
        process, task, store = self.process, self.task, file.store
        return Text(
            self.fs,
            key,
            lambda: self._produce(file),
            store=None if store is None else lambda data: store(process, task, data),
            guard=(lambda: self._guard(caller)) if file.guarded else None,
            mode=file.mode,
            owner=self.owner,
        )

    def _produce(self, file: _File) -> Iterator[bytes]:
        self.check_alive()
        yield from file.produce(self.process, self.task)

    def _guard(self, caller: Caller) -> None:
        self.check_alive()
        if not may_inspect(caller, self.process):
            raise SyscallError(errno.EACCES)

    def check_alive(self) -> None:
        """ESRCH for a process that was waited for; ENOENT hides that it ever was."""
        process = self.process
        if process.kernel.processes.get(process.pid) is not process:
            raise SyscallError(errno.ESRCH)
        if self.task is not None and process.tasks.get(self.task.tid) is not self.task:
            raise SyscallError(errno.ESRCH)

    def names(self) -> Iterator[Name]:
        for name in _FILES:
            yield Name(name, stat.S_IFREG, inode_of(self.key + b"/" + name))
        for name in _DIRECTORIES:
            yield Name(name, stat.S_IFDIR, inode_of(self.key + b"/" + name))
        for name in _LINKS:
            yield Name(name, stat.S_IFLNK, inode_of(self.key + b"/" + name))


class ProcessDirectory(_ThreadDirectory):
    def __init__(self, fs: SyntheticFileSystem, process: Process, caller: Caller) -> None:
        super().__init__(fs, b"%d" % process.pid, process, None, caller)

    def find(self, name: bytes, caller: Caller) -> Node | None:
        if name == b"task":
            self.check_alive()
            return _TaskList(self.fs, self.key + b"/task", self.process, self.owner)
        return super().find(name, caller)

    def names(self) -> Iterator[Name]:
        yield Name(b"task", stat.S_IFDIR, inode_of(self.key + b"/task"))
        yield from super().names()


class _TaskList(Directory):
    def __init__(self, fs: SyntheticFileSystem, key: bytes, process: Process, owner: Owner) -> None:
        super().__init__(fs, key, owner=owner)
        self._process = process

    def find(self, name: bytes, caller: Caller) -> Node | None:
        task = self._process.tasks.get(int(name)) if name.isdigit() and len(name) <= len(str(1 << 32)) else None
        return None if task is None else _ThreadDirectory(self.fs, self.key + b"/" + name, self._process, task, caller)

    def names(self) -> Iterable[Name]:
        return [Name(b"%d" % tid, stat.S_IFDIR, inode_of(self.key + b"/%d" % tid)) for tid in sorted(self._process.tasks)]


def _place(process: Process, name: bytes) -> Location:
    """What a link of the process leads to. ENOENT when there is nothing."""
    found = None
    if not process.exited:
        found = {b"cwd": process.fs.directory, b"root": process.fs.root, b"exe": process.program.location}[name]
    if found is None:
        raise SyscallError(errno.ENOENT)
    return found
