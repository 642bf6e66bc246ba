"""Files in memory: their bytes against a file of the host's tmpfs, what they cost, and names that outlive or lose their files."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import os
import random
import stat
import tempfile
import time
from collections.abc import Iterator

import pytest

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files.memory import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MemoryFile,
)
from asynckvm.linux.vfs import Budget, Change, Location, Owner, Tmpfs, names
from asynckvm.linux.vfs.content import Content
from asynckvm.linux.vfs.opening import O_TMPFILE
from asynckvm.linux.vfs.tmpfs import File
from asynckvm.model.memory import PAGE
from support.sandbox_files import MIB, Files, failure, listed

KEEP, PUNCH, ZERO = 1, 2, 16
fallocate = ctypes.CDLL(None, use_errno=True).fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


@pytest.fixture
def budget() -> Budget:
    return Budget(MIB, 100)


@pytest.fixture
def files(budget: Budget) -> Files:
    return Files(Tmpfs(budget))


# ---------------------------------------------------------------- bytes


class Native:
    def __init__(self) -> None:
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            self.fd = os.dup(file.fileno())

    def close(self) -> None:
        os.close(self.fd)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    @property
    def allocated(self) -> int:
        return os.fstat(self.fd).st_blocks * 512

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def write(self, offset: int, data: bytes) -> int:
        return os.pwrite(self.fd, data, offset) if data else 0

    def truncate(self, length: int) -> None:
        os.ftruncate(self.fd, length)

    def seek(self, offset: int, *, data: bool) -> int:
        return os.lseek(self.fd, offset, os.SEEK_DATA if data else os.SEEK_HOLE)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        if fallocate(self.fd, mode, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate")


def outcome(file: Content | Native, call: str, *arguments: object, **options: object) -> object:
    try:
        return getattr(file, call)(*arguments, **options)
    except SyscallError as error:
        return error.name
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("seed", range(8))
def test_bytes_are_those_of_the_hosts_tmpfs(seed: int) -> None:
    """Half of the runs move the bytes to a memory file of the host midway, as mmap does.

    Where holes end is asked only in runs that reserve none: kernels differ in what they take for data there.
    """
    choice = random.Random(seed)
    budget = Budget(64 * MIB, 10)
    inside, native = Content(budget), Native()
    limit = 40 * PAGE
    for step in range(600):
        offset = choice.choice([choice.randrange(limit), choice.randrange(limit) // PAGE * PAGE])
        length = choice.choice([1, 100, PAGE, PAGE + 1, 3 * PAGE, choice.randrange(1, 6 * PAGE)])
        call: tuple[object, ...]
        options: dict[str, object] = {}
        match choice.choice(["write", "write", "read", "read", "truncate", "allocate", "seek" if seed & 2 else "read"]):
            case "write":
                call = ("write", offset, choice.randbytes(length))
            case "read":
                call = ("read", offset, length)
            case "truncate":
                call = ("truncate", offset)
            case "seek":
                call, options = ("seek", offset), {"data": choice.random() < 0.5}
            case _:
                filling = [] if seed & 2 else [0, KEEP]
                mode = choice.choice([*filling, PUNCH | KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP, PUNCH, 64])
                call = ("allocate", mode, offset, length)
        if step == 300 and seed % 2:
            inside.descriptor()
        ours, theirs = outcome(inside, *call, **options), outcome(native, *call, **options)  # type: ignore[arg-type]
        assert ours == theirs, (step, call, options)
        assert inside.size == native.size, (step, call)
        if seed % 2 == 0:
            assert inside.allocated == native.allocated, (step, call)
    assert inside.read(0, limit * 2) == native.read(0, limit * 2)
    assert budget.used >= inside.allocated
    native.close()
    del inside
    assert budget.used == 0


def test_a_sparse_file_costs_what_is_written(files: Files, budget: Budget) -> None:
    file = files.open(b"/sparse", os.O_RDWR | os.O_CREAT)
    file.truncate(1 << 50)
    assert file.pwrite(b"x", 1 << 49) == 1
    assert budget.used == PAGE
    assert files.stat(b"/sparse")[7] == 1 << 50
    assert file.attributes().blocks == PAGE // 512
    assert file.seek(0, os.SEEK_DATA) == 1 << 49
    assert file.seek(0, os.SEEK_HOLE) == 0
    assert file.pread(10, (1 << 49) - 5) == b"\0" * 5 + b"x" + b"\0" * 4
    # To map it would let the guest fill it without a call: there is no room for all of it.
    assert isinstance(file, MemoryFile)
    assert failure(file.inode.content.descriptor) == "ENOSPC"
    assert file.pread(1, 1 << 49) == b"x"


def test_room_runs_out_and_comes_back(files: Files, budget: Budget) -> None:
    file = files.open(b"/big", os.O_RDWR | os.O_CREAT)
    data = bytes(range(256)) * 16 * 100
    assert file.write(data) == len(data)
    written = len(data)
    while not failure(file.write, data):
        written = file.seek(0, os.SEEK_CUR)
    assert written == MIB == budget.used
    assert failure(files.write, b"/other", b"x") == "ENOSPC"
    file.truncate(MIB - PAGE)
    assert not failure(files.write, b"/other", b"x")
    files.unlink(b"/big")
    assert budget.used == MIB  # as long as it is open
    file.release()
    del file
    gc.collect()
    assert budget.used == PAGE
    assert failure(files.open(b"/other", os.O_RDWR).allocate, 0, 0, 2 * MIB) == "ENOSPC"
    assert budget.used == PAGE


def test_mapped_files_are_charged_in_full_and_never_shrink_under_a_mapping(files: Files, budget: Budget) -> None:
    file = files.open(b"/mapped", os.O_RDWR | os.O_CREAT)
    assert isinstance(file, MemoryFile)
    file.truncate(100 * PAGE)
    file.write(b"begin")
    assert budget.used == PAGE
    fd = file.inode.content.descriptor()
    assert budget.used == 100 * PAGE
    assert os.pread(fd, 5, 0) == b"begin"
    os.pwrite(fd, b"by the guest", 50 * PAGE)
    assert file.pread(12, 50 * PAGE) == b"by the guest"
    file.truncate(PAGE)
    assert os.fstat(fd).st_size == 100 * PAGE
    assert os.pread(fd, 12, 50 * PAGE) == bytes(12)
    os.pwrite(fd, b"beyond the end", PAGE + 10)
    file.truncate(2 * PAGE)
    assert file.pread(100, PAGE) == bytes(100)
    assert failure(file.truncate, 4 * MIB) == "ENOSPC"
    assert file.attributes().size == 2 * PAGE


def test_a_large_file_moves_to_the_host_before_that_takes_long() -> None:
    content = Content(Budget(64 * MIB, 1))
    pieces = [bytes([number]) * MIB for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for number, piece in enumerate(pieces):
        assert content.write(number * MIB, piece) == MIB
        assert (len(os.listdir("/proc/self/fd")) > before) == (number >= 16)
    assert b"".join(content.read(number * MIB, MIB) for number in range(20)) == b"".join(pieces)
    assert content.allocated == content.size == 20 * MIB
    # With holes for which there is no room it stays where it is.
    sparse = Content(Budget(64 * MIB, 1))
    sparse.truncate(1 << 40)
    for number in range(20):
        sparse.write(number * MIB * 2, pieces[number])
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert sparse.allocated == 20 * MIB


@pytest.mark.parametrize("offset", [-1, INT64_MAX])
def test_offsets_beyond_all_files(files: Files, offset: int) -> None:
    file = files.open(b"/file", os.O_RDWR | os.O_CREAT)
    if offset > 0:
        assert failure(file.pwrite, b"x", offset) == "EFBIG"
        assert failure(file.truncate, offset) == "EFBIG"
        assert file.pread(1, offset) == b""
    else:
        assert failure(file.seek, offset, os.SEEK_SET) == "EINVAL"
        assert failure(file.seek, offset, os.SEEK_CUR) == "EINVAL"
    assert failure(file.seek, 0, 9) == "EINVAL"


def test_appending(files: Files) -> None:
    one = files.open(b"/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    other = files.open(b"/log", os.O_WRONLY | os.O_APPEND)
    for number in range(3):
        one.write(b"a%d" % number)
        other.write(b"b%d" % number)
    other.pwrite(b"end", 0)
    assert files.read(b"/log") == b"a0b0a1b1a2b2end"


# ---------------------------------------------------------------- names and inodes


def test_inodes_are_bounded_and_come_back(files: Files, budget: Budget) -> None:
    made = 0
    for number in itertools.count():
        if failure(files.mkdir, b"/d%d" % number) == "ENOSPC":
            break
        made += 1
    assert made == 99  # the root is one
    assert failure(files.symlink, b"x", b"/link") == "ENOSPC"
    files.rmdir(b"/d0")
    files.write(b"/file", b"")
    assert failure(files.link, b"/file", b"/second") == "ENOSPC"  # a name costs as much
    for number in range(1, made):
        files.rmdir(b"/d%d" % number)
    files.link(b"/file", b"/second")
    files.unlink(b"/file")
    files.unlink(b"/second")
    gc.collect()
    assert budget.used_inodes == 1


def test_everything_is_given_back(budget: Budget) -> None:
    files = Files(Tmpfs(budget))
    files.mkdir(b"/a")
    files.write(b"/a/b", b"x" * 10000)
    files.symlink(b"y" * 1000, b"/a/long")
    files.find(b"/a/b").node.set_xattr(b"user.note", b"text", 0)
    assert budget.used > 4 * PAGE
    del files
    gc.collect()
    assert (budget.used, budget.used_inodes) == (0, 0)


def test_a_file_without_a_name_lives_on(files: Files) -> None:
    files.write(b"/file", b"content")
    file = files.open(b"/file", os.O_RDWR)
    assert file.location is not None
    files.unlink(b"/file")
    assert file.location.path == b"/file (deleted)"
    assert file.attributes().links == 0
    assert file.read(100) == b"content"
    files.write(b"/file", b"another")
    assert file.pread(100, 0) == b"content"
    assert failure(names.link, files.caller, file.location, files.context.root, b"/again") == "ENOENT"


def test_names_follow_what_is_renamed(files: Files) -> None:
    files.mkdir(b"/a")
    files.mkdir(b"/a/b")
    files.mkdir(b"/z")
    files.write(b"/a/b/file", b"content")
    files.chdir(b"/a/b")
    file = files.open(b"file")
    files.rename(b"/a", b"/z/moved")
    assert files.context.directory.path == b"/z/moved/b"
    assert file.location is not None
    assert file.location.path == b"/z/moved/b/file"
    assert files.find(b"..").path == b"/z/moved"
    files.rename(b"file", b"../renamed")
    assert file.location.path == b"/z/moved/renamed"
    files.rmdir(b"/z/moved/b")
    assert files.context.directory.path == b"/z/moved/b (deleted)"
    assert failure(files.mkdir, b"new") == "ENOENT"
    assert failure(files.write, b"new", b"") == "ENOENT"
    assert failure(files.stat, b"missing") == "ENOENT"
    assert files.stat(b".").links == 0


def test_a_file_made_without_a_name_is_given_one(files: Files) -> None:
    files.mkdir(b"/dir")
    file = files.open(b"/dir", O_TMPFILE | os.O_RDWR, 0o600)
    file.write(b"content")
    assert file.location is not None
    assert file.attributes().links == 0
    assert file.location.path == b"/dir/#%d (deleted)" % file.attributes().inode
    names.link(files.caller, file.location, files.context.root, b"/dir/named")
    assert files.read(b"/dir/named") == b"content"
    assert files.stat(b"/dir/named").links == 1
    exclusive = files.open(b"/dir", O_TMPFILE | os.O_RDWR | os.O_EXCL)
    assert exclusive.location is not None
    assert failure(names.link, files.caller, exclusive.location, files.context.root, b"/dir/other") == "ENOENT"
    assert failure(files.open, b"/dir", O_TMPFILE | os.O_RDONLY) == "EINVAL"
    assert failure(files.open, b"/dir/named", O_TMPFILE | os.O_RDWR) == "ENOTDIR"


def test_a_listing_keeps_its_place_while_names_come_and_go() -> None:
    files = Files()
    for number in range(500):
        files.write(b"/f%03d" % number, b"")
    directory = files.open(b"/", os.O_RDONLY | os.O_DIRECTORY)
    seen: list[bytes] = []
    while records := directory.entries(1000):
        position = directory.seek(0, os.SEEK_CUR)
        directory.seek(position, os.SEEK_SET)
        batch = []
        while records:
            length = int.from_bytes(records[16:18], "little")
            batch.append(records[19:length].split(b"\0", 1)[0])
            records = records[length:]
        seen += batch
        for name in batch:
            if name not in (b".", b".."):
                files.unlink(b"/" + name)
    assert seen == [b".", b"..", *(b"f%03d" % number for number in range(500))]
    assert files.list(b"/") == []
    directory.seek(0, os.SEEK_SET)
    assert listed(directory) == [b".", b".."]
    assert failure(directory.entries, 10) == ""  # at its end
    directory.seek(0, os.SEEK_SET)
    assert failure(directory.entries, 10) == "EINVAL"


def test_mount_points_stay(files: Files) -> None:
    files.mkdir(b"/a")
    files.mkdir(b"/a/b")
    files.mount(Tmpfs(Budget(MIB, 10)), b"/a/b")
    files.write(b"/a/b/file", b"mounted")
    assert failure(files.rmdir, b"/a/b") == "EBUSY"
    for old in (b"/a", b"/a/b"):
        assert failure(files.rename, old, b"/c") == "EBUSY"
    assert failure(files.rename, b"/a/b/file", b"/file") == "EXDEV"
    assert failure(files.mount, Tmpfs(Budget(MIB, 10)), b"/a/b/file") == "ENOTDIR"
    assert files.find(b"/a/b/..").path == b"/a"
    assert [row.point for row in files.mounts.rows()] == [b"/", b"/a/b"]
    assert files.stat(b"/a/b").device != files.stat(b"/a").device
    files.chdir(b"/a/b")
    assert files.context.directory.shown_from(files.find(b"/a")) == b"/b"
    assert files.context.directory.shown_from(files.find(b"/a/b")) == b"/"
    files.chdir(b"/a")
    assert files.context.directory.shown_from(files.find(b"/a/b")) == b"(unreachable)/a"


# ---------------------------------------------------------------- attributes


def test_times(files: Files) -> None:
    before = time.time_ns()
    files.write(b"/file", b"x")
    made = files.stat(b"/file")
    assert before <= (made.born or 0) <= made.modified == made.changed <= time.time_ns()
    node = files.find(b"/file").node
    node.change(Change(accessed=5, modified=6))
    assert files.stat(b"/file")[10:12] == (5, 6)
    assert files.stat(b"/file").changed > made.changed
    files.read(b"/file")
    assert files.stat(b"/file").accessed >= made.changed
    read_once = files.stat(b"/file").accessed
    files.read(b"/file")
    assert files.stat(b"/file").accessed == read_once  # as mounted with relatime
    parent = files.stat(b"/").modified
    files.mkdir(b"/dir")
    assert files.stat(b"/").modified > parent


def test_new_files_take_the_umask_and_the_group_of_a_marked_directory(files: Files) -> None:
    files.mkdir(b"/shared")
    files.chown(b"/shared", None, 50)
    files.chmod(b"/shared", 0o2777)
    other = files.as_user(1000)
    other.context.umask = 0o027
    other.open(b"/shared/file", os.O_CREAT | os.O_WRONLY, 0o666)
    other.mkdir(b"/shared/dir")
    assert other.stat(b"/shared/file")[2:6] == (stat.S_IFREG | 0o640, 1, 1000, 50)
    assert other.stat(b"/shared/dir")[2:6] == (stat.S_IFDIR | 0o2750, 2, 1000, 50)


def test_xattrs(files: Files, budget: Budget) -> None:
    files.write(b"/file", b"")
    node = files.find(b"/file").node
    assert failure(node.get_xattr, b"user.a") == "ENODATA"
    node.set_xattr(b"user.a", b"1", 0)
    node.set_xattr(b"user.b", b"", 1)
    assert failure(node.set_xattr, b"user.a", b"2", 1) == "EEXIST"
    assert failure(node.set_xattr, b"user.c", b"2", 2) == "ENODATA"
    node.set_xattr(b"user.a", b"22", 2)
    assert [*node.xattrs()] == [b"user.a", b"user.b"]
    assert (node.get_xattr(b"user.a"), node.get_xattr(b"user.b")) == (b"22", b"")
    assert failure(node.set_xattr, b"security.capability", b"x", 0) == "ENOTSUP"
    assert failure(node.set_xattr, b"trusted.x", b"x", 0) == "EPERM"
    assert failure(node.set_xattr, b"user." + b"x" * 251, b"x", 0) == "ERANGE"
    count = 0
    while not failure(node.set_xattr, b"user.%d" % count, b"x" * 60000, 0):
        count += 1
    assert 10 < count < 20
    assert budget.used <= MIB
    node.remove_xattr(b"user.a")
    assert failure(node.remove_xattr, b"user.a") == "ENODATA"
    files.unlink(b"/file")
    del node
    gc.collect()
    assert budget.used == 0


# ---------------------------------------------------------------- memory files


@pytest.fixture
def memory(files: Files) -> Iterator[MemoryFile]:
    entry = files.mounts.unnamed.unnamed(b"memfd:name", 0o777, Owner(0, 0))
    assert isinstance(entry.node, File)
    entry.node.seals = 0
    file = MemoryFile(entry.node, os.O_RDWR)
    file.location = Location(files.mounts.memory, entry)
    yield file


def test_memory_files_show_a_name_that_leads_nowhere(memory: MemoryFile, files: Files) -> None:
    assert memory.describe() == b"/memfd:name (deleted)"
    assert failure(files.stat, b"/memfd:name") == "ENOENT"
    memory.write(b"content")
    assert memory.attributes()[3:8] == (0, 0, 0, 0, 7)


def test_seals(memory: MemoryFile) -> None:
    memory.write(b"content")
    memory.add_seals(F_SEAL_GROW)
    assert failure(memory.truncate, 8) == "EPERM"
    assert memory.pwrite(b"12345", 5) == 2
    assert failure(memory.pwrite, b"x", 7) == "EPERM"
    assert failure(memory.allocate, 0, 0, 100) == "EPERM"
    memory.truncate(6)
    memory.add_seals(F_SEAL_SHRINK)
    assert failure(memory.truncate, 5) == "EPERM"
    memory.truncate(6)
    memory.add_seals(F_SEAL_WRITE)
    assert failure(memory.write, b"x") == "EPERM"
    assert failure(memory.allocate, PUNCH | KEEP, 0, 1) == "EPERM"
    assert memory.seals == F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE
    memory.add_seals(F_SEAL_SEAL)
    assert failure(memory.add_seals, F_SEAL_FUTURE_WRITE) == "EPERM"
    assert failure(memory.add_seals, 1 << 20) == "EINVAL"
    assert memory.pread(10, 0) == b"conte1"
