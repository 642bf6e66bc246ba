"""Ways out of a shared directory: whatever a guest, or somebody who moves things on the host, does, none is found."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynckvm.errors import UsageError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import ST_RDONLY, Budget, HostTree, Tmpfs
from support.sandbox_files import Files, failure

SECRET = b"secret of the host"
OUTSIDE = b"/outside/secret"
renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
RENAME_EXCHANGE = 2
# Of calls that succeeded, and of swaps, in a race.
ENOUGH = 100
DEADLINE = 30.0


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """`outside` lies beside `shared`, which is what guests get."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(SECRET)
    (tmp_path / "shared/dir/sub").mkdir(parents=True)
    (tmp_path / "shared/file").write_bytes(b"shared")
    (tmp_path / "shared/dir/inner").write_bytes(b"inner")
    return tmp_path


@pytest.fixture
def files(host: Path) -> Files:
    """With the directory at /mnt, writable, and a root of its own around it."""
    files = Files()
    files.mkdir(b"/mnt")
    files.mount(HostTree(host / "shared", writable=True), b"/mnt")
    return files


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


LINKS = {
    "relative": "../outside/secret", "deep": "dir/sub/../../../outside/secret", "absolute": "{host}/outside/secret",
    "root": "/", "directory": "../outside", "parent": "..", "process": "/proc/self/root", "descriptor": "/proc/self/fd/{fd}",
    "working": "/proc/self/cwd", "dot": "./../outside",
}  # fmt: skip


@pytest.mark.parametrize("made_by", ["host", "guest"])
@pytest.mark.parametrize("name", LINKS)
def test_links_lead_around_in_the_sandbox(files: Files, host: Path, name: str, made_by: str) -> None:
    fd = os.open(host, os.O_RDONLY | os.O_DIRECTORY)
    try:
        target = LINKS[name].format(host=host, fd=fd)
        if made_by == "host":
            (host / "shared/link").symlink_to(target)
        else:
            files.symlink(os.fsencode(target), b"/mnt/link")
        for tail in (b"", b"/", b"/secret", b"/outside/secret", b"/../outside/secret", b"/proc/self/root" + os.fsencode(host)):
            path = b"/mnt/link" + tail
            for call in (files.read, files.list):
                assert failure(call, path) or call(path) != SECRET
            if not failure(files.stat, path):
                assert files.stat(path).inode != (host / "outside/secret").stat().st_ino
                assert files.stat(path).inode != (host / "outside").stat().st_ino
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_through_links(files: Files, host: Path, name: str) -> None:
    (host / "shared/link").symlink_to(LINKS[name].format(host=host, fd=0))
    before = sorted(host.rglob("*"))
    outside = (host / "outside/secret").stat()
    for path in (b"/mnt/link", b"/mnt/link/", b"/mnt/link/new", b"/mnt/link/secret", b"/mnt/link/outside/secret"):
        failure(files.write, path, b"written by the guest")
        failure(files.write, path, b"x", os.O_EXCL)
        for call in (files.mkdir, files.mkfifo, files.unlink, files.rmdir):
            if path != b"/mnt/link":  # that is the guest's own
                failure(call, path)
        for arguments in ((files.chmod, 0o777), (files.truncate, 0), (files.chown, 12, 12)):
            failure(arguments[0], path, *arguments[1:])
        failure(files.link, path, b"/mnt/stolen")
        failure(files.rename, path + b"/secret", b"/mnt/stolen")
        failure(files.rename, b"/mnt/file", path + b"/moved")
    assert sorted(path for path in host.rglob("*") if "outside" in path.parts) == [p for p in before if "outside" in p.parts]
    assert (host / "outside/secret").stat() == outside
    assert (host / "outside/secret").read_bytes() == SECRET


def test_dots_end_at_the_mount(files: Files) -> None:
    for path in (b"/mnt/../../../outside/secret", b"/mnt/dir/sub/../../../../outside/secret", b"/mnt/dir/../../mnt/../outside"):
        assert failure(files.stat, path) == "ENOENT"
    assert files.find(b"/mnt/dir/..").path == b"/mnt"
    assert files.find(b"/mnt/..").path == b"/"
    files.chdir(b"/mnt/dir/sub")
    assert files.find(b"../../../mnt/file").path == b"/mnt/file"
    assert failure(files.stat, b"../../../outside/secret") == "ENOENT"


