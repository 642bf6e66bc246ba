"""System calls on scheduling. Every thread runs under SCHED_OTHER with equal shares; what is asked for is checked as Linux checks
it, kept where programs read it back, and changes nothing else. Source: sched(7), sched_setaffinity(2), getpriority(2),
ioprio_set(2).
"""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.limits import Limit
from asynckvm.linux.usercopy import write_timespec

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

_OTHER, _FIFO, _RR, _BATCH, _IDLE, _DEADLINE = 0, 1, 2, 3, 5, 6
_RESET_ON_FORK: Final = 0x4000_0000
_REAL_TIME: Final = frozenset({_FIFO, _RR})
_PRIO_PROCESS, _PRIO_PGRP, _PRIO_USER = 0, 1, 2
_NICE_MIN, _NICE_MAX = -20, 19
# IOPRIO_WHO_* are PRIO_* and one; a class stands above the bits of its level.
_IOPRIO_WHO: Final = {1: _PRIO_PROCESS, 2: _PRIO_PGRP, 3: _PRIO_USER}
_IOPRIO_SHIFT, _IOPRIO_LEVELS = 13, 8
_IO_NONE, _IO_REAL_TIME, _IO_BEST_EFFORT, _IO_IDLE = 0, 1, 2, 3
_SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")
_QUANTUM_NS: Final = 10_000_000


async def sched_yield(task: Task) -> int:  # noqa: ARG001
    await asyncio.sleep(0)
    return 0


def _task(task: Task, tid: int) -> Task:
    if tid < 0:
        raise SyscallError(errno.EINVAL)
    found = task.process.kernel.tasks.get(tid) if tid else task
    if found is None:
        raise SyscallError(errno.ESRCH)
    return found


def _named_task(task: Task, tid: int) -> Task:
    """For the calls that look before they check: no thread has a negative number."""
    if tid < 0:
        raise SyscallError(errno.ESRCH)
    return _task(task, tid)


# ---------------------------------------------------------------- affinity


def sched_getaffinity(task: Task, pid: int, size: int, buffer: int) -> int:
    if size < 8 or size % 8:
        raise SyscallError(errno.EINVAL)
    mask = _named_task(task, pid).process.affinity
    task.space.write(buffer, mask.to_bytes(8, "little"))
    return 8


def sched_setaffinity(task: Task, pid: int, size: int, buffer: int) -> int:
    target = _named_task(task, pid)
    wanted = int.from_bytes(task.space.read(buffer, min(size, 128)), "little")
    mask = wanted & (1 << task.process.kernel.processors) - 1
    if not mask:
        raise SyscallError(errno.EINVAL)
    target.process.affinity = mask
    return 0


def getcpu(task: Task, processor: int, node: int) -> int:
    for pointer in (processor, node):
        if pointer:
            task.space.write(pointer, bytes(4))
    return 0


# ---------------------------------------------------------------- policies


def sched_getscheduler(task: Task, pid: int) -> int:
    _task(task, pid)
    return _OTHER


def sched_setscheduler(task: Task, pid: int, policy: int, parameter: int) -> int:
    _check_given(parameter)
    if policy < 0:
        raise SyscallError(errno.EINVAL)
    _task(task, pid)
    (priority,) = struct.unpack("<i", task.space.read(parameter, 4))
    return _check(policy & ~_RESET_ON_FORK, priority)


def _check_given(pointer: int) -> None:
    """A null pointer is no bad address to these calls."""
    if not pointer:
        raise SyscallError(errno.EINVAL)


def sched_getparam(task: Task, pid: int, parameter: int) -> int:
    _check_given(parameter)
    _task(task, pid)
    task.space.write(parameter, bytes(4))
    return 0


def sched_setparam(task: Task, pid: int, parameter: int) -> int:
    _check_given(parameter)
    _task(task, pid)
    (priority,) = struct.unpack("<i", task.space.read(parameter, 4))
    return _check(_OTHER, priority)


def _check(policy: int, priority: int) -> int:
    if policy in _REAL_TIME:
        if not 1 <= priority <= 99:
            raise SyscallError(errno.EINVAL)
        raise SyscallError(errno.EPERM)
    if policy == _DEADLINE:
        raise SyscallError(errno.EPERM)
    if policy not in (_OTHER, _BATCH, _IDLE) or priority:
        raise SyscallError(errno.EINVAL)
    return 0


