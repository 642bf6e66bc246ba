"""Children: how their ends are reported, to whom, and what becomes of those whose parent goes first; groups and sessions."""

from __future__ import annotations

import errno
import signal
import struct
from typing import Any

import pytest

from asynckvm.linux import ending
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.limits import Limit
from asynckvm.linux.signals import send
from asynckvm.linux.signals.action import Action
from asynckvm.linux.signals.info import SigInfo
from asynckvm.linux.signals.numbers import SA_NOCLDWAIT, SIG_IGN, bit
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.syscalls import lifecycle as calls
from support.fake_tasks import DATA, FakeKernel, FakeProcess, result

WNOHANG, WUNTRACED, WEXITED, WCONTINUED, WNOWAIT = 1, 2, 4, 8, 0x0100_0000
WCLONE, WALL = 0x8000_0000, 0x4000_0000
P_ALL, P_PID, P_PGID = 0, 1, 2


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def parent(kernel: FakeKernel) -> Any:
    return FakeProcess(kernel, 100)


def child_of(parent: Any, pid: int) -> Any:
    return FakeProcess(parent.kernel, pid, parent=parent)


def end(process: Any, status: ExitStatus | None = None) -> None:
    process.end(status or ExitStatus(code=0))
    for task in list(process.tasks.values()):
        ending.end_task(task)


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


async def waited(parent: Any, pid: int = -1, options: int = 0) -> tuple[int, int]:
    found = await result(calls.wait4(parent.leader, pid, DATA, options, 0))
    return found, struct.unpack("<i", parent.space.read(DATA, 4))[0]


@pytest.mark.parametrize(
    ("status", "encoded"), [(ExitStatus(code=3), 3 << 8), (ExitStatus(code=0), 0), (ExitStatus(signal=signal.SIGKILL), 9)]
)
async def test_an_end_is_waited_for(status: ExitStatus, encoded: int, parent: Any) -> None:
    child = child_of(parent, 200)
    assert await result(calls.wait4(parent.leader, -1, 0, WNOHANG, 0)) == 0
    waiting = await parent.leader.begin(calls.wait4(parent.leader, -1, DATA, 0, DATA + 8))
    end(child, status)
    assert await result(waiting) == 200
    assert struct.unpack("<i", parent.space.read(DATA, 4)) == (encoded,)
    assert 200 not in parent.kernel.processes
    assert parent.pending.mask == 0  # SIGCHLD is ignored by default, the status kept all the same
    with fails(errno.ECHILD):
        await waited(parent)


async def test_an_end_comes_before_the_handler_of_its_signal(parent: Any) -> None:
    parent.actions.set(signal.SIGCHLD, Action(0x1000))
    child = child_of(parent, 200)
    waiting = await parent.leader.begin(calls.wait4(parent.leader, -1, 0, 0, 0))
    end(child)
    assert await result(waiting) == 200
    assert parent.pending.mask == bit(signal.SIGCHLD)


async def test_another_signal_ends_the_wait(parent: Any) -> None:
    child_of(parent, 200)
    waiting = await parent.leader.begin(calls.wait4(parent.leader, -1, 0, 0, 0))
    parent.leader.interrupt()
    with fails(ERESTARTSYS):
        await result(waiting)


async def test_which_child_is_meant(kernel: FakeKernel, parent: Any) -> None:
    first, second, third = (child_of(parent, pid) for pid in (200, 201, 202))
    assert calls.setpgid(parent.leader, 201, 0) == 0
    for child in (first, second, third):
        end(child, ExitStatus(code=child.pid - 200))
    for pid in (999, -999):
        with fails(errno.ECHILD):
            await waited(parent, pid)
    with fails(errno.ESRCH):
        await waited(parent, -(1 << 31))
    assert await waited(parent, 202) == (202, 2 << 8)
    assert await waited(parent, -201) == (201, 1 << 8)
    assert await waited(parent, 0) == (200, 0)
    assert set(kernel.processes) == {100}


async def test_waitid_can_look_without_taking(parent: Any) -> None:
    child = child_of(parent, 200)
    task = parent.leader
    parent.space.write(DATA, b"\xff" * 128)
    assert await result(calls.waitid(task, P_ALL, 0, DATA, WEXITED | WNOHANG, 0)) == 0
    assert struct.unpack_from("<iii", parent.space.read(DATA, 128))[0] == 0
    end(child, ExitStatus(code=4))
    for _ in range(2):
        assert await result(calls.waitid(task, P_PID, 200, DATA, WEXITED | WNOWAIT, 0)) == 0
    number, error, code, _, pid, user, status = struct.unpack_from("<7i", parent.space.read(DATA, 128))
    assert (number, error, code, pid, user, status) == (signal.SIGCHLD, 0, 1, 200, 1000, 4)
    assert await result(calls.waitid(task, P_PGID, 100, 0, WEXITED, 0)) == 0
    with fails(errno.ECHILD):
        await result(calls.waitid(task, P_ALL, 0, 0, WEXITED, 0))
    for kind, options in ((P_ALL, 0), (P_ALL, WEXITED | 1 << 20), (9, WEXITED)):
        with fails(errno.EINVAL):
            await result(calls.waitid(task, kind, 0, 0, options, 0))


async def test_stops_are_reported_once(parent: Any) -> None:
    child = child_of(parent, 200)
    send.stop(child, signal.SIGSTOP)
    assert await waited(parent, options=WNOHANG) == (0, 0)
    assert await waited(parent, options=WUNTRACED) == (200, signal.SIGSTOP << 8 | 0x7F)
    assert (await waited(parent, options=WUNTRACED | WNOHANG))[0] == 0
    send.send_to_process(child, SigInfo(signal.SIGCONT))
    assert await waited(parent, options=WCONTINUED) == (200, 0xFFFF)
    assert (await waited(parent, options=WCONTINUED | WNOHANG))[0] == 0