def test_dots_in_a_directory_that_was_moved_out(files: Files, host: Path) -> None:
    files.chdir(b"/mnt/dir/sub")
    held = files.open(b"/mnt/dir/sub", os.O_RDONLY | os.O_DIRECTORY)
    path_only = files.open(b"/mnt/dir/sub", os.O_PATH)
    (host / "shared/dir/sub").rename(host / "outside/sub")
    (host / "outside/sub/found").write_bytes(SECRET)
    for path in (b"..", b"../secret", b"found", b"../../outside/secret", b"."):
        assert failure(files.read, path)
    assert failure(files.stat, b"found") == "ENOENT"
    # Its own descriptor still lists it, as that of any program would, and leads nowhere from there.
    assert b"found" in held.entries(4096)
    for file in (held, path_only):
        assert file.location is not None
        with pytest.raises(SyscallError):
            file.location.node.attributes()
        file.release()


def test_a_directory_replaced_by_a_link_is_not_entered(files: Files, host: Path) -> None:
    files.chdir(b"/mnt/dir")
    (host / "shared/dir").rename(host / "shared/old")
    (host / "shared/dir").symlink_to("../outside")
    for path in (b"secret", b"../outside/secret", b"./secret"):
        assert failure(files.read, path)
    assert failure(files.read, b"/mnt/dir/secret") == "ENOENT"
    assert failure(files.write, b"new", b"x")
    assert sorted(os.listdir(host / "outside")) == ["secret"]


@pytest.mark.parametrize("seed", range(3))
def test_races_with_somebody_who_swaps_directories_and_links(files: Files, host: Path, seed: int) -> None:
    """A thread of the host exchanges a directory with a link to the outside, as fast as it can."""
    shared = host / "shared"
    (shared / "swap").mkdir()
    (shared / "swap/secret").write_bytes(b"harmless")
    (shared / "trap").symlink_to("../outside")
    (shared / "deep").mkdir()
    done = threading.Event()
    swaps = 0

    def swapping() -> None:
        nonlocal swaps
        fd = os.open(shared, os.O_PATH)
        while not done.is_set():
            renameat2(fd, b"swap", fd, b"trap", RENAME_EXCHANGE)
            renameat2(fd, b"swap", fd, b"deep/moved", 0)
            renameat2(fd, b"deep/moved", fd, b"swap", 0)
            swaps += 1
        os.close(fd)

    choice = random.Random(seed)
    thread = threading.Thread(target=swapping)
    thread.start()
    reached = 0
    try:
        # For a second, and on a busy machine until enough has happened.
        begin, number = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < 1 or (passed < DEADLINE and min(reached, swaps) < ENOUGH):
            number += 1
            path = choice.choice(
                [b"/mnt/swap/secret", b"/mnt/trap/secret", b"/mnt/deep/moved/secret", b"/mnt/swap/../swap/secret"]
            )
            new = path.replace(b"secret", b"new%d" % number)
            for call, *arguments in (
                (files.read, path), (files.write, path, b"harmless"), (files.write, new, b"x"), (files.mkdir, new),
                (files.link, path, new), (files.rename, new, new + b"r"), (files.truncate, new, 5), (files.chmod, path, 0o666),
                (files.unlink, new), (files.rmdir, new), (files.unlink, new + b"r"),
            ):  # fmt: skip
                reached += not failure(call, *arguments)
            if not failure(files.stat, path):
                assert _safe_read(files, path) != SECRET
    finally:
        done.set()
        thread.join(30)
    assert min(reached, swaps) >= ENOUGH
    assert os.listdir(host / "outside") == ["secret"]
    assert (host / "outside/secret").read_bytes() == SECRET
    assert stat.S_IMODE((host / "outside/secret").stat().st_mode) == 0o644


def _safe_read(files: Files, path: bytes) -> bytes:
    try:
        return files.read(path)
    except (SyscallError, OSError):
        return b""


# ---------------------------------------------------------------- what is no file


