"""System calls on files: flags, structures in guest memory, and descriptors.

What the vfs answers is compared with the host's in test_vfs_against_host.py.
"""

from __future__ import annotations

import os
import stat as modes
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.files import OpenFile
from asynckvm.linux.leases import LeaseTable
from asynckvm.linux.syscalls import changes, descriptors, directories, handles, ioctl, names, opening, status, xattrs
from asynckvm.linux.syscalls.paths import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW
from asynckvm.linux.vfs import FileSystemContext
from support.fake_tasks import DATA, lone_task
from support.sandbox_files import Files, failure

PATH = DATA + 0x8000
RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV = 8, 16, 4, 1


@pytest.fixture
def files() -> Files:
    files = Files()
    files.mkdir(b"/dir")
    files.write(b"/dir/file", b"content")
    files.symlink(b"dir/file", b"/link")
    files.symlink(b"/dir", b"/absolute")
    files.symlink(b"../..", b"/dir/up")
    return files


@pytest.fixture
def task(files: Files) -> Any:
    task = lone_task(fs=FileSystemContext(files.mounts), credentials=Credentials())
    task.process.kernel.leases = LeaseTable()
    return task


def put(task: Any, text: bytes) -> int:
    task.space.write(PATH, text + b"\0")
    return PATH


def opened(task: Any, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    fd = opening.openat(task, AT_FDCWD, path, flags, mode)
    assert isinstance(fd, int)
    return fd


def file_of(task: Any, fd: int) -> OpenFile:
    file: OpenFile = task.process.files.get(fd)
    return file


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("path", "flags", "expected"),
    [
        (b"/dir/file", os.O_DIRECTORY, "ENOTDIR"), (b"/dir", os.O_WRONLY, "EISDIR"), (b"/dir", os.O_CREAT, "EISDIR"),
        (b"/link", os.O_NOFOLLOW, "ELOOP"), (b"/link", os.O_CREAT | os.O_EXCL, "EEXIST"), (b"", os.O_RDONLY, "ENOENT"),
        (b"/dir/file", os.O_CREAT | os.O_DIRECTORY, "EINVAL"), (b"/dir", 0o20000000 | os.O_RDWR, "EINVAL"),
        (b"/dir/file/", os.O_RDONLY, "ENOTDIR"), (b"/new/", os.O_CREAT, "EISDIR"), (b"/no/new", os.O_CREAT, "ENOENT"),
        (b"/" + b"x" * 4095, os.O_RDONLY, "ENAMETOOLONG"),
    ],
)  # fmt: skip
def test_what_open_refuses(task: Any, path: bytes, flags: int, expected: str) -> None:
    assert failure(opening.openat, task, AT_FDCWD, path, flags, 0o666) == expected
    assert len(task.process.files) == 0


def test_flags_that_stay_and_flags_that_do_not(task: Any) -> None:
    fd = opened(task, b"/new", os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_EXCL, 0o6777)
    assert descriptors.fcntl(task, fd, 3, 0) == os.O_RDWR | os.O_APPEND | 0o100000
    assert descriptors.fcntl(task, fd, 1, 0) == 1
    assert file_of(task, fd).attributes().mode == modes.S_IFREG | 0o6755
    descriptors.fcntl(task, fd, 4, os.O_NONBLOCK | os.O_WRONLY | os.O_CREAT)
    assert descriptors.fcntl(task, fd, 3, 0) == os.O_RDWR | os.O_NONBLOCK | 0o100000


def test_descriptors_by_number(task: Any) -> None:
    fd = opened(task, b"/dir/file")
    assert fd == 0
    assert descriptors.dup(task, fd) == 1
    assert descriptors.dup2(task, fd, 10) == 10
    assert descriptors.dup2(task, fd, fd) == fd
    assert failure(descriptors.dup3, task, fd, fd, 0) == "EINVAL"
    assert descriptors.dup3(task, fd, 11, os.O_CLOEXEC) == 11
    assert descriptors.fcntl(task, fd, 0, 20) == 20
    assert descriptors.fcntl(task, fd, 1030, 20) == 21
    assert failure(descriptors.fcntl, task, fd, 0, 1 << 20) == "EINVAL"
    assert descriptors.fcntl(task, fd, 0, 1 << 32 | 30) == 30
    assert [descriptors.fcntl(task, number, 1, 0) for number in (10, 11, 20, 21)] == [0, 1, 0, 1]
    assert file_of(task, 10) is file_of(task, fd)
    assert opening.close_range(task, 10, 0xFFFF_FFFF, 0) == 0
    assert [*task.process.files] == [0, 1]
    assert opening.close(task, 1) == 0
    assert failure(opening.close, task, 1) == "EBADF"
    assert failure(opening.close_range, task, 5, 4, 0) == "EINVAL"


