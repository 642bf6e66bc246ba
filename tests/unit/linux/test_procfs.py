"""/proc and /dev of a sandbox whose processes are made up: what is in them, who may look, and where magic links lead."""

from __future__ import annotations

import asyncio
import collections
import errno
import os
import stat
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import DescriptorTable, OpenFile
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.files.pipe import PipePages, pipe_ends
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.ipc.segments import Segments
from asynckvm.linux.limits import Limits
from asynckvm.linux.memory import Memory
from asynckvm.linux.signals.action import ActionTable
from asynckvm.linux.signals.queue import SignalQueue
from asynckvm.linux.streams import Capture
from asynckvm.linux.tty import Terminals
from asynckvm.linux.uts import SystemNames
from asynckvm.linux.vfs import Budget, Caller, FileSystemContext, Location, Mounts, Tmpfs, resolve
from asynckvm.linux.vfs.devfs import DevFileSystem, TerminalFileSystem
from asynckvm.linux.vfs.names import make
from asynckvm.linux.vfs.opening import open_file
from asynckvm.linux.vfs.procfs import ProcFileSystem
from asynckvm.model.memory import PAGE, Access
from support.fake_platform import FakeSpace

HEAP, STACK, ARGUMENTS = 0x60_0000, 0x7FFF_0000_0000, 0x7FFF_0000_3000
RW = Access.READ | Access.WRITE


class Sandbox:
    """A kernel with a root file system, /proc and /dev."""

    def __init__(self) -> None:
        memory = SimpleNamespace(frames_total=1000, frames_used=100)
        vcpu = SimpleNamespace(busy_ns=10**9, runs=5)
        self.kernel: Any = SimpleNamespace(
            memory_shown=lambda: (500 * PAGE, 400 * PAGE),
            processes={}, tasks={}, groups={}, processors=2, memory_pages=500, threads_max=10, pipe_pages=PipePages(),
            names=SystemNames(), running=0,
            machine=SimpleNamespace(counters=lambda: SimpleNamespace(memory=memory, vcpus=(vcpu, vcpu))),
        )  # fmt: skip
        self.kernel.segments = Segments(self.kernel)
        self.terminals = Terminals(lambda processes, number: None)
        self.mounts = self.kernel.mounts = Mounts(Tmpfs(Budget(1 << 20, 100)))
        root = Caller(FileSystemContext(self.mounts), Credentials())
        self.root = root
        for name in (b"/proc", b"/dev", b"/home"):
            make(root, self.mounts.root, name, stat.S_IFDIR | 0o755)
        self.mounts.add(ProcFileSystem(self.kernel), resolve(root, self.mounts.root, b"/proc"))
        self.mounts.add(DevFileSystem(self.terminals), resolve(root, self.mounts.root, b"/dev"))
        self.mounts.add(TerminalFileSystem(self.terminals), resolve(root, self.mounts.root, b"/dev/pts"))
        self.mounts.add(Tmpfs(Budget(1 << 20, 100)), resolve(root, self.mounts.root, b"/dev/shm"))

    def process(self, pid: int, user: int = 0) -> Any:
        """A process with one thread; it is the leader of a session of its own."""
        space: Any = FakeSpace()
        space.map(HEAP, 2 * PAGE, RW)
        space.map(STACK, 4 * PAGE, RW)
        space.write(ARGUMENTS, b"cat\0-n\0HOME=/\0")
        loaded = SimpleNamespace(
            entry=0, stack_pointer=ARGUMENTS, heap=HEAP, stack=(STACK, STACK + 4 * PAGE), vdso=(0, 0), code=(0x1000, 0x2000),
            data=(0x2000, 0x3000), arguments=(ARGUMENTS, ARGUMENTS + 7), environment=(ARGUMENTS + 7, ARGUMENTS + 14),
            auxiliary=bytes(16),
        )  # fmt: skip
        memory = Memory(space, HEAP)
        memory.heap_end = HEAP + 2 * PAGE
        location = resolve(self.root, self.mounts.root, b"/home")
        group = ProcessGroup(pid, Session(pid, None))
        process: Any = SimpleNamespace(
            kernel=self.kernel, pid=pid, group=group, session=group.session, parent_pid=1, credentials=Credentials.of(user, user),
            memory=memory, files=DescriptorTable(),
            fs=FileSystemContext(self.mounts, directory=location),
            program=SimpleNamespace(loaded=loaded, location=location, identity=(0, 0)),
            limits=Limits.default(10), actions=ActionTable(), pending=SignalQueue(), job=SimpleNamespace(stopped=0), tasks={},
            children_ns=0, cpu_ns=25 * 10**6, started_ns=10**9, all_calls=collections.Counter({0: 3}), exited=False, dumpable=1,
            exit_signal=17, oom_adjustment=0, resident_max=0,
        )  # fmt: skip
        task: Any = SimpleNamespace(
            process=process, tid=pid, name=b"cat", waiting=False, in_guest=False, mask=0, pending=SignalQueue(), cpu_ns=0,
            started_ns=10**9,
        )  # fmt: skip
        process.tasks[pid] = self.kernel.tasks[pid] = task
        process.leader, process.name = task, b"cat"
        group.session.leader = process
        self.kernel.processes[pid] = process
        return process


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox()


