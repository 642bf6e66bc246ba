"""The same random calls on files of a sandbox and of the host, side by side: every result and every error has to be the same."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import Caller, HostTree
from support.sandbox_files import Files, User

CALLS = 1500
NAMES = [b"a", b"b", b"c", b"d"]
# So deep that neither `..` nor the links made here lead above the directory that both sides have alike.
DEPTH = b"1/2/3/4/5/6/7/8"
USERS = (0, 1000, 1001)
MODES = [0o000, 0o500, 0o644, 0o711, 0o755, 0o1777, 0o1777, 0o2777, 0o4755, 0o6777, 0o777, 0o777]
renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


class Native:
    """The host's own answers. Relative paths begin at `base`."""

    def __init__(self, base: Path) -> None:
        self.fd = os.open(base, os.O_RDONLY)

    def become(self, user: int) -> None:
        os.seteuid(0)
        os.setegid(user)
        os.seteuid(user)

    def chown(self, path: bytes, user: int | None, group: int | None) -> None:
        os.chown(path, *(-1 if number is None else number for number in (user, group)), dir_fd=self.fd)

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(path, mode, dir_fd=self.fd)

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(path, dir_fd=self.fd)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path, dir_fd=self.fd)

    def unlink(self, path: bytes) -> None:
        os.unlink(path, dir_fd=self.fd)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(path, dir_fd=self.fd)

    def link(self, old: bytes, new: bytes) -> None:
        os.link(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if renameat2(self.fd, old, self.fd, new, flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode, dir_fd=self.fd)

    def truncate(self, path: bytes, length: int) -> None:
        # As the system call: a relative path begins at the working directory, and opening for writing is another call.
        os.truncate(f"/proc/self/fd/{self.fd}/{os.fsdecode(path)}".encode(), length)

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path, dir_fd=self.fd)

    def status(self, path: bytes, follow: bool) -> tuple[object, ...]:
        found = os.stat(path, dir_fd=self.fd, follow_symlinks=follow)
        return shown(found.st_mode, found.st_nlink, found.st_size), found.st_uid, found.st_gid

    def use(self, path: bytes, flags: int, data: bytes) -> int:
        fd = os.open(path, flags, 0o666, dir_fd=self.fd)
        try:
            return os.write(fd, data) if flags & os.O_ACCMODE else 0
        finally:
            os.close(fd)

    def read(self, path: bytes) -> bytes:
        fd = os.open(path, os.O_RDONLY, dir_fd=self.fd)
        try:
            return os.read(fd, 1000)
        finally:
            os.close(fd)

    def list(self, path: bytes) -> list[bytes]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        try:
            return sorted(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)


class Inside(Files):
    def become(self, user: int) -> None:
        self.caller = Caller(self.context, User(user, user))

    def status(self, path: bytes, follow: bool) -> tuple[object, ...]:
        found = self.stat(path) if follow else self.lstat(path)
        return shown(found.mode, found.links, found.size), found.user, found.group

    def use(self, path: bytes, flags: int, data: bytes) -> int:
        file = self.open(path, flags)
        try:
            return file.write(data) if flags & os.O_ACCMODE else 0
        finally:
            file.release()

    def read(self, path: bytes) -> bytes:
        file = self.open(path)
        try:
            return file.read(1000)
        finally:
            file.release()

    def list(self, path: bytes) -> list[bytes]:
        return sorted(super().list(path))


def shown(mode: int, links: int, size: int) -> tuple[int, ...]:
    return mode, links, 0 if stat.S_ISDIR(mode) else size


def path_of(choice: random.Random) -> bytes:
    parts = [choice.choice([*NAMES, *NAMES, b".", b".."]) for _ in range(choice.choice([1, 1, 2, 2, 3]))]
    if parts.count(b"..") > 2:
        parts = parts[:1]
    return b"/".join(parts) + choice.choice([b"", b"", b"", b"", b"/"])