def test_path_only_descriptors(task: Any) -> None:
    fd = opened(task, b"/dir/file", os.O_PATH | os.O_WRONLY | os.O_TRUNC)
    assert descriptors.fcntl(task, fd, 3, 0) == os.O_PATH
    assert file_of(task, fd).attributes().size == 7
    for call in (
        (descriptors.lseek, 0, 0), (descriptors.ftruncate, 0), (descriptors.fallocate, 0, 0, 1), (descriptors.fsync,),
        (changes.fchmod, 0o600), (directories.getdents64, DATA, 100), (xattrs.flistxattr, 0, 0),
        (ioctl.ioctl, 0x5401, DATA),
    ):  # fmt: skip
        assert failure(call[0], task, fd, *call[1:]) == "EBADF", call
    link = opened(task, b"/link", os.O_PATH | os.O_NOFOLLOW)
    assert modes.S_ISLNK(file_of(task, link).attributes().mode)
    assert status.readlinkat(task, link, b"", DATA, 100) == 8
    directory = opened(task, b"/dir", os.O_PATH)
    assert opening.openat(task, directory, b"file", os.O_RDONLY, 0) == 3
    assert directories.fchdir(task, directory) == 0
    assert failure(opening.openat, task, fd, b"x", os.O_RDONLY, 0) == "ENOTDIR"


def how(task: Any, flags: int = 0, mode: int = 0, resolve: int = 0, tail: bytes = b"") -> tuple[int, int]:
    data = struct.pack("<QQQ", flags, mode, resolve) + tail
    task.space.write(DATA, data)
    return DATA, len(data)


@pytest.mark.parametrize(
    ("path", "resolve", "expected"),
    [
        (b"dir/file", RESOLVE_BENEATH, ""), (b"/dir/file", RESOLVE_BENEATH, "EXDEV"), (b"..", RESOLVE_BENEATH, "EXDEV"),
        (b"dir/../dir/file", RESOLVE_BENEATH, ""), (b"dir/up", RESOLVE_BENEATH, "EXDEV"), (b"absolute", RESOLVE_BENEATH, "EXDEV"),
        (b"/dir/file", RESOLVE_IN_ROOT, ""), (b"/../../dir/file", RESOLVE_IN_ROOT, ""), (b"absolute/file", RESOLVE_IN_ROOT, ""),
        (b"dir/up/dir/up/dir/file", RESOLVE_IN_ROOT, ""), (b"link", RESOLVE_NO_SYMLINKS, "ELOOP"), (b"dir/file", 63, "EINVAL"),
        (b"dir/file", RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS, ""), (b"dir/file", 64, "EINVAL"), (b"dir/file", 24, "EINVAL"),
        (b"dir/file", 32, "EAGAIN"),
    ],
)  # fmt: skip
def test_openat2_keeps_within_bounds(task: Any, files: Files, path: bytes, resolve: int, expected: str) -> None:
    assert failure(opening.openat2, task, AT_FDCWD, path, *how(task, resolve=resolve)) == expected


def test_openat2_is_strict(task: Any) -> None:
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", DATA, 23) == "EINVAL"
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", *how(task, tail=b"\0" * 8)) == ""
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", *how(task, tail=b"\1")) == "E2BIG"
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", *how(task, flags=1 << 40)) == "EINVAL"
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", *how(task, mode=0o600)) == "EINVAL"
    assert failure(opening.openat2, task, AT_FDCWD, b"n", *how(task, os.O_CREAT, 0o10000)) == "EINVAL"
    assert failure(opening.openat2, task, AT_FDCWD, b"dir", *how(task, os.O_PATH | os.O_APPEND)) == "EINVAL"


