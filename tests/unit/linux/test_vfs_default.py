"""The default root: programs of the host to read, nothing secret, places of its own to write to; and what is bound into it."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from asynckvm.errors import UsageError
from asynckvm.linux import uts
from asynckvm.linux.files.memory import MemoryFile
from asynckvm.linux.vfs import HostTree, Tmpfs, default
from support import descriptors
from support.sandbox_files import Files, failure


@pytest.fixture
def files() -> Files:
    return Files(default.build(user=default.User("guest", 1000, 1000), hostname="box"))


def test_the_hosts_programs_are_there_to_read(files: Files) -> None:
    name = os.fsencode(os.path.realpath("/bin/sh"))
    assert files.read(b"/bin/sh") == Path("/bin/sh").read_bytes()
    assert files.find(b"/bin/sh").path == name
    assert failure(files.write, b"/usr/bin/new", b"x") == "EROFS"
    assert failure(files.unlink, b"/bin/sh") == "EROFS"
    assert files.as_user(1000).stat(b"/usr/bin/env").mode == Path("/usr/bin/env").stat().st_mode


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/etc/gshadow", "/etc/ssl/private", "/etc/ssh", "/etc/sudoers", "/etc/machine-id", "/etc/krb5.keytab",
     "/root/.ssh", "/root/.bashrc", "/home/user", "/var/lib/dpkg", "/var/log/wtmp", "/boot", "/tmp/x", "/run/docker.sock",
     "/sys/kernel", "/dev/kvm", "/proc/self"],
)  # fmt: skip
def test_nothing_else_of_the_host_is(files: Files, path: str) -> None:
    assert failure(files.stat, os.fsencode(path)) == "ENOENT"


def test_etc_knows_the_users_of_the_sandbox_only(files: Files) -> None:
    users = files.read(b"/etc/passwd").decode()
    assert [line.split(":")[0] for line in users.splitlines()] == ["root", "guest", "nobody"]
    assert "guest:x:1000:1000:guest:/home/guest:/bin/sh\n" in users
    assert b"guest:x:1000:\n" in files.read(b"/etc/group")
    assert files.read(b"/etc/hostname") == b"box\n"
    assert b"box" in files.read(b"/etc/hosts")
    assert files.read(b"/etc/resolv.conf") == b""
    assert files.stat(b"/etc/passwd").mode == stat.S_IFREG | 0o644


def test_the_name_of_the_machine_can_be_looked_up() -> None:
    """It is the one that programs get from uname(2), and looking it up must not fail inside."""
    name = uts.SystemNames().utsname()[65:130].rstrip(b"\0")
    files = Files(default.build())
    assert files.read(b"/etc/hostname") == name + b"\n"
    assert [line.split()[0] for line in files.read(b"/etc/hosts").splitlines() if name in line.split()] == [b"127.0.1.1"]


def test_who_may_write_where(files: Files) -> None:
    user = files.as_user(1000)
    for path in (b"/tmp", b"/var/tmp", b"/work", b"/home/guest", b"/dev/shm", b"/run/lock"):
        user.write(path + b"/file", b"mine")
        assert user.read(path + b"/file") == b"mine"
    for path in (b"/", b"/etc", b"/root", b"/home", b"/run", b"/var", b"/usr"):
        assert failure(user.write, path + b"/file", b"x") in ("EACCES", "EROFS")
    stranger = files.as_user(1001)
    assert failure(stranger.unlink, b"/tmp/file") == "EPERM"
    assert files.stat(b"/tmp").mode == stat.S_IFDIR | 0o1777


def test_the_room_is_one_for_all_places() -> None:
    files = Files(default.build(size=1 << 20))
    used = 0
    for path in (b"/tmp/a", b"/dev/shm/b"):
        file = files.open(path, os.O_WRONLY | os.O_CREAT)
        while not failure(file.write, bytes(4096)):
            used += 4096
    assert used < 1 << 20
    assert failure(files.write, b"/work/c", b"x") == "ENOSPC"


def test_descriptors_of_the_host_are_bounded() -> None:
    files = Files(default.build())
    budget = files.mounts.unnamed.budget
    budget.descriptors = 10
    held = [files.open(b"/usr/bin/env") for _ in range(9)] + [files.open(b"/usr", os.O_DIRECTORY)]
    assert failure(files.open, b"/usr/bin/env") == "ENFILE"
    assert failure(files.list, b"/usr/bin") == "ENFILE"
    memory = files.open(b"/tmp/file", os.O_RDWR | os.O_CREAT)
    assert isinstance(memory, MemoryFile)
    assert failure(memory.inode.content.descriptor) == "ENFILE"
    held.pop().release()
    assert failure(files.open, b"/usr/bin/none") == "ENOENT"
    assert failure(memory.inode.content.descriptor) == ""
    assert failure(files.open, b"/usr/bin/env") == "ENFILE"
    for file in held:
        file.release()
    assert budget.used_descriptors == 1
    files.unlink(b"/tmp/file")
    memory.release()
    del memory
    gc.collect()
    assert budget.used_descriptors == 0


def test_binds(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("read")
    (tmp_path / "alone").write_text("alone")
    binds = [
        default.Bind(tmp_path / "data", "/srv/deep/data"),
        default.Bind(tmp_path / "data", "/work", writable=True),
        default.Bind(tmp_path / "alone", "/etc/alone"),
    ]
    files = Files(default.build(binds=binds))
    assert files.read(b"/srv/deep/data/file") == b"read"
    assert files.read(b"/etc/alone") == b"alone"
    assert failure(files.write, b"/srv/deep/data/new", b"x") == "EROFS"
    assert failure(files.write, b"/etc/alone", b"x") == "EROFS"
    files.write(b"/work/new", b"written")
    assert (tmp_path / "data/new").read_text() == "written"
    rows = {row.point: row for row in files.mounts.rows()}
    assert rows[b"/srv/deep/data"].options.startswith(b"ro,nosuid,nodev")
    assert rows[b"/work"].options.startswith(b"rw,nosuid,nodev")
    assert rows[b"/etc/alone"].type == b"hostfs"
    for bind in (default.Bind(tmp_path, "relative"), default.Bind("/proc", "/mnt"), default.Bind("/dev/null", "/mnt")):
        with pytest.raises(UsageError):
            default.build(binds=[bind])
    gc.collect()
    before = descriptors.count()
    with pytest.raises(FileNotFoundError) as raised:
        default.build(binds=[default.Bind(tmp_path / "missing", "/mnt")])
    # Although the exception still knows all that was built.
    assert (descriptors.count(), raised.traceback != []) == (before, True)


def test_held_places_follow_renames_in_a_bind(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("content")
    (tmp_path / "other").mkdir()
    files = Files(default.build(binds=[default.Bind(tmp_path, "/work", writable=True)]))
    files.chdir(b"/work/a/b")
    file, again = files.open(b"file"), files.open(b"file")
    files.rename(b"/work/a", b"/work/other/moved")
    assert files.context.directory.path == b"/work/other/moved/b"
    assert files.read(b"file") == b"content"
    assert files.find(b"..").path == b"/work/other/moved"
    for held in (file, again):
        assert held.describe() == b"/work/other/moved/b/file"
    files.rename(b"file", b"../up")
    assert file.describe() == b"/work/other/moved/up"
    files.write(b"/work/new", b"new")
    files.rename(b"/work/new", b"/work/other/moved/up")
    assert file.describe() == b"/work/other/moved/up (deleted)"
    assert file.read(100) == b"content"
    files.rmdir(b"/work/other/moved/b")
    assert failure(files.stat, b"file") == "ENOENT"
    assert failure(files.mkdir, b"sub") == "ENOENT"
    assert files.context.directory.path.endswith(b" (deleted)")
    files.mkdir(b"/work/x")
    files.mkdir(b"/work/y")
    files.chdir(b"/work/x")
    files.rename(b"/work/x", b"/work/y", 2)
    assert files.context.directory.path == b"/work/y"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
def test_who_makes_a_file_may_write_it_whatever_its_mode() -> None:
    # Not below tmp_path, which other users may not enter.
    shared = Path(tempfile.mkdtemp())
    os.chown(shared, 12345, 12345)
    files = Files()
    files.mkdir(b"/work")
    os.setegid(12345)
    os.seteuid(12345)
    try:
        files.mount(HostTree(shared, writable=True), b"/work")
        file = files.open(b"/work/file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        assert file.write(b"content") == 7
        assert failure(files.open, b"/work/file", os.O_WRONLY) == "EACCES"
        assert files.read(b"/work/file") == b"content"
        file.release()
    finally:
        os.seteuid(0)
        os.setegid(0)
    status = (shared / "file").stat()
    shutil.rmtree(shared)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o444, 12345)


def test_file_systems_of_others_are_mounted(files: Files) -> None:
    other = Files(default.build(proc=files.mounts.memory.fs, devices=Tmpfs(files.mounts.unnamed.budget)))
    points = [row.point for row in other.mounts.rows()]
    assert b"/proc" in points
    assert b"/dev" in points
    assert b"/dev/shm" not in points  # the devices have no such directory