def test_a_fifo_of_the_host_is_a_place_to_meet_and_never_the_hosts(files: Files, host: Path) -> None:
    os.mkfifo(host / "shared/fifo")
    writer = subprocess.Popen(["sh", "-c", f"echo from the host > {host}/shared/fifo"])
    try:
        # Found, and left to who knows pipes: nothing of it is opened, so nothing waits and nothing is read.
        node = files.find(b"/mnt/fifo").node
        assert node.type == stat.S_IFIFO
        assert node.endpoint() is files.find(b"/mnt/fifo").node.endpoint()
        assert node.endpoint().pipe is None
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
            assert failure(node.open, flags, files.find(b"/mnt/fifo")) == "EACCES"
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait(30)


def test_a_socket_of_the_host_is_not_connected_to(files: Files, host: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(host / "shared", os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        listener.listen()
        assert failure(files.open, b"/mnt/socket") == "ENXIO"
        assert files.find(b"/mnt/socket").node.endpoint().socket is None
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_devices_are_never_opened(files: Files, host: Path) -> None:
    for name, number in (("null", (1, 3)), ("mem", (1, 1)), ("kvm", (10, 232)), ("disk", (254, 0))):
        kind = stat.S_IFBLK if name == "disk" else stat.S_IFCHR
        try:
            os.mknod(host / "shared" / name, kind | 0o666, os.makedev(*number))
        except PermissionError:
            pytest.skip("this host lets nobody make devices")
        path = b"/mnt/" + name.encode()
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            assert failure(files.open, path, flags) == "EACCES"
        assert files.open(path, os.O_PATH).attributes().special == os.makedev(*number)


def test_no_device_and_no_set_user_id_program_is_made(files: Files, host: Path) -> None:
    node = files.find(b"/mnt").node
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert failure(files._make, b"/mnt/device", kind | 0o666) == "EPERM"
    files.write(b"/mnt/program", b"#!/bin/sh")
    files.chmod(b"/mnt/program", 0o6755)
    assert stat.S_IMODE((host / "shared/program").stat().st_mode) == 0o755
    files.open(b"/mnt/other", os.O_CREAT | os.O_WRONLY, 0o6777).release()
    assert not (host / "shared/other").stat().st_mode & 0o6000
    assert failure(node.set_xattr, b"security.capability", b"x", 0) == "ENOTSUP"
    assert failure(node.set_xattr, b"user.x", b"x", 0) == "ENOTSUP"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"x" * 256, "ENAMETOOLONG"), (b"dir/" + b"x" * 256, "ENAMETOOLONG"), (b"file\0", "EINVAL"), (b"dir\0/inner", "EINVAL"),
        (b"nowhere/" + b"x" * 256, "ENOENT"), (b"file/" + b"x" * 256, "ENOTDIR"), (b"x/" * 2100, "ENAMETOOLONG"),
    ],
)  # fmt: skip
def test_names_that_are_none(files: Files, name: bytes, expected: str) -> None:
    assert failure(files.stat, b"/mnt/" + name) == expected
    assert failure(files.open, b"/mnt/" + name) == expected
    if expected == "EINVAL":
        files.chdir(b"/mnt")
        for call in (files.mkdir, files.mkfifo, files.write):
            assert failure(call, b"new" + name[-1:] + b"\0", *([b"x"] if call == files.write else [])) == "EINVAL"


def test_the_longest_name_and_path(files: Files, host: Path) -> None:
    files.write(b"/mnt/" + b"x" * 255, b"long")
    assert files.read(b"/mnt/" + b"x" * 255) == b"long"
    files.chdir(b"/mnt")
    path = (b"./" * 2045) + b"file"
    assert len(path) == 4094
    assert files.read(path) == b"shared"
    assert failure(files.stat, b"./" + path) == "ENAMETOOLONG"


# ---------------------------------------------------------------- read-only