async def test_a_fifo_is_opened_by_both_sides(task: Any, files: Files) -> None:
    files.mkfifo(b"/fifo")
    assert failure(opening.openat, task, AT_FDCWD, b"/fifo", os.O_PATH, 0) == ""
    reading = opening.openat(task, AT_FDCWD, b"/fifo", os.O_RDONLY | os.O_NONBLOCK, 0)
    assert not isinstance(reading, int)
    reader = file_of(task, await reading)
    writing = opening.openat(task, AT_FDCWD, b"/fifo", os.O_WRONLY, 0)
    assert not isinstance(writing, int)
    writer = file_of(task, await writing)
    assert writer.write(b"through") == 7
    assert reader.read(100) == b"through"
    assert reader.location is not None
    assert reader.location.path == b"/fifo"


def test_a_walk_has_an_end(task: Any, files: Files) -> None:
    """Links that lead through thousands of names each would let one call take as long as its program likes."""
    for number in range(30):
        files.symlink(b"./" * 1500 + b"l%d" % (number + 1), b"/l%d" % number)
    files.write(b"/l30", b"")
    assert failure(status.stat, task, b"/l0", DATA) == "ELOOP"
    assert failure(status.stat, task, b"/l29", DATA) == ""
    assert failure(status.stat, task, b"./" * 2040 + b"dir", DATA) == ""


# ---------------------------------------------------------------- status


def test_struct_stat(task: Any) -> None:
    status.stat(task, b"/link", DATA)
    device, inode, links, mode, user, group, _, special, size, block, blocks = struct.unpack(
        "<QQQIIIIQqqq", task.space.read(DATA, 72)
    )
    assert (links, mode, user, group, special, size, block, blocks) == (1, modes.S_IFREG | 0o644, 0, 0, 0, 7, 4096, 8)
    found = task.process.fs.root.mount.fs
    assert (device, inode > 1) == (found.device, True)
    status.lstat(task, b"/link", DATA)
    assert modes.S_ISLNK(struct.unpack_from("<I", task.space.read(DATA, 88), 24)[0])
    assert failure(status.newfstatat, task, AT_FDCWD, b"/link", DATA, 1) == "EINVAL"
    assert failure(status.newfstatat, task, AT_FDCWD, b"", DATA, 0) == "ENOENT"
    assert status.newfstatat(task, AT_FDCWD, b"", DATA, AT_EMPTY_PATH) == 0


def test_struct_statx(task: Any) -> None:
    status.statx(task, AT_FDCWD, b"/dir/file", 0, 0xFFF, DATA)
    data = task.space.read(DATA, 256)
    mask, block, _, links, user, group, mode, inode, size, blocks = struct.unpack_from("<IIQIIIH2xQQQ", data)
    assert (mask, block, links, user, group, mode, size, blocks) == (0xFFF, 4096, 1, 0, 0, modes.S_IFREG | 0o644, 7, 8)
    assert inode
    assert failure(status.statx, task, AT_FDCWD, b"/dir", 0x6000, 0, DATA) == "EINVAL"
    assert failure(status.statx, task, AT_FDCWD, b"/dir", 0, 1 << 31, DATA) == "EINVAL"


def test_access_asks_for_the_real_user(task: Any, files: Files) -> None:
    files.chmod(b"/dir/file", 0o600)
    task.process.credentials = Credentials(ruid=1000, euid=0)
    assert failure(status.access, task, b"/dir/file", os.R_OK) == "EACCES"
    assert failure(status.faccessat2, task, AT_FDCWD, b"/dir/file", os.R_OK, 0x200) == ""
    assert failure(status.access, task, b"/dir/file", os.F_OK) == ""
    assert failure(status.access, task, b"/dir/file", 8) == "EINVAL"
    task.process.credentials = Credentials()
    assert failure(status.access, task, b"/dir/file", os.X_OK) == "EACCES"
    assert failure(status.access, task, b"/dir", os.X_OK) == ""


