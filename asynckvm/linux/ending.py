"""How threads and processes end: what is given back when, who is told, and what is left for the parent to collect.

A thread that ends tells whoever joins it (clear_child_tid, robust futexes); with the last one goes the process, which stays as a
zombie, a pid and a status, until its parent has asked. Source: exit(2), wait(2), kernel/exit.c.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from typing import TYPE_CHECKING, Final

from asynckvm.errors import AsyncKvmError, ClosedError, GuestError
from asynckvm.linux import futex, futex_pi
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals import info as siginfo
from asynckvm.linux.signals import numbers, send
from asynckvm.linux.status import Cause, ExitStatus

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

# An exception's text may hold what a guest handed over, of any length.
_REASON_MAX: Final = 500


async def end(task: Task) -> None:
    """The thread has left ring 3 for good. Never raises for a guest's doing."""
    try:
        await leave_robust(task)
    finally:
        end_task(task)


def end_task(task: Task) -> None:
    """The rest of `end`, at once."""
    process, kernel = task.process, task.process.kernel
    kernel.tasks.pop(task.tid, None)
    leave_memory(task)
    with contextlib.suppress(ClosedError):
        process.past_ns += task.cpu_ns
        process.calls += task.direct_calls
    process.tasks.pop(task.tid, None)
    task.pending.discard(numbers.MASK_ALL)
    task.context.close()
    if not process.tasks:
        _end_process(process)
    else:
        send.retarget(task, numbers.MASK_ALL)
        process.exit_queue.wake()  # execve() waits for the other threads


def leave_memory(task: Task) -> None:
    """The thread has ended, or goes on in another address space: whoever shares this one is told what it had of it.

    As in Linux, a bad pointer is nobody's concern any more, and nothing is written for nobody. Source: mm_release().
    """
    process = task.process
    futex_pi.release(task)  # who began to wait since
    if task.clear_child_tid and (task.memory.users > 1 or len(process.tasks) > 1):
        with contextlib.suppress(AsyncKvmError, SyscallError):
            task.space.write(task.clear_child_tid, bytes(4))
            process.kernel.futexes.wake(futex.key_of(task, task.clear_child_tid, private=False), 1)
    task.clear_child_tid = 0


async def leave_robust(task: Task) -> None:
    """What comes before `leave_memory`, and may take a while. Locks with waiters are inherited before they are marked."""
    futex_pi.release(task)
    if task.robust_list:
        with contextlib.suppress(AsyncKvmError, SyscallError):
            await futex.release_robust(task)
        task.robust_list = 0


def fail_process(task: Task, error: Exception) -> None:
    """What answers this thread has failed in a way that it should not: its process cannot go on, all others can."""
    task.process.kernel.observer.failed(task, error)
    reason = f"internal error: {type(error).__name__}: {error}"[:_REASON_MAX]
    task.process.end(ExitStatus(signal=signal.SIGKILL, reason=reason, cause=Cause.INTERNAL))


def _end_process(process: Process) -> None:
    kernel = process.kernel
    if process.ended is None:
        process.ended = ExitStatus(code=0)
    process.timers.close()
    process.pending.discard(numbers.MASK_ALL)
    with contextlib.suppress(ClosedError, GuestError):
        process.resident_max = max(process.resident_max, process.space.resident)
    process.aio.clear()
    process.files.drop()
    release_memory(process)
    process.exited = True
    kernel.semaphores.ended(process)
    kernel.segments.sweep()
    _orphan_children(process)
    _leave_session(process)
    process.exit_queue.wake()
    kernel.observer.ended(process, process.ended)
    _tell_parent(process)


def release_memory(process: Process) -> None:
    """The process has no more business with its address space: it is gone, or has another one."""
    process.memory.drop()
    if process.borrows_memory:
        process.borrows_memory = False
        process.detached.wake()


def _orphan_children(process: Process) -> None:
    reaper = process.parent
    while reaper is not None and (reaper.exited or not reaper.is_subreaper):
        reaper = reaper.parent
    for child in list(process.children.values()):
        del process.children[child.pid]
        child.parent = reaper
        child.has_lost_parent = True
        if child.death_signal and not child.exited:
            _send(child, siginfo.from_kernel(child.death_signal))
        if reaper is not None:
            reaper.children[child.pid] = child
            reaper.child_queue.wake()
        elif child.exited:
            _forget(child)
        elif child.group.orphaned:
            _continue_orphans(child)


def _continue_orphans(child: Process) -> None:
    """A stopped group that nobody could continue any more is told so. Source: setpgid(2), POSIX."""
    group = child.group
    if any(member.job.stopped for member in group.processes.values()):
        for number in (signal.SIGHUP, signal.SIGCONT):
            for member in list(group.processes.values()):
                if not member.exited:
                    send.send_to_process(member, siginfo.from_kernel(number))


def _leave_session(process: Process) -> None:
    session = process.session
    if session.leader is process:
        session.leader = None
        if session.terminal is not None:
            session.terminal.hang_up(session)


def _tell_parent(process: Process) -> None:
    parent = process.parent
    if parent is None or parent.exited:
        _forget(process)
        return
    ended = process.ended or ExitStatus(code=0)
    code, status = (numbers.CLD_EXITED, ended.code or 0) if ended.signal is None else (numbers.CLD_KILLED, ended.signal)
    action = parent.actions[signal.SIGCHLD]
    forgotten = process.exit_signal == signal.SIGCHLD and (
        action.handler == numbers.SIG_IGN or action.flags & numbers.SA_NOCLDWAIT
    )
    if 0 < process.exit_signal <= numbers.SIGNALS and not (forgotten and action.handler == numbers.SIG_IGN):
        user, ticks = process.credentials.ruid, (process.cpu_ns // 10_000_000, 0)
        report = siginfo.from_child(code, process.pid, user, status, ticks)
        _send(parent, dataclasses.replace(report, number=process.exit_signal))
    if forgotten:
        collect(process)
    parent.child_queue.wake()


def _send(process: Process, info: siginfo.SigInfo) -> None:
    """A program chose the number, and may have left no room for another real-time signal: then it is lost, as in Linux."""
    with contextlib.suppress(SyscallError):
        send.send_to_process(process, info)


def collect(process: Process) -> None:
    """The parent has asked for the status of the zombie (or said that it never will)."""
    parent = process.parent
    if parent is not None:
        parent.children_ns += process.cpu_ns + process.children_ns
        parent.resident_max_children = max(parent.resident_max_children, process.resident_max, process.resident_max_children)
    _forget(process)


def _forget(process: Process) -> None:
    if process.parent is not None:
        process.parent.children.pop(process.pid, None)
    process.kernel.processes.pop(process.pid, None)
    process.leave_group()