@pytest.mark.parametrize("mounted", ["tree", "mount"])
def test_nothing_changes_in_a_read_only_tree(host: Path, mounted: str) -> None:
    files = Files()
    files.mkdir(b"/mnt")
    files.mount(HostTree(host / "shared", writable=mounted == "mount"), b"/mnt", ST_RDONLY if mounted == "mount" else 0)
    before = {path: path.stat() for path in host.rglob("*")}
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        assert failure(files.open, b"/mnt/file", flags) == "EROFS"
    assert failure(files.open, b"/mnt/new", os.O_CREAT | os.O_RDONLY) == "EROFS"
    for call, arguments in (
        (files.mkdir, (b"/mnt/new",)), (files.mkfifo, (b"/mnt/new",)), (files.symlink, (b"x", b"/mnt/new")),
        (files.unlink, (b"/mnt/file",)), (files.rmdir, (b"/mnt/dir/sub",)), (files.link, (b"/mnt/file", b"/mnt/new")),
        (files.rename, (b"/mnt/file", b"/mnt/new")), (files.chmod, (b"/mnt/file", 0o777)), (files.chown, (b"/mnt/file", 1, 1)),
        (files.truncate, (b"/mnt/file", 0)),
    ):  # fmt: skip
        assert failure(call, *arguments) == "EROFS", call
    assert {path: path.stat() for path in host.rglob("*")} == before


def test_no_hard_link_leads_in_or_out(files: Files, host: Path) -> None:
    files.write(b"/own", b"own")
    assert failure(files.link, b"/own", b"/mnt/own") == "EXDEV"
    assert failure(files.link, b"/mnt/file", b"/stolen") == "EXDEV"
    assert failure(files.rename, b"/mnt/file", b"/stolen") == "EXDEV"
    other = HostTree(host / "shared/dir", writable=True)
    files.mkdir(b"/other")
    files.mount(other, b"/other")
    assert failure(files.link, b"/mnt/file", b"/other/file") == "EXDEV"


# ---------------------------------------------------------------- what can be shared, and what it costs


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/sys", "/proc/self/fd", "/proc/version"])
def test_the_hosts_kernel_is_not_shared(path: str) -> None:
    with pytest.raises(UsageError):
        HostTree(path)


def test_mounts_of_the_host_are_not_entered() -> None:
    files = Files()
    files.mkdir(b"/host")
    files.mount(HostTree("/"), b"/host", ST_RDONLY)
    for path in (b"/host/proc/self/mem", b"/host/proc/version", b"/host/sys/kernel"):
        assert failure(files.stat, path) == "EACCES"


def test_one_file_is_shared_alone(host: Path) -> None:
    files = Files()
    files.write(b"/alone", b"")
    files.mount(HostTree(host / "shared/file"), b"/alone", ST_RDONLY)
    assert files.read(b"/alone") == b"shared"
    for path in (b"/alone/", b"/alone/..", b"/alone/../dir", b"/alone/dir"):
        assert failure(files.stat, path) == "ENOTDIR"
    assert failure(files.unlink, b"/alone") == "EBUSY"
    assert failure(files.rename, b"/alone", b"/b") == "EBUSY"


def test_nodes_keep_no_descriptors(files: Files, host: Path) -> None:
    before = descriptors()
    kept = [files.find(b"/mnt/dir/inner") for _ in range(1000)]
    for location in kept:
        location.node.settle()
    assert descriptors() == before
    for path in (b"/mnt/missing", b"/mnt/file/x", b"/mnt/dir"):
        failure(files.read, path)
    assert descriptors() == before


def test_trees_give_their_descriptor_back(host: Path) -> None:
    before = descriptors()
    tree: HostTree | None = HostTree(host / "shared")
    assert descriptors() == before + 1
    del tree
    assert descriptors() == before
    for path in (host / "missing", "/dev/null"):
        with pytest.raises((OSError, UsageError)):
            HostTree(path)
    assert descriptors() == before


def other_user(host: Path) -> Files:
    files = Files(Tmpfs(Budget(1 << 20, 100)))
    files.mkdir(b"/mnt")
    files.mount(HostTree(host / "shared"), b"/mnt", ST_RDONLY)
    return files.as_user(12345)


@pytest.fixture
def closed(host: Path) -> Iterator[Files]:
    (host / "shared/dir").chmod(0o700)
    (host / "shared/file").chmod(0o600)
    yield other_user(host)


def test_permissions_of_the_host_hold_for_users_of_the_sandbox(closed: Files, host: Path) -> None:
    assert failure(closed.read, b"/mnt/file") == "EACCES"
    assert failure(closed.stat, b"/mnt/dir/inner") == "EACCES"
    assert failure(closed.stat, b"/mnt/dir/sub/missing") == "EACCES"
    assert not failure(closed.stat, b"/mnt/dir")
    assert failure(closed.list, b"/mnt/dir") == "EACCES"