def test_readlink_is_cut_to_the_buffer(task: Any) -> None:
    assert status.readlink(task, b"/link", DATA, 3) == 3
    assert task.space.read(DATA, 4) == b"dir\0"
    assert failure(status.readlink, task, b"/dir", DATA, 10) == "EINVAL"
    assert failure(status.readlink, task, b"/link", DATA, 0) == "EINVAL"
    assert failure(status.readlink, task, b"/none", DATA, 10) == "ENOENT"


def test_struct_statfs(task: Any) -> None:
    status.statfs(task, b"/dir", DATA)
    magic, block, blocks, free, available, inodes, free_inodes = struct.unpack("<7Q", task.space.read(DATA, 56))
    assert (magic, block, blocks, free, available, inodes, free_inodes) == (
        0x01021994, 4096, 16384, 16383, 16383, 4096, 4090,
    )  # fmt: skip
    name_max, fragment, flags = struct.unpack("<3Q", task.space.read(DATA + 64, 24))
    assert (name_max, fragment, flags) == (255, 4096, 0x20 | 2 | 4 | 4096)


# ---------------------------------------------------------------- directories


def test_both_kinds_of_directory_records(task: Any) -> None:
    fd = opened(task, b"/dir", os.O_DIRECTORY)
    size = directories.getdents64(task, fd, DATA, 1000)
    records, found = task.space.read(DATA, size), []
    while records:
        _, _, length, kind = struct.unpack_from("<QqHB", records)
        found.append((records[19:length].rstrip(b"\0"), kind))
        records = records[length:]
    assert found == [(b".", 4), (b"..", 4), (b"file", 8), (b"up", 10)]
    assert directories.getdents64(task, fd, DATA, 1000) == 0
    descriptors.lseek(task, fd, 0, os.SEEK_SET)
    size = directories.getdents(task, fd, DATA, 1000)
    records, found = task.space.read(DATA, size), []
    while records:
        _, _, length = struct.unpack_from("<QqH", records)
        found.append((records[18 : length - 1].rstrip(b"\0"), records[length - 1]))
        records = records[length:]
    assert found == [(b".", 4), (b"..", 4), (b"file", 8), (b"up", 10)]
    descriptors.lseek(task, fd, 0, os.SEEK_SET)
    assert failure(directories.getdents64, task, fd, DATA, 10) == "EINVAL"
    assert failure(directories.getdents64, task, opened(task, b"/dir/file"), DATA, 100) == "ENOTDIR"


def test_where_a_process_is(task: Any, files: Files) -> None:
    assert directories.chdir(task, b"/absolute") == 0
    assert directories.getcwd(task, DATA, 100) == 5
    assert task.space.read(DATA, 5) == b"/dir\0"
    assert failure(directories.getcwd, task, DATA, 4) == "ERANGE"
    assert failure(directories.chdir, task, b"file") == "ENOTDIR"
    assert directories.chroot(task, b"/dir") == 0
    assert directories.getcwd(task, DATA, 100) == 2
    assert failure(status.stat, task, b"/dir", DATA) == "ENOENT"
    assert failure(status.stat, task, b"../../file", DATA) == ""
    files.mkdir(b"/dir/gone")
    directories.chdir(task, b"gone")
    files.rmdir(b"/dir/gone")
    assert failure(directories.getcwd, task, DATA, 100) == "ENOENT"
    task.process.credentials = Credentials.of(1000, 1000)
    assert failure(directories.chroot, task, b"/") == "EPERM"
    assert directories.umask(task, 0o777077) == 0o022
    assert directories.umask(task, 0) == 0o077


# ---------------------------------------------------------------- names and attributes


def test_descriptors_can_be_given_names(task: Any, files: Files) -> None:
    fd = opened(task, b"/dir", 0o20200000 | os.O_RDWR)
    file_of(task, fd).write(b"unnamed")
    assert names.linkat(task, fd, b"", AT_FDCWD, b"/named", AT_EMPTY_PATH) == 0
    assert files.read(b"/named") == b"unnamed"
    assert names.linkat(task, AT_FDCWD, b"/link", AT_FDCWD, b"/second", 0) == 0
    assert modes.S_ISLNK(files.lstat(b"/second").mode)
    assert names.linkat(task, AT_FDCWD, b"/link", AT_FDCWD, b"/third", AT_SYMLINK_FOLLOW) == 0
    assert files.lstat(b"/third").links == 2


