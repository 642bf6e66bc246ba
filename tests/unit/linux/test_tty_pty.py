"""Pseudoterminals: both sides as files, who waits for what, job control, hang-ups, and the requests of ioctl(2)."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import signal
import stat
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.numbers import SIG_IGN
from asynckvm.linux.syscalls import ioctl, poll, transfer
from asynckvm.linux.tty import Master, Slave, Terminals, requests
from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.pty import TERMINALS_MAX
from asynckvm.linux.wait import POLLHUP, POLLIN, READABLE, WRITABLE
from support.fake_tasks import DATA, lone_task, result

TIOCGPTN, TIOCSPTLCK = requests.TIOCGPTN, requests.TIOCSPTLCK


class World:
    """A session with a shell, a job in the foreground and one in the background; none of them has a terminal yet."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.terminals = Terminals(self._send)
        self.groups: dict[int, ProcessGroup] = {}
        self.session = Session(10, None)
        self.shell = self.task(10)
        self.session.leader = self.shell.process
        self.front, self.back = self.task(11), self.task(12)
        for task in (self.front, self.back):
            task.process.parent = self.shell.process

    def _send(self, processes: Iterable[Any], number: int) -> None:
        self.sent += [(process.pid, number) for process in processes]

    def task(self, pid: int, session: Session | None = None) -> Any:
        group = self.groups[pid] = ProcessGroup(pid, session or self.session)
        task = lone_task(pid=pid, group=group)
        task.process.kernel.groups = self.groups
        group.processes[pid] = task.process
        return task

    def open(self, flags: int = os.O_RDWR) -> tuple[Master, Slave]:
        """A terminal that controls the session, with the job in the foreground; the slave is descriptor 0 of everybody."""
        master = self.terminals.open_master(os.O_RDWR | os.O_NONBLOCK)
        master.hold()
        master.terminal.locked = False
        slave = self.terminals.open_slave(self.shell, master.terminal.number, flags)
        for task in (self.shell, self.front, self.back):
            task.process.files.add(slave)
        master.terminal.foreground = self.front.process.group
        return master, slave

    def set(self, master: Master, minimum: int = 1, tenths: int = 0, **changes: Any) -> None:
        cc = bytearray(master.terminal.termios.cc)
        cc[t.VMIN], cc[t.VTIME] = minimum, tenths
        master.terminal.set_termios(dataclasses.replace(master.terminal.termios, cc=bytes(cc), **changes))


@pytest.fixture
def world() -> World:
    return World()


def number(task: Any) -> int:
    return int.from_bytes(task.space.read(DATA, 4), "little", signed=True)


class TestBothSides:
    async def test_a_line(self, world: World) -> None:
        master, _ = world.open()
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.write(b"hello\r")
        assert await result(reading) == 6
        assert world.front.space.read(DATA, 6) == b"hello\n"
        assert master.read(100) == b"hello\r\n"
        with pytest.raises(BlockingIOError):
            master.read(100)
        assert await result(transfer.write(world.front, 0, DATA, 6)) == 6
        assert master.read(3) == b"hel"
        assert master.read(100) == b"lo\r\n"

    async def test_an_end_of_file(self, world: World) -> None:
        master, _ = world.open()
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.write(b"\x04")
        assert await result(reading) == 0

    async def test_who_shows_the_terminal_is_slow(self, world: World) -> None:
        master, slave = world.open()
        world.front.space.write(DATA, b"x" * 1000)
        while slave.poll() & WRITABLE:
            slave.write(b"x" * 1000)
        writing = await world.front.begin(transfer.write(world.front, 0, DATA, 1000))
        shown = master.read(1 << 20)
        assert await result(writing) == 1000
        assert master.read(1 << 20).endswith(b"x" * 1000)
        assert set(shown) == {ord("x")}

    async def test_a_stopped_terminal_shows_nothing(self, world: World) -> None:
        master, slave = world.open()
        master.write(b"\x13")
        assert slave.poll() == 0
        writing = await world.front.begin(transfer.write(world.front, 0, DATA, 1))
        master.write(b"\x11")
        assert await result(writing) == 1
        assert master.read(10) == b"\0"

    async def test_what_each_is_ready_for(self, world: World) -> None:
        master, slave = world.open()
        assert (master.poll(), slave.poll()) == (WRITABLE, WRITABLE)
        master.write(b"a\n")
        assert (master.poll(), slave.poll()) == (READABLE | WRITABLE, READABLE | WRITABLE)
        world.front.space.write(DATA, struct.pack("<iHH", 0, POLLIN, 0))
        assert await poll.poll(world.front, DATA, 1, 0) == 1

    async def test_what_is_typed_has_a_bound(self, world: World) -> None:
        master, _ = world.open()
        with pytest.raises(BlockingIOError):
            while True:
                master.write(b"line\n" * 100)
        assert not master.poll() & WRITABLE
        assert await result(transfer.read(world.front, 0, DATA, 100)) == 5
        assert master.poll() & WRITABLE


