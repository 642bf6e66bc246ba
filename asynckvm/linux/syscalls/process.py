"""System calls on the process itself: its end, identity, limits, name, segment bases, and on the machine it runs on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux import clock, identity
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.process import LIMITS
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.syscalls import structs
from asynckvm.linux.usercopy import NANOSECONDS, TRANSFER_MAX, read_uint64, write_uint64
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_ARCH_SET_GS, _ARCH_SET_FS, _ARCH_GET_FS, _ARCH_GET_GS = 0x1001, 0x1002, 0x1003, 0x1004
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_GRND_FLAGS: Final = 7
_ROBUST_LIST_BYTES: Final = 24
_NAME_BYTES: Final = 16


def exit_(task: Task, code: int) -> int:
    """Of the only thread: the end of the process."""
    if task.clear_child_tid:
        # As the kernel does: a bad pointer is nobody's concern any more.
        with contextlib.suppress(GuestMemoryError):
            task.space.write(task.clear_child_tid, bytes(4))
    return exit_group(task, code)


def exit_group(task: Task, code: int) -> int:
    task.process.end(ExitStatus(code=code & 0xFF))
    return 0


def absent(task: Task, *_: object) -> int:  # noqa: ARG001
    """What every program asks for and can do without: no word about it in the log, and no way to here."""
    return -errno.ENOSYS


# ---------------------------------------------------------------- identity


def getpid(task: Task) -> int:
    return task.process.identity.pid


def gettid(task: Task) -> int:
    return task.tid


def getppid(task: Task) -> int:
    return task.process.identity.parent


def getuid(task: Task) -> int:
    return task.process.identity.user


def geteuid(task: Task) -> int:
    return task.process.identity.effective_user


def getgid(task: Task) -> int:
    return task.process.identity.group


def getegid(task: Task) -> int:
    return task.process.identity.effective_group


def getpgrp(task: Task) -> int:
    return task.process.identity.pid


def getgroups(task: Task, size: int, buffer: int) -> int:
    groups = task.process.identity.groups
    if size:
        if size < len(groups):
            raise SyscallError(errno.EINVAL)
        task.space.write(buffer, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


def uname(task: Task, buffer: int) -> int:
    task.space.write(buffer, identity.utsname())
    return 0


def sysinfo(task: Task, buffer: int) -> int:
    status = task.process.machine.counters().memory
    free = status.frames_total - status.frames_used
    uptime = clock.now(clock.CLOCK_MONOTONIC, 0) // NANOSECONDS
    task.space.write(buffer, structs.sysinfo(uptime, status.frames_total * 4096, free * 4096))
    return 0


def sched_getaffinity(task: Task, pid: int, size: int, buffer: int) -> int:
    """One thread runs on one processor at a time."""
    _check_own(task, pid)
    if size < 8 or size % 8:
        raise SyscallError(errno.EINVAL)
    task.space.write(buffer, structs.words((1,)))
    return 8


# ---------------------------------------------------------------- limits and settings


def getrlimit(task: Task, resource: int, buffer: int) -> int:
    return prlimit64(task, 0, resource, 0, buffer)


def setrlimit(task: Task, resource: int, buffer: int) -> int:
    return prlimit64(task, 0, resource, buffer, 0)


def prlimit64(task: Task, pid: int, resource: int, new: int, old: int) -> int:
    """Limits are kept and told back; what a process may really use is bounded elsewhere, whatever it asks for here."""
    _check_own(task, pid)
    limits = task.process.limits
    if not 0 <= resource < LIMITS:
        raise SyscallError(errno.EINVAL)
    current = limits[resource]
    if new:
        soft, hard = read_uint64(task.space, new), read_uint64(task.space, new + 8)
        if soft > hard:
            raise SyscallError(errno.EINVAL)
        if hard > current[1]:
            raise SyscallError(errno.EPERM)
        limits[resource] = (soft, hard)
    if old:
        task.space.write(old, structs.words(current))
    return 0


def umask(task: Task, mask: int) -> int:
    previous, task.process.umask = task.process.umask, mask & 0o777
    return previous


def prctl(task: Task, option: int, argument: int) -> int:
    process = task.process
    if option == _PR_GET_NAME:
        task.space.write(argument, process.name.ljust(_NAME_BYTES, b"\0"))
        return 0
    if option == _PR_SET_NAME:
        name = bytearray()
        while len(name) < _NAME_BYTES - 1 and (byte := task.space.read(argument + len(name), 1)) != b"\0":
            name += byte
        process.name = bytes(name)
        return 0
    raise SyscallError(errno.EINVAL)


def arch_prctl(task: Task, code: int, address: int) -> int:
    words = task.context.words
    if code in (_ARCH_GET_FS, _ARCH_GET_GS):
        write_uint64(task.space, address, words[RegisterIndex.fs_base if code == _ARCH_GET_FS else RegisterIndex.gs_base])
        return 0
    if code not in (_ARCH_SET_FS, _ARCH_SET_GS):
        raise SyscallError(errno.EINVAL)
    if address >= USER_MAX:
        raise SyscallError(errno.EPERM)
    words[RegisterIndex.fs_base if code == _ARCH_SET_FS else RegisterIndex.gs_base] = address
    return 0


def set_tid_address(task: Task, address: int) -> int:
    task.clear_child_tid = address
    return task.tid


def set_robust_list(task: Task, head: int, length: int) -> int:
    if length != _ROBUST_LIST_BYTES:
        raise SyscallError(errno.EINVAL)
    task.robust_list = (head, length)
    return 0


def get_robust_list(task: Task, pid: int, head: int, length: int) -> int:
    _check_own(task, pid)
    write_uint64(task.space, head, task.robust_list[0])
    write_uint64(task.space, length, task.robust_list[1])
    return 0


async def getrandom(task: Task, buffer: int, length: int, flags: int) -> int:
    if flags & ~_GRND_FLAGS:
        raise SyscallError(errno.EINVAL)
    length, done = min(length, TRANSFER_MAX), 0
    while done < length:
        try:
            task.space.write(buffer + done, os.urandom(min(CHUNK, length - done)))
        except GuestMemoryError:
            if not done:
                raise
            break
        done += min(CHUNK, length - done)
        if done < length:
            await asyncio.sleep(0)
    return done


def _check_own(task: Task, pid: int) -> None:
    if pid not in (0, task.process.identity.pid):
        raise SyscallError(errno.ESRCH)
