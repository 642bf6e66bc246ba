"""The root of a sandbox when nobody asks for another: the host's programs and libraries to read, everything else its own.

Of the host's /etc only what programs need to start and what holds no secret: never its users, keys, hosts or resolver.
Source: hier(7), the Filesystem Hierarchy Standard.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.errors import UsageError
from asynckvm.linux import uts
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import names, opening
from asynckvm.linux.vfs.caller import Caller, FileSystemContext
from asynckvm.linux.vfs.changes import set_mode, set_owner
from asynckvm.linux.vfs.content import Budget
from asynckvm.linux.vfs.host import HostTree
from asynckvm.linux.vfs.mounts import ST_RDONLY, Mounts
from asynckvm.linux.vfs.resolve import resolve
from asynckvm.linux.vfs.tmpfs import Tmpfs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.vfs.location import Location
    from asynckvm.linux.vfs.node import FileSystem

SIZE: Final = 512 << 20
INODES: Final = 1 << 16

# Top-level names of the host that hold programs: links or directories, as the host has them.
_PROGRAMS: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Below the host's /etc. Directories are shared, files copied, links kept when they lead into what is shared.
_SHARED: Final = ("alternatives", "ssl/certs", "ld.so.conf.d", "python3", "python3.11", "perl", "terminfo", "xml", "fonts")
_COPIED: Final = (
    "ld.so.cache", "ld.so.conf", "ssl/openssl.cnf", "localtime", "timezone", "mime.types", "services", "protocols", "rpc",
    "debian_version", "os-release", "issue", "shells", "magic", "inputrc",
)  # fmt: skip
_COPY_MAX: Final = 1 << 20
_DIRECTORIES: Final = {
    "etc": 0o755, "tmp": 0o1777, "home": 0o755, "root": 0o700, "run": 0o755, "run/lock": 0o1777, "var": 0o755,
    "var/tmp": 0o1777, "var/lib": 0o755, "var/cache": 0o755, "var/log": 0o755, "work": 0o755, "proc": 0o555, "dev": 0o755,
    "dev/shm": 0o1777, "sys": 0o555, "mnt": 0o755, "opt": 0o755, "srv": 0o755,
}  # fmt: skip
_LINKS: Final = {"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "../proc/self/mounts"}
_NSSWITCH: Final = (
    "passwd: files\ngroup: files\nshadow: files\nnetworks: files\nprotocols: files\nservices: files\nhosts: files{resolver}\n"
)


@dataclass(frozen=True, slots=True)
class User:
    """Who programs run as, for /etc/passwd and the directories that are theirs."""

    name: str = "root"
    uid: int = 0
    gid: int = 0

    @property
    def home(self) -> str:
        return "/root" if self.uid == 0 else f"/home/{self.name}"


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host at a path of the sandbox."""

    source: str | os.PathLike[str]
    target: str
    writable: bool = False


class _Root:
    """The sandbox's root user."""

    @property
    def euid(self) -> int:
        return 0

    @property
    def egid(self) -> int:
        return 0

    @property
    def groups(self) -> tuple[int, ...]:
        return ()


class Builder:
    """Fills a sandbox's mounts from the host's side, as its root user. Paths are absolute ones of the sandbox."""

    def __init__(self, mounts: Mounts) -> None:
        self.mounts = mounts
        self.budget = mounts.unnamed.budget
        self._fs = FileSystemContext(mounts, umask=0)
        self._caller = Caller(self._fs, _Root())

    def find(self, path: str) -> Location:
        return resolve(self._caller, self._fs.root, os.fsencode(path))

    def has(self, path: str) -> bool:
        try:
            self.find(path)
        except SyscallError:
            return False
        return True

    def directory(self, path: str, mode: int = 0o755) -> Location:
        """With the directories above it, as far as they lack."""
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent not in ("/", "") and not self.has(parent):
            self.directory(parent)
        if not self.has(path):
            names.make(self._caller, self._fs.root, os.fsencode(path), stat.S_IFDIR | mode)
        return self.find(path)

    def link(self, path: str, target: str) -> None:
        names.make(self._caller, self._fs.root, os.fsencode(path), stat.S_IFLNK | 0o777, os.fsencode(target))

    def file(self, path: str, content: bytes | str, mode: int = 0o644) -> Location:
        data = content.encode() if isinstance(content, str) else content
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        file = opening.open_file(self._caller, self._fs.root, os.fsencode(path), flags, mode)
        with file.held():
            file.write(data)
        return self.find(path)

    def give(self, path: str, user: User) -> None:
        set_owner(self._caller, self.find(path), user.uid, user.gid)

    def mode(self, path: str, mode: int) -> None:
        set_mode(self._caller, self.find(path), mode)

    def mount(self, fs: FileSystem, path: str, flags: int = 0) -> None:
        """The mount point is made when it lacks. Closes the file system when that cannot be."""
        try:
            if not self.has(path):
                if fs.root.node.is_directory:
                    self.directory(path)
                else:
                    self.directory(os.path.dirname(path))  # noqa: PTH120
                    self.file(path, b"")
            self.mounts.add(fs, self.find(path), flags)
        except BaseException:
            fs.close()
            raise

    def bind(self, bind: Bind) -> None:
        if not bind.target.startswith("/"):
            raise UsageError(f"a directory is bound at an absolute path, not at {bind.target!r}")
        tree = HostTree(bind.source, writable=bind.writable, budget=self.budget)
        try:
            self.mount(tree, bind.target, 0 if bind.writable else ST_RDONLY)
        except SyscallError as error:
            raise OSError(error.number, "nothing can be bound there", bind.target) from None