def sched_getattr(task: Task, pid: int, buffer: int, size: int, flags: int) -> int:
    _check_given(buffer)
    target = _task(task, pid)
    if flags or not _SCHED_ATTR.size <= size <= 4096:
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, _SCHED_ATTR.pack(_SCHED_ATTR.size, _OTHER, 0, target.process.nice, 0, 0, 0, 0))
    return 0


def sched_setattr(task: Task, pid: int, buffer: int, flags: int) -> int:
    _check_given(buffer)
    target = _task(task, pid)
    _, policy, _, nice, priority, _, _, _ = _SCHED_ATTR.unpack(task.space.read(buffer, _SCHED_ATTR.size))
    if flags:
        raise SyscallError(errno.EINVAL)
    _check(policy, priority)
    return _renice(task, target.process, nice)


def sched_get_priority_max(task: Task, policy: int) -> int:  # noqa: ARG001
    return _bound(policy, 99)


def sched_get_priority_min(task: Task, policy: int) -> int:  # noqa: ARG001
    return _bound(policy, 1)


def _bound(policy: int, real_time: int) -> int:
    if policy not in (_OTHER, _FIFO, _RR, _BATCH, _IDLE, _DEADLINE):
        raise SyscallError(errno.EINVAL)
    return real_time if policy in _REAL_TIME else 0


def sched_rr_get_interval(task: Task, pid: int, buffer: int) -> int:
    _task(task, pid)
    write_timespec(task.space, buffer, _QUANTUM_NS)
    return 0


# ---------------------------------------------------------------- nice


def getpriority(task: Task, which: int, who: int) -> int:
    """The raw call answers 20 - nice, so that no answer looks like an error."""
    return max(20 - process.nice for process in _named(task, which, who))


def setpriority(task: Task, which: int, who: int, nice: int) -> int:
    for process in _named(task, which, who):
        _renice(task, process, nice)
    return 0


def _renice(task: Task, process: Process, nice: int) -> int:
    nice = max(_NICE_MIN, min(_NICE_MAX, nice))
    ours, theirs = task.process.credentials, process.credentials
    if not ours.is_root:
        if ours.euid not in (theirs.ruid, theirs.euid):
            raise SyscallError(errno.EPERM)
        if nice < process.nice and 20 - nice > process.limits.soft(Limit.NICE):
            raise SyscallError(errno.EACCES)
    process.nice = nice
    return 0


# ---------------------------------------------------------------- priority of input and output


def ioprio_get(task: Task, which: int, who: int) -> int:
    """ioprio_set(2): of several processes the highest, which is the smallest number; one without any is the last."""
    found = [process.io_priority for process in _named(task, _io_which(which), who)]
    return min(found, key=lambda priority: (not priority, priority))


def ioprio_set(task: Task, which: int, who: int, priority: int) -> int:
    kind, level = priority >> _IOPRIO_SHIFT, priority & (1 << _IOPRIO_SHIFT) - 1
    if kind == _IO_REAL_TIME:
        raise SyscallError(errno.EPERM)
    too_much = {_IO_NONE: level > 0, _IO_BEST_EFFORT: level >= _IOPRIO_LEVELS, _IO_IDLE: False}
    if too_much.get(kind, True):
        raise SyscallError(errno.EINVAL)
    ours = task.process.credentials
    for process in _named(task, _io_which(which), who):
        if not ours.is_root and process.credentials.ruid not in (ours.euid, ours.ruid):
            raise SyscallError(errno.EPERM)
        process.io_priority = priority
    return 0


def _io_which(which: int) -> int:
    if which not in _IOPRIO_WHO:
        raise SyscallError(errno.EINVAL)
    return _IOPRIO_WHO[which]


def _named(task: Task, which: int, who: int) -> list[Process]:
    kernel = task.process.kernel
    if which == _PRIO_PROCESS:
        found = [_task(task, who).process] if who >= 0 and (not who or who in kernel.tasks) else []
    elif which == _PRIO_PGRP:
        group = kernel.groups.get(who) if who else task.process.group
        found = list(group.processes.values()) if group is not None else []
    elif which == _PRIO_USER:
        user = who or task.process.credentials.ruid
        found = [process for process in kernel.processes.values() if process.credentials.ruid == user]
    else:
        raise SyscallError(errno.EINVAL)
    if not found:
        raise SyscallError(errno.ESRCH)
    return found
