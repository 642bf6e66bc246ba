"""System calls on limits and on what was used. Source: getrlimit(2), getrusage(2), times(2), sysinfo(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux import clock
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import DESCRIPTORS_MAX
from asynckvm.linux.limits import Limit
from asynckvm.linux.stack import CLOCK_TICKS
from asynckvm.linux.syscalls import structs
from asynckvm.linux.usercopy import NANOSECONDS, read_uint64

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

_RUSAGE_SELF, _RUSAGE_CHILDREN, _RUSAGE_THREAD = 0, -1, 1
_TICK: Final = NANOSECONDS // CLOCK_TICKS


def getrlimit(task: Task, resource: int, buffer: int) -> int:
    return prlimit64(task, 0, resource, 0, buffer)


def setrlimit(task: Task, resource: int, buffer: int) -> int:
    return prlimit64(task, 0, resource, buffer, 0)


def prlimit64(task: Task, pid: int, resource: int, new: int, old: int) -> int:
    target = _target(task, pid)
    if not 0 <= resource < len(Limit):
        raise SyscallError(errno.EINVAL)
    current = target.limits[resource]
    if new:
        wanted = read_uint64(task.space, new), read_uint64(task.space, new + 8)
        _check(task, resource, current, wanted)
        target.limits[resource] = wanted
        if resource == Limit.NOFILE:
            target.files.limit = min(wanted[0], DESCRIPTORS_MAX)
        elif resource == Limit.CPU:
            target.timers.watch_limit()
    if old:
        task.space.write(old, structs.words(current))
    return 0


def _target(task: Task, pid: int) -> Process:
    found = task.process.kernel.tasks.get(pid) if pid else task
    if found is None:
        raise SyscallError(errno.ESRCH)
    ours, theirs = task.process.credentials, found.process.credentials
    users, groups = {theirs.ruid, theirs.euid, theirs.suid}, {theirs.rgid, theirs.egid, theirs.sgid}
    if found.process is not task.process and not ours.is_root and (users, groups) != ({ours.ruid}, {ours.rgid}):
        raise SyscallError(errno.EPERM)
    return found.process


def _check(task: Task, resource: int, current: tuple[int, int], wanted: tuple[int, int]) -> None:
    soft, hard = wanted
    if soft > hard:
        raise SyscallError(errno.EINVAL)
    if hard > current[1] and not task.process.credentials.is_root:
        raise SyscallError(errno.EPERM)
    if resource == Limit.NOFILE and hard > DESCRIPTORS_MAX and hard > current[1]:
        raise SyscallError(errno.EPERM)


# ---------------------------------------------------------------- what was used


def getrusage(task: Task, who: int, buffer: int) -> int:
    process = task.process
    if who == _RUSAGE_SELF:
        used = process.cpu_ns, max(process.resident_max, process.space.resident)
    elif who == _RUSAGE_THREAD:
        used = task.cpu_ns, process.space.resident
    elif who == _RUSAGE_CHILDREN:
        used = process.children_ns, process.resident_max_children
    else:
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, structs.rusage(used[0], used[1] * 4))
    return 0


def times(task: Task, buffer: int) -> int:
    if buffer:
        process = task.process
        task.space.write(buffer, structs.words((process.cpu_ns // _TICK, 0, process.children_ns // _TICK, 0)))
    return clock.now(clock.CLOCK_MONOTONIC, task) // _TICK


def sysinfo(task: Task, buffer: int) -> int:
    kernel = task.process.kernel
    total, free = kernel.memory_shown()
    uptime = clock.now(clock.CLOCK_MONOTONIC, task) // NANOSECONDS
    task.space.write(buffer, structs.sysinfo(uptime, kernel.running, total, free, min(len(kernel.processes), 0xFFFF)))
    return 0
