"""kcmp(2): whether two threads share something, as an order of what they have."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.tracing import may_trace

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_FILE, _VM, _FILES, _FS, _SIGHAND, _EPOLL_TFD = 0, 1, 2, 3, 4, 7


def kcmp(task: Task, first: int, second: int, kind: int, one: int, other: int) -> int:
    """0 for the same, 1 and 2 for less and more, which say nothing else."""
    tasks = [task.process.kernel.tasks.get(number) for number in (first, second)]
    left, right = tasks
    if left is None or right is None:
        raise SyscallError(errno.ESRCH)
    if not all(may_trace(task.process, theirs.process) for theirs in (left, right)):
        raise SyscallError(errno.EPERM)
    if kind == _FILE:
        return _order(left.process.files.get(one), right.process.files.get(other))
    if kind == _EPOLL_TFD:
        raise SyscallError(errno.EOPNOTSUPP)
    if not _FILE < kind < _EPOLL_TFD:
        raise SyscallError(errno.EINVAL)
    return _order(_object(left, kind), _object(right, kind))


def _object(task: Task, kind: int) -> object:
    process = task.process
    # Nobody has contexts of I/O or undo lists of semaphores, which makes all equal in that.
    return {_VM: process.memory, _FILES: process.files, _FS: process.fs, _SIGHAND: process.actions}.get(kind)


def _order(left: object, right: object) -> int:
    if left is right:
        return 0
    return 1 if id(left) < id(right) else 2