ONE_PATH = ["unlink", "unlink", "rmdir", "read", "list", "readlink"]
CALLERS: dict[str, Callable[[random.Random, tuple[int, ...]], tuple[Any, ...]]] = {
    "mkdir": lambda choice, _: (path_of(choice), choice.choice([0o777, 0o750, 0o1777])),
    "symlink": lambda choice, _: (choice.choice([*NAMES, b"../a", b"b/c", b"c/", b"./d", b"nowhere", b"."]), path_of(choice)),
    "link": lambda choice, _: (path_of(choice), path_of(choice)),
    "rename": lambda choice, _: (path_of(choice), path_of(choice), choice.choice([0, 0, 0, 1, 2, 3])),
    "use": lambda choice, users: (path_of(choice), flags_of(choice, users), bytes(choice.randrange(40))),
    "status": lambda choice, _: (path_of(choice), choice.random() < 0.5),
    "chmod": lambda choice, users: (path_of(choice), choice.choice(MODES if users else [0o600, 0o644, 0o755, 0o775])),
    "truncate": lambda choice, _: (path_of(choice), choice.choice([0, 5, 100, 10000])),
}
OF_USERS: dict[str, Callable[[random.Random, tuple[int, ...]], tuple[Any, ...]]] = {
    "become": lambda choice, users: (choice.choice(users),),
    "chown": lambda choice, users: (path_of(choice), choice.choice([None, *users]), choice.choice([None, *users])),
}
# How often, beside once each.
WEIGHTS = ["mkdir", "rename", "use", "use", "status"]


def call_of(choice: random.Random, users: tuple[int, ...]) -> tuple[str, tuple[Any, ...]]:
    makers = CALLERS | (OF_USERS if users else {})
    name = choice.choice([*makers, *WEIGHTS, *ONE_PATH])
    return name, makers[name](choice, users) if name in makers else (path_of(choice),)


def flags_of(choice: random.Random, users: tuple[int, ...]) -> int:
    flags = choice.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]) | os.O_NONBLOCK
    flags |= choice.choice([0, 0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL])
    for flag in (os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW):
        flags |= flag if choice.random() < 0.3 else 0
    if flags & os.O_CREAT and users:
        # fs.protected_regular and its kin, which hosts set differently, see to links as well.
        flags &= ~os.O_NOFOLLOW
    return flags & ~os.O_CREAT | os.O_DIRECTORY if choice.random() < 0.1 else flags


def outcome(call: Callable[..., Any], arguments: tuple[Any, ...]) -> object:
    try:
        return call(*arguments)
    except SyscallError as error:
        return error.name
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.fixture
def umask() -> Iterator[None]:
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture
def groups() -> Iterator[None]:
    old = os.getgroups()
    os.setgroups([])
    yield
    os.setgroups(old)


def compare(seed: int, inside: Inside, native: Native, users: tuple[int, ...] = ()) -> None:
    choice = random.Random(seed)
    done: list[object] = []
    failed = 0
    for _ in range(CALLS):
        name, arguments = call_of(choice, users)
        ours, theirs = outcome(getattr(inside, name), arguments), outcome(getattr(native, name), arguments)
        done.append((name, *arguments, theirs))
        assert ours == theirs, "\n".join(map(str, done[-30:]))
        failed += isinstance(theirs, str)
    # Neither a tree in which nothing is found nor one in which all is possible.
    assert CALLS // 20 < failed < CALLS * 19 // 20


@pytest.mark.usefixtures("umask")
@pytest.mark.skipif(os.geteuid() != 0, reason="the user of the sandbox is root, whom permissions do not stop")
@pytest.mark.parametrize("seed", range(6))
def test_tmpfs_answers_as_the_hosts(seed: int) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (base / DEPTH.decode()).mkdir(parents=True)
        inside = Inside()
        for end in range(1, len(DEPTH) + 1, 2):
            inside.mkdir(DEPTH[:end], 0o755)
        inside.chdir(DEPTH)
        compare(seed, inside, Native(base / DEPTH.decode()))
    finally:
        shutil.rmtree(base)


@pytest.mark.usefixtures("umask", "groups")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be one user after the other")
@pytest.mark.parametrize("seed", range(8))
def test_permissions_are_the_hosts(seed: int) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        base.chmod(0o755)
        (base / DEPTH.decode()).mkdir(parents=True)
        (base / DEPTH.decode()).chmod(0o1777)
        inside = Inside()
        for end in range(1, len(DEPTH) + 1, 2):
            inside.mkdir(DEPTH[:end], 0o755)
        inside.chdir(DEPTH)
        inside.chmod(b".", 0o1777)
        compare(seed, inside, Native(base / DEPTH.decode()), USERS)
    finally:
        os.seteuid(0)
        os.setegid(0)
        shutil.rmtree(base)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("seed", range(6))
def test_a_writable_tree_answers_as_the_directory_it_is(seed: int, tmp_path: Path) -> None:
    for side in ("inside", "native"):
        (tmp_path / side / DEPTH.decode()).mkdir(parents=True)
    inside = Inside(HostTree(tmp_path / "inside", writable=True), User(os.geteuid(), os.getegid(), tuple(os.getgroups())))
    inside.chdir(DEPTH)
    compare(seed, inside, Native(tmp_path / "native" / DEPTH.decode()))