def test_special_files(task: Any, files: Files) -> None:
    assert names.mknod(task, b"/fifo", modes.S_IFIFO | 0o644, 0) == 0
    assert names.mknod(task, b"/plain", 0o644, 0) == 0
    assert modes.S_ISREG(files.stat(b"/plain").mode)
    for kind in (modes.S_IFCHR, modes.S_IFBLK, modes.S_IFDIR):
        assert failure(names.mknod, task, b"/x", kind | 0o644, 0x103) == "EPERM"
    assert failure(names.mknod, task, b"/x", modes.S_IFLNK, 0) == "EINVAL"


def test_times(task: Any, files: Files) -> None:
    def given(*values: int) -> int:
        task.space.write(DATA, struct.pack("<4q", *values))
        return DATA

    path = put(task, b"/dir/file")
    assert changes.utimensat(task, AT_FDCWD, path, given(1, 2, 3, 4), 0) == 0
    assert files.stat(b"/dir/file")[10:12] == (1_000_000_002, 3_000_000_004)
    assert changes.utimensat(task, AT_FDCWD, path, given(9, (1 << 30) - 2, 5, 6), 0) == 0
    assert files.stat(b"/dir/file")[10:12] == (1_000_000_002, 5_000_000_006)
    assert failure(changes.utimensat, task, AT_FDCWD, path, given(1, 1 << 30, 1, 1), 0) == "EINVAL"
    assert failure(changes.utimensat, task, AT_FDCWD, 0, given(1, 1, 1, 1), 0) == "EFAULT"
    fd = opened(task, b"/dir/file")
    assert changes.utimensat(task, fd, 0, given(7, 0, 8, 0), 0) == 0
    assert files.stat(b"/dir/file")[10:12] == (7_000_000_000, 8_000_000_000)
    assert changes.utimensat(task, AT_FDCWD, put(task, b"/link"), given(5, 0, 5, 0), AT_SYMLINK_NOFOLLOW) == 0
    assert files.lstat(b"/link").modified == 5_000_000_000
    assert changes.utimes(task, b"/dir/file", given(1, 999_999, 2, 0)) == 0
    assert files.stat(b"/dir/file")[10:12] == (1_999_999_000, 2_000_000_000)
    assert failure(changes.utimes, task, b"/dir/file", given(1, 1_000_000, 2, 0)) == "EINVAL"
    assert changes.utime(task, b"/dir/file", 0) == 0
    assert files.stat(b"/dir/file").modified > 1_000_000_000_000
    assert changes.futimesat(task, fd, 0, given(1, 0, 2, 0)) == 0


def test_sizes(task: Any, files: Files) -> None:
    assert changes.truncate(task, b"/link", 3) == 0
    assert files.read(b"/dir/file") == b"con"
    assert failure(changes.truncate, task, b"/dir", 3) == "EISDIR"
    assert failure(changes.truncate, task, b"/dir/file", -1) == "EINVAL"
    reading, writing = opened(task, b"/dir/file"), opened(task, b"/dir/file", os.O_RDWR)
    assert failure(descriptors.ftruncate, task, reading, 1) == "EINVAL"
    assert descriptors.ftruncate(task, writing, 5) == 0
    assert descriptors.fallocate(task, writing, 0, 0, 10) == 0
    assert files.stat(b"/dir/file").size == 10
    assert failure(descriptors.fallocate, task, reading, 0, 0, 10) == "EBADF"
    assert failure(descriptors.fallocate, task, writing, 0, -1, 10) == "EINVAL"
    assert failure(descriptors.fallocate, task, writing, 0, 1, (1 << 63) - 1) == "EFBIG"


