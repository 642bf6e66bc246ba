"""System calls that make a file of signals: `asynckvm.linux.files.signalfd` has the semantics. Source: signalfd(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.signalfd import SignalFile
from asynckvm.linux.signals.numbers import MASK_BYTES, UNBLOCKABLE
from asynckvm.linux.usercopy import read_uint64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task


def signalfd(task: Task, fd: int, mask: int, size: int) -> int:
    return signalfd4(task, fd, mask, size, 0)


def signalfd4(task: Task, fd: int, mask: int, size: int, flags: int) -> int:
    """A new file with -1, else another mask for an old one."""
    if size != MASK_BYTES or flags & ~(os.O_CLOEXEC | os.O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    wanted = read_uint64(task.space, mask) & ~UNBLOCKABLE
    files = task.process.files
    if fd == -1:
        return files.add(SignalFile(wanted, flags & os.O_NONBLOCK), close_on_exec=bool(flags & os.O_CLOEXEC))
    file = files.get(fd)
    if not isinstance(file, SignalFile):
        raise SyscallError(errno.EINVAL)
    file.mask = wanted
    # Signals that are pending already may be among the new ones.
    task.process.signal_queue.wake()
    return fd