class TestRawReads:
    """termios(3): the four cases of MIN and TIME."""

    async def test_min(self, world: World) -> None:
        master, slave = world.open()
        world.set(master, minimum=3, lflag=0)
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.write(b"ab")
        assert slave.poll() == WRITABLE
        for _ in range(5):
            await asyncio.sleep(0)
        assert not reading.done()
        master.write(b"cd")
        assert await result(reading) == 4
        master.write(b"x")
        assert await result(transfer.read(world.front, 0, DATA, 1)) == 1

    async def test_neither(self, world: World) -> None:
        master, _ = world.open()
        world.set(master, minimum=0, lflag=0)
        assert await result(transfer.read(world.front, 0, DATA, 100)) == 0
        master.write(b"ab")
        assert await result(transfer.read(world.front, 0, DATA, 100)) == 2

    async def test_time(self, world: World) -> None:
        master, _ = world.open()
        world.set(master, minimum=0, tenths=1, lflag=0)
        began = asyncio.get_running_loop().time()
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        assert await result(reading) == 0
        assert asyncio.get_running_loop().time() - began >= 0.09
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.write(b"a")
        assert await result(reading) == 1

    async def test_both(self, world: World) -> None:
        master, slave = world.open()
        world.set(master, minimum=10, tenths=1, lflag=0)
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.write(b"ab")
        assert slave.poll() & READABLE
        assert await result(reading) == 2

    async def test_without_waiting(self, world: World) -> None:
        master, slave = world.open()
        world.set(master, minimum=10, lflag=0)
        slave.set_flags(os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            await result(transfer.read(world.front, 0, DATA, 100))
        master.write(b"ab")
        assert await result(transfer.read(world.front, 0, DATA, 100)) == 2


class TestJobControl:
    def test_a_leader_s_first_terminal_controls_its_session(self, world: World) -> None:
        master, _ = world.open()
        assert world.session.terminal is master.terminal
        other = world.terminals.open_master(os.O_RDWR)
        other.terminal.locked = False
        world.terminals.open_slave(world.shell, other.terminal.number, os.O_RDWR)
        assert other.terminal.session is None
        third = World()
        third.open(os.O_RDWR | os.O_NOCTTY)
        assert third.session.terminal is None

    def test_what_is_typed_signals_the_foreground(self, world: World) -> None:
        master, _ = world.open()
        master.write(b"\x03\x1a\x1c")
        assert world.sent == [(11, signal.SIGINT), (11, signal.SIGTSTP), (11, signal.SIGQUIT)]

    async def test_a_read_from_the_background(self, world: World) -> None:
        master, _ = world.open()
        master.write(b"a\n")
        with pytest.raises(SyscallError) as caught:
            await result(transfer.read(world.back, 0, DATA, 100))
        assert caught.value.number == ERESTARTSYS
        assert world.sent == [(12, signal.SIGTTIN)]
        world.back.mask = 1 << signal.SIGTTIN - 1
        with pytest.raises(SyscallError, match="EIO"):
            await result(transfer.read(world.back, 0, DATA, 100))
        world.back.mask = 0
        world.back.process.parent = None
        with pytest.raises(SyscallError, match="EIO"):
            await result(transfer.read(world.back, 0, DATA, 100))
        assert len(world.sent) == 1

    async def test_a_write_from_the_background(self, world: World) -> None:
        master, _ = world.open()
        assert await result(transfer.write(world.back, 0, DATA, 1)) == 1
        world.set(master, lflag=t.TOSTOP)
        with pytest.raises(SyscallError) as caught:
            await result(transfer.write(world.back, 0, DATA, 1))
        assert caught.value.number == ERESTARTSYS
        assert world.sent == [(12, signal.SIGTTOU)]
        world.back.process.actions.set(signal.SIGTTOU, Action(SIG_IGN))
        assert await result(transfer.write(world.back, 0, DATA, 1)) == 1

    def test_settings_from_the_background(self, world: World) -> None:
        world.open()
        for request in (requests.TCSETS, requests.TCSETSW, requests.TCFLSH):
            with pytest.raises(SyscallError):
                ioctl.ioctl(world.back, 0, request, DATA)
        assert world.sent == [(12, signal.SIGTTOU)] * 3

    def test_the_foreground_can_be_changed(self, world: World) -> None:
        master, _ = world.open()
        world.front.space.write(DATA, struct.pack("<i", 12))
        assert ioctl.ioctl(world.front, 0, requests.TIOCSPGRP, DATA) == 0
        assert master.terminal.foreground is world.back.process.group
        assert ioctl.ioctl(world.shell, 0, requests.TIOCGPGRP, DATA) == 0
        assert number(world.shell) == 12
        assert ioctl.ioctl(world.shell, 0, requests.TIOCGSID, DATA) == 0
        assert number(world.shell) == 10
        stranger = world.task(20, Session(20, None))
        stranger.process.files.add(world.shell.process.files.get(0))
        for request in (requests.TIOCGPGRP, requests.TIOCSPGRP, requests.TIOCGSID, requests.TIOCNOTTY):
            with pytest.raises(SyscallError, match="ENOTTY"):
                ioctl.ioctl(stranger, 0, request, DATA)
        for group, name in [(20, "EPERM"), (99, "ESRCH"), (-1, "EINVAL")]:
            world.back.space.write(DATA, struct.pack("<i", group))
            with pytest.raises(SyscallError, match=name):
                ioctl.ioctl(world.back, 0, requests.TIOCSPGRP, DATA)

    def test_giving_it_up(self, world: World) -> None:
        master, slave = world.open()
        assert ioctl.ioctl(world.front, 0, requests.TIOCNOTTY, 0) == 0
        assert world.session.terminal is master.terminal
        assert ioctl.ioctl(world.shell, 0, requests.TIOCNOTTY, 0) == 0
        assert world.sent == [(11, signal.SIGHUP), (11, signal.SIGCONT)]
        assert (world.session.terminal, master.terminal.session) == (None, None)
        assert ioctl.ioctl(world.shell, 0, requests.TIOCSCTTY, 0) == 0
        assert ioctl.ioctl(world.shell, 0, requests.TIOCSCTTY, 0) == 0
        assert world.session.terminal is master.terminal
        with pytest.raises(SyscallError, match="EPERM"):
            ioctl.ioctl(world.front, 0, requests.TIOCSCTTY, 0)
        leader = world.task(20, Session(20, None))
        leader.process.session.leader = leader.process
        leader.process.files.add(slave)
        with pytest.raises(SyscallError, match="EPERM"):
            ioctl.ioctl(leader, 0, requests.TIOCSCTTY, 1)
        leader.process.credentials = Credentials.of(0, 0)
        assert ioctl.ioctl(leader, 0, requests.TIOCSCTTY, 1) == 0
        assert (world.session.terminal, leader.process.session.terminal) == (None, master.terminal)

    def test_the_leader_ends(self, world: World) -> None:
        master, _ = world.open()
        master.terminal.hang_up(Session(99, None))
        assert world.sent == []
        master.terminal.hang_up(world.session)
        assert world.sent == [(11, signal.SIGHUP)]
        assert world.session.terminal is None

    def test_the_window(self, world: World) -> None:
        master, _ = world.open()
        world.front.space.write(DATA, struct.pack("<HHHH", 24, 80, 0, 0))
        for _ in range(2):
            assert ioctl.ioctl(world.front, 0, requests.TIOCSWINSZ, DATA) == 0
        assert world.sent == [(11, signal.SIGWINCH)]
        assert (master.terminal.window.rows, master.terminal.window.columns) == (24, 80)
        assert ioctl.ioctl(world.front, 0, requests.TIOCGWINSZ, DATA + 100) == 0
        assert world.front.space.read(DATA + 100, 8) == struct.pack("<HHHH", 24, 80, 0, 0)


class TestHangUp:
    async def test_of_the_master(self, world: World) -> None:
        master, slave = world.open()
        reading = await world.front.begin(transfer.read(world.front, 0, DATA, 100))
        master.release()
        assert await result(reading) == 0
        assert world.sent == [(10, signal.SIGHUP), (10, signal.SIGCONT), (11, signal.SIGHUP), (11, signal.SIGCONT)]
        assert slave.poll() & POLLHUP
        assert await result(transfer.read(world.front, 0, DATA, 100)) == 0
        with pytest.raises(SyscallError, match="EIO"):
            await result(transfer.write(world.front, 0, DATA, 100))
        with pytest.raises(SyscallError, match="EIO"):
            ioctl.ioctl(world.front, 0, requests.TCGETS, DATA)
        with pytest.raises(SyscallError, match="ENXIO"):
            world.terminals.open_slave(world.shell, slave.terminal.number, os.O_RDWR)
        assert world.terminals.numbers == []

    async def test_of_the_slave(self, world: World) -> None:
        master, slave = world.open()
        wakes: list[int] = []
        slave.write(b"last")
        master.queue.watch(wakes.append)
        for task in (world.shell, world.front, world.back):
            task.process.files.close(0)
        assert wakes[-1] & POLLHUP
        assert master.poll() == READABLE | WRITABLE | POLLHUP
        assert master.read(100) == b"last"
        with pytest.raises(SyscallError, match="EIO"):
            master.read(100)
        world.terminals.open_slave(world.shell, master.terminal.number, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            master.read(100)


class TestDevices:
    def test_a_new_terminal_is_locked(self, world: World) -> None:
        task = world.shell
        master = world.terminals.open_master(os.O_RDWR)
        fd = task.process.files.add(master)
        assert ioctl.ioctl(task, fd, TIOCGPTN, DATA) == 0
        assert number(task) == 0
        with pytest.raises(SyscallError, match="EIO"):
            world.terminals.open_slave(task, 0, os.O_RDWR)
        peer = ioctl.ioctl(task, fd, requests.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        assert isinstance(task.process.files.get(peer), Slave)
        assert task.process.files.closes_on_exec(peer)
        task.space.write(DATA, bytes(4))
        assert ioctl.ioctl(task, fd, TIOCSPTLCK, DATA) == 0
        slave = world.terminals.open_slave(task, 0, os.O_RDWR)
        assert slave.describe() == b"/dev/pts/0"
        attributes = slave.attributes()
        assert (stat.S_ISCHR(attributes.mode), attributes.special) == (True, os.makedev(136, 0))
        assert master.attributes().special == os.makedev(5, 2)
        with pytest.raises(SyscallError, match="ENXIO"):
            world.terminals.open_slave(task, 1, os.O_RDWR)

    def test_numbers_are_given_again_and_have_a_bound(self, world: World) -> None:
        masters = [world.terminals.open_master(os.O_RDWR) for _ in range(TERMINALS_MAX)]
        with pytest.raises(SyscallError) as caught:
            world.terminals.open_master(os.O_RDWR)
        assert caught.value.number == errno.ENOSPC
        masters[7].close()
        assert world.terminals.open_master(os.O_RDWR).terminal.number == 7

    def test_the_controlling_terminal_by_name(self, world: World) -> None:
        with pytest.raises(SyscallError, match="ENXIO"):
            world.terminals.open_controlling(world.front, os.O_RDWR)
        master, _ = world.open()
        assert world.terminals.open_controlling(world.front, os.O_RDWR).terminal is master.terminal

    def test_exclusive_use(self, world: World) -> None:
        master, _ = world.open()
        assert ioctl.ioctl(world.front, 0, requests.TIOCEXCL, 0) == 0
        with pytest.raises(SyscallError, match="EBUSY"):
            world.terminals.open_slave(world.front, 0, os.O_RDWR)
        assert ioctl.ioctl(world.front, 0, requests.TIOCNXCL, 0) == 0
        assert world.terminals.open_slave(world.front, 0, os.O_RDWR).terminal is master.terminal


class TestRequests:
    @pytest.mark.parametrize(("get", "put", "size"), [(0x5401, 0x5402, 36), (0x802C542A, 0x402C542B, 44)])
    def test_termios(self, world: World, get: int, put: int, size: int) -> None:
        master, _ = world.open()
        task = world.front
        assert ioctl.ioctl(task, 0, get, DATA) == 0
        image = bytearray(task.space.read(DATA, size))
        image[12:16] = struct.pack("<I", t.ISIG)
        task.space.write(DATA, bytes(image))
        master.write(b"typed\n")
        assert ioctl.ioctl(task, 0, put + 2, DATA) == 0
        assert (master.terminal.termios.lflag, master.terminal.discipline.available) == (t.ISIG, 0)
        fd = task.process.files.add(master)
        assert ioctl.ioctl(task, fd, get, DATA) == 0
        assert task.space.read(DATA, size) == bytes(image)

    def test_queues(self, world: World) -> None:
        master, slave = world.open()
        task = world.front
        fd = task.process.files.add(master)
        slave.write(b"abc")
        master.write(b"x\n")
        found = []
        for side in (0, fd):
            for request in (0x541B, 0x5411):
                assert ioctl.ioctl(task, side, request, DATA) == 0
                found.append(number(task))
        assert found == [2, 6, 6, 2]
        assert ioctl.ioctl(task, 0, requests.TCFLSH, 0) == 0
        assert (master.terminal.discipline.available, len(master.terminal.output)) == (0, 6)
        assert ioctl.ioctl(task, 0, requests.TCFLSH, 2) == 0
        assert len(master.terminal.output) == 0
        slave.write(b"abc")
        assert ioctl.ioctl(task, fd, requests.TCFLSH, 0) == 0
        assert len(master.terminal.output) == 0

    def test_the_rest(self, world: World) -> None:
        master, slave = world.open()
        task = world.front
        assert ioctl.ioctl(task, 0, requests.TCXONC, 0) == 0
        assert not slave.poll() & WRITABLE
        assert ioctl.ioctl(task, 0, requests.TCXONC, 1) == 0
        assert slave.poll() & WRITABLE
        for request in (requests.TCSBRK, requests.TCSBRKP):
            assert ioctl.ioctl(task, 0, request, 1) == 0
        for request, argument in ((requests.TCXONC, 9), (requests.TCFLSH, 9)):
            with pytest.raises(SyscallError, match="EINVAL"):
                ioctl.ioctl(task, 0, request, argument)
        with pytest.raises(SyscallError, match="ENOTTY"):
            ioctl.ioctl(task, 0, 0x1234, 0)
        task.space.write(DATA, b"q")
        with pytest.raises(SyscallError, match="EIO"):
            ioctl.ioctl(task, 0, requests.TIOCSTI, DATA)
        task.process.credentials = Credentials.of(0, 0)
        assert ioctl.ioctl(task, 0, requests.TIOCSTI, DATA) == 0
        assert master.read(10) == b"q"
        fd = task.process.files.add(master)
        assert ioctl.ioctl(task, fd, requests.TIOCSIG, signal.SIGINT) == 0
        assert world.sent == [(11, signal.SIGINT)]
        with pytest.raises(SyscallError, match="EINVAL"):
            ioctl.ioctl(task, fd, requests.TIOCSIG, signal.SIGKILL)


async def test_a_long_write_lets_others_run() -> None:
    """Each character is looked at, which takes its time."""
    world = World()
    master, slave = world.open()
    assert slave.write_for(world.front, b"\t" * 30_000) == 2048
    assert master.read(100_000) == b"\t" * 2048
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count())
    world.front.space.write(DATA, b"x" * 20_000)
    assert await result(transfer.write(world.front, 0, DATA, 20_000)) == 20_000
    counting.cancel()
    assert turns >= 20_000 // 2048 - 2
    assert master.read(100_000) == b"x" * 20_000
