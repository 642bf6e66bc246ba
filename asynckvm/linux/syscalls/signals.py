"""System calls on signals: what they mean is `asynckvm.linux.signals`.

Registers and structures, which processes and threads a number names, what Linux checks first. Source: section 2 of the manual;
kernel/signal.c.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import ERESTARTNOHAND, ERESTARTSYS, SyscallError
from asynckvm.linux.signals import action as actions
from asynckvm.linux.signals import altstack, deliver, send
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals.numbers import MASK_BYTES, SI_TKILL, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGNALS, UNBLOCKABLE
from asynckvm.linux.usercopy import read_timespec, read_uint64, write_uint64
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task

_INIT: Final = 1


# ---------------------------------------------------------------- actions, masks, stacks


def rt_sigaction(task: Task, number: int, new: int, old: int, size: int) -> int:
    if size != MASK_BYTES or not infos.is_valid(number):
        raise SyscallError(errno.EINVAL)
    process = task.process
    previous = process.actions[number]
    if new:
        process.actions.set(number, actions.unpack(task.space.read(new, actions.BYTES)))
        send.discard_ignored(process, number)
    if old:
        task.space.write(old, previous.pack())
    return 0


def rt_sigprocmask(task: Task, how: int, new: int, old: int, size: int) -> int:
    if size != MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    previous = task.mask
    if new:
        mask = read_uint64(task.space, new)
        if how == SIG_BLOCK:
            mask |= previous
        elif how == SIG_UNBLOCK:
            mask = previous & ~mask
        elif how != SIG_SETMASK:
            raise SyscallError(errno.EINVAL)
        send.set_mask(task, mask)
    if old:
        write_uint64(task.space, old, previous)
    return 0


def rt_sigpending(task: Task, buffer: int, size: int) -> int:
    if size > MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    pending = deliver.pending_for(task, task.mask)
    task.space.write(buffer, pending.to_bytes(MASK_BYTES, "little")[:size])
    return 0


def sigaltstack(task: Task, new: int, old: int) -> int:
    stack_pointer = task.context.words[RegisterIndex.rsp]
    previous = task.altstack
    if new:
        task.altstack = previous.replaced(altstack.unpack(task.space.read(new, altstack.BYTES)), stack_pointer)
    if old:
        task.space.write(old, previous.shown(stack_pointer).pack())
    return 0


# ---------------------------------------------------------------- waiting


async def pause(task: Task) -> int:
    return await _suspend(task)


async def rt_sigsuspend(task: Task, mask: int, size: int) -> int:
    """With another mask until a handler has run, which returns to the old one."""
    if size != MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    wanted = read_uint64(task.space, mask)
    task.saved_mask = task.mask
    send.set_mask(task, wanted)
    return await _suspend(task)


async def _suspend(task: Task) -> int:
    try:
        while True:
            await task.wait()
    except SyscallError as error:
        raise SyscallError(ERESTARTNOHAND if error.number == ERESTARTSYS else error.number) from None


async def rt_sigtimedwait(task: Task, mask: int, buffer: int, limit: int, size: int) -> int:
    if size != MASK_BYTES:
        raise SyscallError(errno.EINVAL)
    wanted = read_uint64(task.space, mask) & ~UNBLOCKABLE
    until = time.monotonic_ns() + read_timespec(task.space, limit) if limit else None
    info = deliver.take(task, wanted)
    while info is None:
        try:
            in_time = await task.wait(task.process.signal_queue, until=until)
        except SyscallError as error:
            # It may be one of those waited for, which is not blocked; else a handler runs, and this call is not restarted.
            info = deliver.take(task, wanted)
            if info is None:
                raise error.instead_of_restart(errno.EINTR) from None
            break
        info = deliver.take(task, wanted)
        if info is None and not in_time:
            raise SyscallError(errno.EAGAIN)
    if buffer:
        task.space.write(buffer, info.pack())
    return info.number


# ---------------------------------------------------------------- returning


def rt_sigreturn(task: Task) -> int:
    return deliver.sigreturn(task)


def restart_syscall(task: Task) -> int | Awaitable[int]:
    """Go on with a call that could not simply run again, because time has passed meanwhile."""
    restart, task.restart = task.restart, None
    if restart is None:
        raise SyscallError(errno.EINTR)
    return restart()


# ---------------------------------------------------------------- sending


def kill(task: Task, pid: int, number: int) -> int:
    process, kernel = task.process, task.process.kernel
    info = infos.from_user(number, process.pid, process.credentials.ruid)
    if pid > 0:
        _send_to_process(process, _process(task, pid), info)
    elif pid == -1:
        others = [other for other in kernel.processes.values() if other is not process and other.pid > _INIT]
        _send_to_all(process, others, info, ignored=errno.EPERM)
    else:
        group = kernel.groups.get(-pid) if pid else process.group
        _send_to_all(process, list(group.processes.values()) if group is not None else [], info)
    return 0


def tkill(task: Task, tid: int, number: int) -> int:
    return _send_to_thread(task, 0, tid, number)


def tgkill(task: Task, pid: int, tid: int, number: int) -> int:
    if pid <= 0:
        raise SyscallError(errno.EINVAL)
    return _send_to_thread(task, pid, tid, number)


def rt_sigqueueinfo(task: Task, pid: int, number: int, buffer: int) -> int:
    info = _read_info(task, number, buffer)
    _check_code(info, own=pid == task.process.pid)
    _send_to_process(task.process, _process(task, pid), info)
    return 0


def rt_tgsigqueueinfo(task: Task, pid: int, tid: int, number: int, buffer: int) -> int:
    info = _read_info(task, number, buffer)
    if pid <= 0 or tid <= 0:
        raise SyscallError(errno.EINVAL)
    _check_code(info, own=tid == task.tid)
    _send_to_task(task.process, _thread(task, pid, tid), info)
    return 0


def _send_to_thread(task: Task, pid: int, tid: int, number: int) -> int:
    if tid <= 0:
        raise SyscallError(errno.EINVAL)
    process = task.process
    _send_to_task(process, _thread(task, pid, tid), infos.from_thread(number, process.pid, process.credentials.ruid))
    return 0


def _process(task: Task, pid: int) -> Process:
    """The process of that number, or with a thread of it."""
    kernel = task.process.kernel
    process = kernel.processes.get(pid)
    if process is not None:
        return process
    thread = kernel.tasks.get(pid)
    if thread is None:
        raise SyscallError(errno.ESRCH)
    return thread.process


def _thread(task: Task, pid: int, tid: int) -> Task:
    """The thread of that number; with a `pid`, of that process."""
    thread = task.process.kernel.tasks.get(tid)
    if thread is None or pid not in (0, thread.process.pid):
        raise SyscallError(errno.ESRCH)
    return thread


def _send_to_process(sender: Process, target: Process, info: SigInfo) -> None:
    if _check(sender, target, info):
        send.send_to_process(target, info)


def _send_to_task(sender: Process, target: Task, info: SigInfo) -> None:
    if _check(sender, target.process, info):
        send.send_to_task(target, info)


def _check(sender: Process, target: Process, info: SigInfo) -> bool:
    """EINVAL, EPERM. False for number 0, which asks for nothing but this."""
    if not 0 <= info.number <= SIGNALS:
        raise SyscallError(errno.EINVAL)
    if not send.may_signal(sender, target, info.number):
        raise SyscallError(errno.EPERM)
    return info.number != 0


def _send_to_all(sender: Process, targets: Iterable[Process], info: SigInfo, *, ignored: int = 0) -> None:
    """It succeeded if one got it; an `ignored` failure counts as one that got it."""
    reached, failure = False, errno.ESRCH
    for target in targets:
        try:
            _send_to_process(sender, target, info)
            reached = True
        except SyscallError as error:
            failure = error.number
            reached = reached or failure == ignored
    if not reached:
        raise SyscallError(failure)


def _read_info(task: Task, number: int, buffer: int) -> SigInfo:
    info = infos.unpack(number, task.space.read(buffer, infos.BYTES))
    if info is None:
        raise SyscallError(errno.E2BIG)
    return info


def _check_code(info: SigInfo, *, own: bool) -> None:
    """Nobody but the process itself may be told that the kernel, kill(2) or tgkill(2) sent it."""
    if not own and (info.code >= 0 or info.code == SI_TKILL):
        raise SyscallError(errno.EPERM)