async def test_children_that_report_otherwise(parent: Any) -> None:
    child = child_of(parent, 200)
    child.exit_signal = signal.SIGUSR1
    parent.actions.set(signal.SIGUSR1, Action(0x1000))
    end(child)
    assert parent.pending.mask == bit(signal.SIGUSR1)
    with fails(errno.ECHILD):
        await waited(parent)
    assert (await waited(parent, options=WCLONE))[0] == 200
    child = child_of(parent, 201)
    child.exit_signal = 0
    end(child)
    assert (await waited(parent, options=WALL))[0] == 201


@pytest.mark.parametrize(("action", "told"), [(Action(SIG_IGN), False), (Action(0x1000, SA_NOCLDWAIT), True)])
async def test_a_parent_that_does_not_want_to_know(action: Action, told: bool, parent: Any) -> None:
    parent.actions.set(signal.SIGCHLD, action)
    child = child_of(parent, 200)
    waiting = await parent.leader.begin(calls.wait4(parent.leader, -1, 0, 0, 0))
    end(child)
    assert 200 not in parent.kernel.processes
    with fails(errno.ECHILD):
        await result(waiting)
    assert bool(parent.pending.mask & bit(signal.SIGCHLD)) == told


async def test_what_children_used_is_added_up(parent: Any) -> None:
    child = child_of(parent, 200)
    child.leader.cpu_ns = 5_000_000
    child.children_ns = 1_000_000
    end(child)
    assert parent.children_ns == 0
    assert (await waited(parent))[0] == 200
    assert parent.children_ns == 6_000_000


# ---------------------------------------------------------------- orphans


def test_a_signal_that_finds_no_room_does_not_keep_a_process_from_ending(parent: Any) -> None:
    child = child_of(parent, 200)
    grandchild = child_of(child, 300)
    child.exit_signal = grandchild.death_signal = signal.SIGRTMIN
    for process in (parent, grandchild):
        process.actions.set(signal.SIGRTMIN, Action(0x1000))
        process.limits[Limit.SIGPENDING] = 0, 0
    end(child)
    assert child.exited
    assert (parent.pending.mask, grandchild.pending.mask) == (0, 0)


def test_an_orphan_goes_to_the_next_who_takes_such(parent: Any) -> None:
    parent.is_subreaper = True
    child = child_of(parent, 200)
    grandchild, zombie = child_of(child, 300), child_of(child, 301)
    grandchild.death_signal = signal.SIGTERM
    end(zombie)
    end(child)
    assert set(parent.children) == {200, 300, 301}
    assert (grandchild.parent, zombie.parent) == (parent, parent)
    assert grandchild.parent_pid == 100
    assert grandchild.pending.mask == bit(signal.SIGTERM)


def test_an_orphan_nobody_takes(parent: Any) -> None:
    child, grandchild = (one := child_of(parent, 200)), child_of(one, 300)
    zombie = child_of(child, 301)
    end(zombie)
    end(child)
    assert (grandchild.parent, grandchild.parent_pid) == (None, 1)
    assert 301 not in parent.kernel.processes
    end(grandchild)
    assert 300 not in parent.kernel.processes


def test_a_stopped_group_without_a_shell_is_hung_up_and_continued(parent: Any) -> None:
    shell = child_of(parent, 200)
    shell.start_session()
    job = child_of(shell, 300)
    assert calls.setpgid(shell.leader, 300, 300) == 0
    send.stop(job, signal.SIGSTOP)
    end(shell)
    assert job.job.stopped == 0
    assert job.pending.mask & bit(signal.SIGHUP)


# ---------------------------------------------------------------- groups and sessions


def test_groups_and_sessions(kernel: FakeKernel, parent: Any) -> None:
    child, other = child_of(parent, 200), FakeProcess(kernel, 500)
    task = child.leader
    assert (calls.getpgrp(task), calls.getpgid(task, 0), calls.getsid(task, 500)) == (100, 100, 500)
    assert calls.setpgid(task, 0, 0) == 0
    assert calls.getpgid(parent.leader, 200) == 200
    assert calls.setpgid(parent.leader, 200, 100) == 0
    assert 200 not in kernel.groups
    assert calls.setsid(task) == 200
    assert (calls.getsid(task, 0), calls.getpgrp(task), child.session.leader) == (200, 200, child)
    with fails(errno.EPERM):
        calls.setsid(task)
    for caller, pid, group, error in (
        (task, 0, 0, errno.EPERM),  # leader of a session
        (parent.leader, 200, 100, errno.EPERM),  # of another session
        (task, 100, 0, errno.ESRCH),  # no child
        (task, 999, 0, errno.ESRCH),
        (parent.leader, 0, -1, errno.EINVAL),
        (parent.leader, -1, 0, errno.EINVAL),
    ):
        with fails(error):
            calls.setpgid(caller, pid, group)
    for call in (calls.getpgid, calls.getsid):
        with fails(errno.ESRCH):
            call(task, 999)
    assert other.group.orphaned


def test_a_child_that_runs_a_program_stays_where_it_is(parent: Any) -> None:
    child = child_of(parent, 200)
    child.has_executed = True
    with fails(errno.EACCES):
        calls.setpgid(parent.leader, 200, 200)


def test_numbers_are_not_given_twice(kernel: FakeKernel, parent: Any) -> None:
    seen = {kernel.take_number() for _ in range(300)}
    assert len(seen) == 300
    assert not seen & {0, 1, 100}
    kernel.threads_max = 1
    with fails(errno.EAGAIN):
        kernel.take_number()
    assert parent.pid == 100
