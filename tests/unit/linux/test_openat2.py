"""The door to the host's directories: what it finds, where it stops at links, and that no path gets it out."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import host_calls
from asynckvm.linux.vfs.openat2 import look_beneath, open_beneath

DEPTH = 40


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A directory with a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root/a/b/c").mkdir(parents=True)
    (tmp_path / "root/a/b/file").write_bytes(b"content")
    (tmp_path / "root/link").symlink_to("a/b")
    (tmp_path / "root/a/up").symlink_to("..")
    (tmp_path / "root/a/b/out").symlink_to("../../../secret")
    (tmp_path / "root/a/b/process").symlink_to("/proc/self/fd/0")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def number(call: object, *arguments: object) -> int:
    """The errno that the call fails with."""
    with pytest.raises(SyscallError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.number


def test_the_status_is_that_of_the_host(root: int) -> None:
    for path in (b".", b"a", b"a/b/file", b"link", b"a/b/out"):
        (status, taken, target), native = look_beneath(root, path), os.stat(path, dir_fd=root, follow_symlinks=False)
        assert (taken, target) == (len(path), b"")
        told = Attributes.of_status(status)
        assert told == Attributes(
            native.st_dev, native.st_ino, native.st_mode, native.st_nlink, native.st_uid, native.st_gid, native.st_rdev,
            native.st_size, native.st_blksize, native.st_blocks, native.st_atime_ns, native.st_mtime_ns, native.st_ctime_ns,
        )  # fmt: skip
        assert told.status == status
        _, _, target = look_beneath(root, path, follow=True)
        assert target == (os.readlink(path, dir_fd=root) if stat.S_ISLNK(native.st_mode) else b"")


def test_devices_and_times_before_the_epoch_keep_their_numbers(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path / "old"):
        fd = os.open(path, os.O_RDONLY | os.O_CREAT)
        try:
            if path.name == "old":
                os.utime(fd, ns=(-1, -1_500_000_000))
            status, native = host_calls.status(fd), os.fstat(fd)
            told = Attributes.of_status(status)
            assert (told.special, told.accessed, told.modified) == (native.st_rdev, native.st_atime_ns, native.st_mtime_ns)
            assert told.status == status
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    ("path", "first"),
    [
        (b"link/file", b"link"), (b"link/c/d/e", b"link"), (b"a/up/a/up/link", b"a/up"), (b"a/b/out/x", b"a/b/out"),
        (b"a/b/process/x/y", b"a/b/process"), (b"link//", b"link"), (b"a/up/secret/" + b"x/" * 100 + b"x", b"a/up"),
    ],
)  # fmt: skip
def test_the_first_link_on_the_way_is_found(root: int, path: bytes, first: bytes) -> None:
    _, taken, target = look_beneath(root, path)
    assert path[:taken] == first
    assert target == os.readlink(first, dir_fd=root)


@pytest.mark.parametrize("at", range(DEPTH))
def test_a_link_is_found_at_any_depth(tmp_path: Path, at: int) -> None:
    names = [b"d%d" % index * (1 + index % 3) for index in range(DEPTH)]
    os.makedirs(os.fsencode(tmp_path) + b"/" + b"/".join(names[:at]), exist_ok=True)
    link = b"/".join(names[: at + 1])
    os.symlink(b"/" + b"x" * 4000, os.fsencode(tmp_path) + b"/" + link)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        _, taken, target = look_beneath(fd, b"/".join(names), follow=True)
        assert (taken, target) == (len(link), b"/" + b"x" * 4000)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"..", errno.EACCES), (b"a/../../secret", errno.EACCES), (b"/etc/passwd", errno.EACCES), (b"", errno.ENOENT),
        (b"nothing", errno.ENOENT), (b"a/nothing/link/x", errno.ENOENT), (b"a/b/file/x", errno.ENOTDIR),
        (b"a\0/../../secret", errno.EINVAL), (b"x" * 256, errno.ENAMETOOLONG), (b"a/" * 3000, errno.ENAMETOOLONG),
        (b"link/" + b"a/" * 3000, errno.ENAMETOOLONG),
    ],
)  # fmt: skip
def test_what_cannot_be_reached(root: int, path: bytes, expected: int) -> None:
    before = os.listdir("/proc/self/fd")
    assert number(look_beneath, root, path) == expected
    assert number(open_beneath, root, path) == expected
    assert number(open_beneath, root, path, os.O_RDONLY) == expected
    assert os.listdir("/proc/self/fd") == before


def test_what_is_opened_is_the_file_that_was_found(root: int) -> None:
    found = Attributes.of_status(look_beneath(root, b"a/b/file")[0])
    fd = open_beneath(root, b"a/b/file", os.O_RDONLY, found.identity)
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)
    before = os.listdir("/proc/self/fd")
    for flags in (os.O_PATH, os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):
        assert number(open_beneath, root, b"a/b/file", flags, (found.device, found.inode + 1)) == errno.ESTALE
        assert number(open_beneath, root, b"a/b/file", flags, (found.device + 1, found.inode)) == errno.ESTALE
    assert os.stat("a/b/file", dir_fd=root).st_size == len(b"content")
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):
        assert number(open_beneath, root, b"link/file", flags) == errno.ELOOP
        assert number(open_beneath, root, b"a/b/out", flags) == errno.ELOOP
    assert os.listdir("/proc/self/fd") == before


def test_entries_are_those_of_getdents(root: int) -> None:
    fd = open_beneath(root, b"a/b", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert number(host_calls.entries, fd, 10) == errno.EINVAL
        records = host_calls.entries(fd, 4096)
        names = []
        while records:
            length = int.from_bytes(records[16:18], "little")
            name, _, padding = records[19:length].partition(b"\0")
            assert not any(padding)
            names.append(name)
            records = records[length:]
        assert sorted(names) == [b".", b"..", b"c", b"file", b"out", b"process"]
        assert host_calls.entries(fd, 4096) == b""
    finally:
        os.close(fd)
    assert number(host_calls.entries, -1, 4096) == number(host_calls.status, -1) == errno.EBADF