def build(
    *,
    user: User = User(),
    hostname: str = uts.NODE,
    binds: Sequence[Bind] = (),
    proc: FileSystem | None = None,
    devices: FileSystem | None = None,
    size: int = SIZE,
    inodes: int = INODES,
    resolver: bool = False,
) -> Mounts:
    """The mounts of a new sandbox. `size` and `inodes` bound all its files in memory; `proc` and `devices` are for /proc, /dev;
    /etc names `hostname` as the machine itself, by default the one uname(2) tells. With `resolver`, programs look for names also
    where /etc/resolv.conf says, which is empty until somebody binds or writes one.

    Raises OSError, UsageError and CapabilityError for what of the host cannot be shared.
    """
    budget = Budget(size, inodes)
    builder = Builder(Mounts(Tmpfs(budget), memory=Tmpfs(budget)))
    try:
        _fill(builder, user, hostname, proc, devices)
        builder.file("/etc/nsswitch.conf", _NSSWITCH.format(resolver=" dns" if resolver else ""))
        for bind in binds:
            builder.bind(bind)
    except BaseException:
        builder.mounts.close()  # with its descriptors of the host, at once
        raise
    return builder.mounts


def _fill(builder: Builder, user: User, hostname: str, proc: FileSystem | None, devices: FileSystem | None) -> None:
    for path, mode in _DIRECTORIES.items():
        builder.directory(f"/{path}", mode)
    for path, target in _LINKS.items():
        builder.link(f"/{path}", target)
    for name in _PROGRAMS:
        _share(builder, f"/{name}")
    _fill_etc(builder, user, hostname)
    builder.give("/work", user)
    if user.uid != 0:
        builder.directory(user.home, 0o755)
        builder.give(user.home, user)
    if proc is not None:
        builder.mount(proc, "/proc")
    if devices is not None:
        builder.mount(devices, "/dev")
    if builder.has("/dev/shm"):  # noqa: S108
        builder.mount(Tmpfs(builder.budget, mode=0o1777), "/dev/shm")  # noqa: S108


def _share(builder: Builder, path: str) -> None:
    """A directory of the host at the same path, to read; the link when it is one there."""
    host = Path(path)
    if host.is_symlink():
        builder.link(path, str(host.readlink()))
    elif host.is_dir():
        builder.mount(HostTree(host, budget=builder.budget), path, ST_RDONLY)


def _fill_etc(builder: Builder, user: User, hostname: str) -> None:
    builder.directory("/etc/ssl")
    for name in _SHARED:
        _share(builder, f"/etc/{name}")
    for name in _COPIED:
        _copy(builder, Path("/etc") / name)
    users = {0: ("root", 0, "/root"), user.uid: (user.name, user.gid, user.home), 65534: ("nobody", 65534, "/nonexistent")}
    builder.file(
        "/etc/passwd",
        "".join(f"{name}:x:{uid}:{gid}:{name}:{home}:/bin/sh\n" for uid, (name, gid, home) in users.items()),
    )
    groups = {0: "root", 5: "tty", user.gid: user.name, 65534: "nogroup"}
    builder.file("/etc/group", "".join(f"{name}:x:{gid}:\n" for gid, name in groups.items()))
    builder.file("/etc/hostname", f"{hostname}\n")
    builder.file("/etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost\n")
    builder.file("/etc/resolv.conf", "")
    builder.file("/etc/host.conf", "multi on\n")


def _copy(builder: Builder, host: Path) -> None:
    """A file of the host's /etc, when there is one and it is small; a link when it leads into what is shared anyway."""
    try:
        if host.is_symlink() and (target := os.path.realpath(host)).startswith("/usr/"):
            builder.link(str(host), target)
        elif host.is_file() and host.stat().st_size <= _COPY_MAX:
            builder.file(str(host), host.read_bytes())
    except PermissionError:
        return  # what this process may not read is no guest's either