def caller_of(process: Any) -> Caller:
    return Caller(process.fs, process.credentials, process.leader)


def opened(process: Any, path: bytes, flags: int = os.O_RDONLY) -> OpenFile:
    file = open_file(caller_of(process), process.fs.directory, path, flags)
    file.hold()
    return file


def text(process: Any, path: bytes) -> bytes:
    file, found = opened(process, path), b""
    while data := file.read(1000):
        found += data
    file.release()
    return found


def link(process: Any, path: bytes) -> bytes:
    caller = caller_of(process)
    return resolve(caller, process.fs.directory, path, follow=False).node.read_link(caller)


def names(process: Any, path: bytes) -> dict[bytes, int]:
    """Name to d_type."""
    file, found = opened(process, path), {}
    while data := file.entries(400):
        while data:
            _, _, length, kind = struct.unpack_from("<QqHB", data)
            found[data[19:length].rstrip(b"\0")] = kind
            data = data[length:]
    file.release()
    return found


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


# ---------------------------------------------------------------- the system


def test_the_root_lists_processes(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    sandbox.process(12)
    found = names(process, b"/proc")
    assert {b".", b"..", b"self", b"7", b"12", b"cpuinfo", b"sys"} <= set(found)
    assert (found[b"7"], found[b"self"], found[b"uptime"]) == (4, 10, 8)
    assert link(process, b"/proc/self") == b"7"
    assert link(process, b"/proc/thread-self") == b"7/task/7"
    for path in (b"/proc/8", b"/proc/07", b"/proc/nothing", b"/proc/99999999999999999999"):
        with fails(errno.ENOENT):
            resolve(caller_of(process), process.fs.directory, path)


def test_a_listing_goes_on_when_processes_end(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    for pid in range(10, 30):
        sandbox.process(pid)
    file, seen = opened(process, b"/proc"), []
    while data := file.entries(64):
        while data:
            length = struct.unpack_from("<H", data, 16)[0]
            seen.append(data[19:length].rstrip(b"\0"))
            data = data[length:]
        if seen[-1] == b"15":
            del sandbox.kernel.processes[12]
    assert seen[-20:] == [b"%d" % pid for pid in range(10, 30)]


def test_the_sandbox_as_a_whole(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    assert text(process, b"/proc/cpuinfo").count(b"processor\t: ") == 2
    assert text(process, b"/proc/meminfo").startswith(b"MemTotal:           2000 kB\nMemFree:            1600 kB\n")
    assert text(process, b"/proc/stat").startswith(b"cpu  200 0 0 ")
    assert len(text(process, b"/proc/uptime").split()) == 2
    assert len(text(process, b"/proc/loadavg").split()) == 5
    assert text(process, b"/proc/sys/kernel/ostype") == b"Linux\n"
    assert text(process, b"/proc/sys/kernel/osrelease") == os.uname().release.encode() + b"\n"
    boot = text(process, b"/proc/sys/kernel/random/boot_id")
    assert len(boot) == 37
    assert boot == text(process, b"/proc/sys/kernel/random/boot_id")
    assert text(process, b"/proc/sys/kernel/random/uuid") != text(process, b"/proc/sys/kernel/random/uuid")
    assert text(process, b"/proc/net/unix").startswith(b"Num ")
    assert b"nodev\ttmpfs\n" in text(process, b"/proc/filesystems")
    with fails(errno.EIO):
        opened(process, b"/proc/version", os.O_WRONLY).write(b"x")


@pytest.mark.parametrize(
    "path", [b"/proc", b"/proc/self", b"/proc/self/task/7", b"/proc/sys/kernel", b"/proc/sys/vm", b"/proc/net"]
)
def test_all_that_is_listed_is_there_and_can_be_read(sandbox: Sandbox, path: bytes) -> None:
    process = sandbox.process(7)
    caller = caller_of(process)
    for name, kind in names(process, path).items():
        node = resolve(caller, process.fs.directory, path + b"/" + name, follow=False).node
        assert node.type >> 12 == kind
        if kind == 8:
            text(process, path + b"/" + name)
        if kind == 10:
            assert node.read_link(caller)


# ---------------------------------------------------------------- a process


def test_what_a_process_is(sandbox: Sandbox) -> None:
    process = sandbox.process(7, user=1000)
    assert text(process, b"/proc/self/cmdline") == b"cat\0-n\0"
    assert text(process, b"/proc/self/environ") == b"HOME=/\0"
    assert text(process, b"/proc/self/comm") == b"cat\n"
    fields = text(process, b"/proc/self/stat").split()
    assert fields[:8] == [b"7", b"(cat)", b"R", b"1", b"7", b"7", b"0", b"-1"]
    assert (len(fields), fields[13], fields[19], fields[21]) == (52, b"2", b"1", b"100")
    assert fields[22:24] == [b"%d" % (6 * PAGE), b"6"]
    status = text(process, b"/proc/7/status")
    assert b"\nUid:\t1000\t1000\t1000\t1000\n" in status
    assert b"\nState:\tR (running)\n" in status
    assert b"\nVmRSS:\t      24 kB\n" in status
    assert text(process, b"/proc/self/statm").startswith(b"6 6 ")
    assert b"Max open files            1024                 4096                 files     \n" in text(
        process, b"/proc/self/limits"
    )
    process.tasks[7].waiting = True
    assert text(process, b"/proc/self/stat").split()[2] == b"S"
    attributes = resolve(caller_of(process), process.fs.directory, b"/proc/7").node.attributes()
    assert (attributes.user, stat.S_IMODE(attributes.mode)) == (1000, 0o555)


def test_a_name_can_be_given(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    opened(process, b"/proc/self/task/7/comm", os.O_WRONLY | os.O_TRUNC).write(b"a name that is too long\n")
    assert process.tasks[7].name == b"a name that is "


def test_the_score_of_a_process(sandbox: Sandbox) -> None:
    process = sandbox.process(7, user=1000)
    opened(process, b"/proc/self/oom_score_adj", os.O_WRONLY | os.O_TRUNC).write(b"500\n")
    assert text(process, b"/proc/self/oom_score_adj") == b"500\n"
    for value, number in ((b"100", errno.EACCES), (b"1001", errno.EINVAL), (b"x", errno.EINVAL)):
        with fails(number):
            opened(process, b"/proc/self/oom_score_adj", os.O_WRONLY).write(value)


def test_maps(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    lines = text(process, b"/proc/self/maps").splitlines()
    assert lines[0] == b"00600000-00602000 rw-p 00000000 00:00 0".ljust(73) + b"[heap]"
    assert lines[1].startswith(b"7fff00000000-7fff00004000 rw-p")
    assert lines[1].endswith(b" [stack]")
    space = process.memory.space
    for number in range(300):
        space.map(0x7000_0000 + 2 * number * PAGE, PAGE, Access.READ)
    file = opened(process, b"/proc/self/maps")
    whole = text(process, b"/proc/self/maps")
    assert whole.count(b"\n") == 302
    # As if read in one piece, wherever a read begins.
    assert file.pread(10, 12_000) == whole[12_000:12_010]
    assert file.pread(10, 12_005) == whole[12_005:12_015]
    assert file.pread(10, 5) == whole[5:15]
    assert file.pread(10, len(whole)) == b""


def test_others_may_not_look_inside(sandbox: Sandbox) -> None:
    mine, other, root = sandbox.process(7, user=1000), sandbox.process(8, user=1001), sandbox.process(9)
    for name in (b"environ", b"maps", b"fd", b"auxv", b"io", b"fd/0", b"ns/net"):
        with fails(errno.EACCES):
            opened(other, b"/proc/7/" + name)
    for name in (b"exe", b"cwd", b"root"):
        with fails(errno.EACCES):
            link(other, b"/proc/7/" + name)
        with fails(errno.EACCES):
            resolve(caller_of(other), other.fs.directory, b"/proc/7/" + name)
        assert link(root, b"/proc/7/" + name) == (b"/" if name == b"root" else b"/home")
    assert text(other, b"/proc/7/cmdline")
    mine.dumpable = 0
    assert text(mine, b"/proc/7/maps")
    assert resolve(caller_of(mine), mine.fs.directory, b"/proc/7").node.attributes().user == 0


def test_a_process_that_is_gone(sandbox: Sandbox) -> None:
    process, other = sandbox.process(7), sandbox.process(8)
    file, folder = opened(other, b"/proc/7/stat"), resolve(caller_of(other), other.fs.directory, b"/proc/7")
    process.exited = True
    process.tasks.clear()
    process.leader = None
    assert b") Z 1 " in text(other, b"/proc/7/stat")
    assert text(other, b"/proc/7/maps") == text(other, b"/proc/7/cmdline") == b""
    assert set(names(other, b"/proc/7/fd")) == {b".", b".."}
    with fails(errno.ENOENT):
        link(other, b"/proc/7/cwd")
    del sandbox.kernel.processes[7]
    for look in (lambda: file.read(10), lambda: resolve(caller_of(other), folder, b"stat")):
        with fails(errno.ESRCH):
            look()


def test_mounts(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    rows = text(process, b"/proc/mounts").splitlines()
    assert [row.split()[1] for row in rows] == [b"/", b"/proc", b"/dev", b"/dev/pts", b"/dev/shm"]
    assert rows[1].split()[2] == b"proc"
    assert len(text(process, b"/proc/self/mountinfo").splitlines()) == 5


# ---------------------------------------------------------------- descriptors


def test_the_files_of_a_process(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    file = open_file(caller_of(process), process.fs.directory, b"/home/file", os.O_RDWR | os.O_CREAT, 0o600)
    fd = process.files.add(file, close_on_exec=True)
    file.write(b"hello")
    path = b"/proc/self/fd/%d" % fd
    assert set(names(process, b"/proc/self/fd")) == {b".", b"..", b"0"}
    assert link(process, path) == b"/home/file"
    assert stat.S_IMODE(resolve(caller_of(process), process.fs.directory, path, follow=False).node.attributes().mode) == 0o700
    again = opened(process, path)
    assert again is not file
    assert again.read(10) == b"hello"
    assert text(process, b"/proc/self/fdinfo/0").startswith(b"pos:\t5\nflags:\t02")
    from asynckvm.linux.vfs.names import unlink

    unlink(caller_of(process), process.fs.directory, b"/home/file")
    assert link(process, path) == b"/home/file (deleted)"
    assert opened(process, path).read(10) == b"hello"
    with fails(errno.ENOENT):
        opened(process, b"/proc/self/fd/1")


def test_files_without_a_name(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    reading, writing = pipe_ends(PipePages())
    output = Capture()
    for file in (reading, writing, EventFile(0, 0, semaphore=False), output):
        process.files.add(file)
    assert link(process, b"/proc/self/fd/1") == b"pipe:[%d]" % reading.pipe.inode
    assert link(process, b"/proc/self/fd/2") == b"anon_inode:[eventfd]"
    node = resolve(caller_of(process), process.fs.directory, b"/proc/self/fd/0").node
    assert node.type == stat.S_IFIFO
    assert node.endpoint().pipe is reading.pipe
    assert node.attributes() == reading.attributes()
    with fails(errno.ENXIO):
        opened(process, b"/proc/self/fd/2", os.O_RDWR)
    # A stream of the host is shared, under flags of its own.
    again = opened(process, b"/proc/self/fd/3", os.O_WRONLY)
    assert resolve(caller_of(process), process.fs.directory, b"/proc/self/fd/3").node.type != stat.S_IFIFO
    assert again.write(b"abc") == 3
    assert output.data == b"abc"
    assert output.references == 2
    again.release()
    assert output.references == 1
    for last in range(3, 1500):  # of each other, and yet each but one step away
        process.files.limit = last + 2
        assert process.files.add(opened(process, b"/proc/self/fd/%d" % last, os.O_WRONLY)) == last + 1
    assert process.files.get(1500).write(b"def") == 3
    assert output.data == b"abcdef"


# ---------------------------------------------------------------- devices


def test_devices(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    null, zero, full, random = (opened(process, b"/dev/" + name, os.O_RDWR) for name in (b"null", b"zero", b"full", b"urandom"))
    assert (null.read(10), null.write(b"abc"), zero.read(3), zero.write(b"abc"), full.read(3)) == (b"", 3, bytes(3), 3, bytes(3))
    assert zero.pread(4, 100) == bytes(4)
    with fails(errno.ENOSPC):
        full.write(b"a")
    assert random.read(16) != random.read(16)
    attributes = null.attributes()
    assert (attributes.special, attributes.mode) == (os.makedev(1, 3), stat.S_IFCHR | 0o666)
    found = names(process, b"/dev")
    assert found[b"null"] == found[b"tty"] == found[b"ptmx"] == 2
    assert {b"fd", b"stdin", b"shm", b"pts"} <= set(found)
    assert link(process, b"/dev/stdin") == b"/proc/self/fd/0"
    assert opened(process, b"/dev/shm/x", os.O_CREAT | os.O_RDWR).write(b"x") == 1
    with fails(errno.EPERM):
        opened(process, b"/dev/new", os.O_CREAT | os.O_RDWR)
    output = Capture()
    process.files.add(Capture())
    process.files.add(output)
    opened(process, b"/dev/stdout", os.O_WRONLY | os.O_TRUNC).write(b"abc")
    assert output.data == b"abc"


async def test_terminals(sandbox: Sandbox) -> None:
    process, other = sandbox.process(7), sandbox.process(8)
    with fails(errno.ENXIO):
        opened(process, b"/dev/tty")
    master = opened(process, b"/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    with fails(errno.EIO):
        opened(process, b"/dev/pts/0", os.O_RDWR)
    sandbox.terminals[0].locked = False
    slave = opened(process, b"/dev/pts/0", os.O_RDWR)
    assert process.session.terminal is sandbox.terminals[0]
    assert set(names(process, b"/dev/pts")) == {b".", b"..", b"ptmx", b"0"}
    tty = opened(process, b"/dev/tty", os.O_RDWR)
    tty.write(b"hello")
    assert master.read(10) == b"hello"
    # ttyname(3) looks for the name of the descriptor's device.
    process.files.add(slave)
    assert link(process, b"/proc/self/fd/0") == b"/dev/pts/0"
    assert resolve(caller_of(process), process.fs.directory, b"/dev/pts/0").node.attributes() == slave.attributes()
    # What /dev/tty means is decided by who opens it, also through another's descriptor.
    other.files.add(tty)
    with fails(errno.ENXIO):
        opened(other, b"/proc/self/fd/0", os.O_RDWR)
    fields = text(process, b"/proc/self/stat").split()
    assert fields[6:8] == [b"%d" % os.makedev(136, 0), b"7"]
    for file in (master, slave, tty):
        file.release()
    await asyncio.sleep(0)
    assert set(names(process, b"/dev/pts")) == {b".", b"..", b"ptmx"}


def test_a_location_in_proc_goes_up(sandbox: Sandbox) -> None:
    process = sandbox.process(7)
    caller = caller_of(process)
    found = resolve(caller, process.fs.directory, b"/proc/self/task/7/../../..")
    assert isinstance(found, Location)
    assert found.path == b"/proc"
    assert resolve(caller, process.fs.directory, b"/proc/7/net/..").path == b"/proc/7"
    assert resolve(caller, process.fs.directory, b"/proc/self/cwd/..").path == b"/"
