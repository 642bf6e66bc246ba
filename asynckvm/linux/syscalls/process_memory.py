"""System calls that copy between the caller's memory and another process's, which it could as well trace.

Nothing of the other process waits, and nothing of it is held: its memory is looked up anew for each piece.
Source: process_vm_readv(2), ptrace(2) on PTRACE_MODE_ATTACH_REALCREDS.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.tracing import may_trace
from asynckvm.linux.usercopy import read_iovecs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task
    from asynckvm.platform import AddressSpace


async def process_vm_readv(task: Task, pid: int, local: int, locals_: int, remote: int, remotes: int, flags: int) -> int:
    return await _copy(task, pid, (local, locals_), (remote, remotes), flags, storing=False)


async def process_vm_writev(task: Task, pid: int, local: int, locals_: int, remote: int, remotes: int, flags: int) -> int:
    return await _copy(task, pid, (local, locals_), (remote, remotes), flags, storing=True)


async def _copy(task: Task, pid: int, local: tuple[int, int], remote: tuple[int, int], flags: int, *, storing: bool) -> int:
    """How many bytes, up to the first that cannot be reached. EFAULT when that is the very first."""
    if flags:
        raise SyscallError(errno.EINVAL)
    ours, theirs = read_iovecs(task.space, *local), read_iovecs(task.space, *remote)
    if not ours or not theirs:
        return 0
    _other(task, pid)
    done = 0
    for near, far, length in _pieces(ours, theirs):
        if done:
            await task.turn()
        try:
            other = _other(task, pid)
            source, target = (task.space, other.space) if storing else (other.space, task.space)
            at, to = (near, far) if storing else (far, near)
            moved = _move(source, at, target, to, length)
        except (GuestMemoryError, SyscallError):
            if not done:
                raise
            break
        done += moved
        if moved < length:
            break
    return done


def _other(task: Task, pid: int) -> Process:
    found = task.process.kernel.tasks.get(pid)
    if found is None:
        raise SyscallError(errno.ESRCH)
    if not may_trace(task.process, found.process):
        raise SyscallError(errno.EPERM)
    return found.process


def _pieces(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(near address, far address, length) of what lies side by side in both lists, at most CHUNK at once."""
    near, far = iter(ours), iter(theirs)
    here, here_left = next(near, (0, 0))
    there, there_left = next(far, (0, 0))
    while here_left and there_left:
        length = min(here_left, there_left, CHUNK)
        yield here, there, length
        here, here_left = (here + length, here_left - length) if here_left > length else next(near, (0, 0))
        there, there_left = (there + length, there_left - length) if there_left > length else next(far, (0, 0))


def _move(source: AddressSpace, at: int, target: AddressSpace, to: int, length: int) -> int:
    """How much of it was copied. GuestMemoryError for nothing."""
    try:
        data = source.read(at, length)
    except GuestMemoryError as error:
        if not error.done:
            raise
        data = source.read(at, error.done)
    try:
        target.write(to, data)
    except GuestMemoryError as error:
        if not error.done:
            raise
        return error.done
    return len(data)