def test_extended_attributes(task: Any) -> None:
    name = put(task, b"user.note")
    task.space.write(DATA, b"text")
    assert xattrs.setxattr(task, b"/link", name, DATA, 4, 0) == 0
    assert xattrs.getxattr(task, b"/dir/file", name, 0, 0) == 4
    assert xattrs.getxattr(task, b"/dir/file", name, DATA + 100, 4) == 4
    assert task.space.read(DATA + 100, 4) == b"text"
    assert failure(xattrs.getxattr, task, b"/dir/file", name, DATA, 3) == "ERANGE"
    assert xattrs.listxattr(task, b"/dir/file", DATA, 100) == 10
    assert xattrs.llistxattr(task, b"/link", DATA, 100) == 0
    assert failure(xattrs.lsetxattr, task, b"/link", name, DATA, 4, 0) == "EPERM"
    assert failure(xattrs.setxattr, task, b"/link", name, DATA, 65537, 0) == "E2BIG"
    assert failure(xattrs.getxattr, task, b"/dir/file", put(task, b"x" * 300), 0, 0) == "ERANGE"
    assert failure(xattrs.getxattr, task, b"/dir/file", put(task, b"security.selinux"), 0, 0) == "ENOTSUP"
    assert xattrs.removexattr(task, b"/dir/file", put(task, b"user.note")) == 0
    assert failure(xattrs.removexattr, task, b"/dir/file", put(task, b"user.note")) == "ENODATA"


def test_memory_files(task: Any) -> None:
    fd = opening.memfd_create(task, put(task, b"name"), 3)
    assert descriptors.fcntl(task, fd, 1, 0) == 1
    assert descriptors.fcntl(task, fd, 1034, 0) == 0
    assert descriptors.fcntl(task, fd, 1033, 2) == 0
    assert descriptors.fcntl(task, fd, 1034, 0) == 2
    assert descriptors.ftruncate(task, fd, 100) == 0
    assert failure(descriptors.ftruncate, task, fd, 10) == "EPERM"
    plain = opening.memfd_create(task, put(task, b"x" * 249), 0)
    assert descriptors.fcntl(task, plain, 1034, 0) == 1
    assert failure(opening.memfd_create, task, put(task, b"x" * 250), 0) == "EINVAL"
    assert failure(opening.memfd_create, task, put(task, b"x"), 4) == "EINVAL"
    assert failure(descriptors.fcntl, task, opened(task, b"/dir"), 1034, 0) == "EINVAL"


def test_the_calls_that_are_the_hosts_business(task: Any) -> None:
    assert failure(handles.open_by_handle_at, task) == "EPERM"


def test_handles(task: Any) -> None:
    path, mount = put(task, b"/link"), DATA + 0x2000

    def handle_of(path: int, flags: int, room: int = 128) -> bytes:
        task.space.write(DATA, struct.pack("<Ii", room, 0))
        assert handles.name_to_handle_at(task, AT_FDCWD, task.space.read_string(path, 100), DATA, mount, flags) == 0
        length, _ = struct.unpack("<Ii", task.space.read(DATA, 8))
        return bytes(task.space.read(DATA + 4, 4 + length))

    followed = handle_of(path, AT_SYMLINK_FOLLOW)
    assert followed != handle_of(path, 0)
    assert followed == handle_of(put(task, b"/dir/file"), 0)
    task.space.write(DATA, struct.pack("<Ii", 0, 0))
    assert failure(handles.name_to_handle_at, task, AT_FDCWD, b"/dir", DATA, mount, 0) == "EOVERFLOW"
    assert struct.unpack("<I", task.space.read(DATA, 4))[0] == len(followed) - 4
    task.space.write(DATA, struct.pack("<Ii", 129, 0))
    assert failure(handles.name_to_handle_at, task, AT_FDCWD, b"/dir", DATA, mount, 0) == "EINVAL"
    assert failure(handles.name_to_handle_at, task, AT_FDCWD, b"/none", DATA, mount, 0) == "ENOENT"


def test_types_of_file_systems(task: Any) -> None:
    count = handles.sysfs(task, 3, 0, 0)
    for number in range(count):
        assert handles.sysfs(task, 2, number, DATA) == 0
        assert handles.sysfs(task, 1, DATA, 0) == number
    for arguments in ((2, count, DATA), (4, 0, 0), (1, put(task, b"none"), 0)):
        assert failure(handles.sysfs, task, *arguments) == "EINVAL"
