"""Sending: to a process, to one of its threads, to a thread that faulted; who may, and who is woken.

A signal is put where it is pending and a thread that can take it is noticed; what the signal does, that thread finds out itself,
in `deliver`. SIGKILL and the two halves of job control take effect at once, whatever is blocked. Source: kill(2), signal(7),
kernel/signal.c (prepare_signal, complete_signal, force_sig_info_to_task, do_notify_parent_cldstop).
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals.numbers import (
    CLD_CONTINUED,
    CLD_STOPPED,
    SA_NOCLDSTOP,
    SIG_IGN,
    STOPPING,
    UNBLOCKABLE,
    bit,
    lowest,
)
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task

_POLLIN: Final = 1
_RLIMIT_SIGPENDING: Final = 11


def send_to_process(process: Process, info: SigInfo) -> bool:
    """As kill(2): any of its threads may take it. False when it changed nothing: ignored, or pending already.

    SyscallError EAGAIN when a queued real-time signal is one too many.
    """
    return _send(process, info, None)


def send_to_task(task: Task, info: SigInfo) -> bool:
    """As tgkill(2): this thread takes it, or nobody."""
    return _send(task.process, info, task)


def force(task: Task, info: SigInfo) -> None:
    """What a thread did to itself: ignoring or blocking does not help, it only means that no handler runs."""
    process, number = task.process, info.number
    blocked = task.mask & bit(number)
    if blocked or process.actions[number].handler == SIG_IGN:
        process.actions.reset(number)
    task.mask &= ~bit(number)
    if number == signal.SIGKILL:
        die(task, info)
    else:
        _put(process, info, task)


def die(task: Task, info: SigInfo) -> None:
    """End the whole process as this signal does."""
    rip = task.context.words[RegisterIndex.rip]
    # The one exception that is a SIGKILL: no memory is left for it.
    cause = Cause.MEMORY if info.number == signal.SIGKILL and info.fault is not None else Cause.NONE
    task.process.end(ExitStatus(signal=info.number, fault=info.fault, rip=rip, reason=info.reason, cause=cause))


def _send(process: Process, info: SigInfo, task: Task | None) -> bool:
    if process.ended is not None:
        return False
    number = info.number
    if bit(number) & STOPPING:
        _discard(process, bit(signal.SIGCONT))
    elif number == signal.SIGCONT:
        _discard(process, STOPPING)
        if process.job.resume():
            _tell_parent(process, CLD_CONTINUED, signal.SIGCONT)
    elif number == signal.SIGKILL:
        process.end(ExitStatus(signal=number, reason=info.reason))
        return True
    first = task or next(iter(process.tasks.values()), None)
    if first is None or (process.actions.is_ignored(number) and not first.mask & bit(number)):
        return False
    return _put(process, info, task)


def _put(process: Process, info: SigInfo, task: Task | None) -> bool:
    queue = process.pending if task is None else task.pending
    if not queue.put(info, _limit(process)):
        return False
    process.signal_queue.wake(_POLLIN)
    _notice(process.tasks.values() if task is None else (task,), bit(info.number))
    return True


def _limit(process: Process) -> int:
    return process.limits[_RLIMIT_SIGPENDING][0]


def _notice(tasks: Iterable[Task], mask: int) -> None:
    """Tell the first thread that can take one of these; the kernel, too, prefers the first one, the leader."""
    for task in tasks:
        if mask & ~task.mask and not task.dying:
            task.notice()
            return


def set_mask(task: Task, mask: int) -> None:
    """Block exactly these. Signals of the process that this thread will not take any more are left to another one."""
    before, task.mask = task.mask, mask & ~UNBLOCKABLE
    if task.process.pending.mask & task.mask & ~before:
        retarget(task, task.mask & ~before)


def retarget(task: Task, mask: int) -> None:
    """`task` will not take pending signals of `mask`: it blocks them, or it ends."""
    others = [other for other in task.process.tasks.values() if other is not task]
    left = task.process.pending.mask & mask
    while left and others:
        number = lowest(left)
        left &= ~bit(number)
        _notice(others, bit(number))


def discard_ignored(process: Process, number: int) -> None:
    """After a change of its action: what is ignored now is no longer pending, blocked or not."""
    if process.actions.is_ignored(number):
        _discard(process, bit(number))


def _discard(process: Process, mask: int) -> None:
    process.pending.discard(mask)
    for task in process.tasks.values():
        task.pending.discard(mask)


# ---------------------------------------------------------------- job control


def stop(process: Process, number: int) -> None:
    """Stop all threads: each leaves what it does and waits, in its own loop, to be continued."""
    process.job.stop(number)
    for task in process.tasks.values():
        task.notice()
    _tell_parent(process, CLD_STOPPED, number)


def _tell_parent(process: Process, code: int, status: int) -> None:
    parent = process.parent
    if parent is None or parent.exited:
        return
    parent.child_queue.wake(_POLLIN)
    if not parent.actions[signal.SIGCHLD].flags & SA_NOCLDSTOP:
        used = process.cpu_ns // 10_000_000
        send_to_process(parent, infos.from_child(code, process.pid, process.credentials.ruid, status, (used, 0)))


# ---------------------------------------------------------------- permission


def may_signal(sender: Process, target: Process, number: int) -> bool:
    """kill(2): the same user, a privileged one, or SIGCONT within a session."""
    if sender is target:
        return True
    ours, theirs = sender.credentials, target.credentials
    if ours.is_root or ours.euid in (theirs.ruid, theirs.suid) or ours.ruid in (theirs.ruid, theirs.suid):
        return True
    return number == signal.SIGCONT and sender.session == target.session
