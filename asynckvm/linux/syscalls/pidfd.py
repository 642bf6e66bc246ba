"""System calls on processes named by descriptors. Source: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.pidfd import ProcessFile
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals import send
from asynckvm.linux.signals.numbers import SI_TKILL
from asynckvm.linux.tracing import may_trace
from asynckvm.linux.vfs.procfs.process import ProcessDirectory

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task


def pidfd_open(task: Task, pid: int, flags: int) -> int:
    if pid <= 0 or flags & ~os.O_NONBLOCK:
        raise SyscallError(errno.EINVAL)
    kernel = task.process.kernel
    process = kernel.processes.get(pid)
    if process is None:
        # The number of a thread that is not the first one says nothing.
        raise SyscallError(errno.EINVAL if pid in kernel.tasks else errno.ESRCH)
    return task.process.files.add(ProcessFile(process, flags), close_on_exec=True)


def pidfd_send_signal(task: Task, fd: int, number: int, address: int, flags: int) -> int:
    process = _process(task, fd, directories=True)
    if flags or (number and not infos.is_valid(number)):
        raise SyscallError(errno.EINVAL)
    info = _info(task, process, number, address)
    if process.exited and process.pid not in task.process.kernel.processes:
        raise SyscallError(errno.ESRCH)
    if not send.may_signal(task.process, process, number):
        raise SyscallError(errno.EPERM)
    if number:
        send.send_to_process(process, info)
    return 0


def pidfd_getfd(task: Task, fd: int, target: int, flags: int) -> int:
    """A file of another process that one could as well trace."""
    process = _process(task, fd)
    if flags:
        raise SyscallError(errno.EINVAL)
    if process.exited:
        raise SyscallError(errno.ESRCH)
    if not may_trace(task.process, process):
        raise SyscallError(errno.EPERM)
    return task.process.files.add(process.files.get(target), close_on_exec=True)


def _process(task: Task, fd: int, *, directories: bool = False) -> Process:
    """The process of a pidfd; with `directories` also of an open /proc/PID, which is the older way to name one."""
    file = task.process.files.get(fd)
    if isinstance(file, ProcessFile):
        return file.process
    if directories and file.location is not None and isinstance(file.location.node, ProcessDirectory):
        return file.location.node.process
    raise SyscallError(errno.EBADF)


def _info(task: Task, process: Process, number: int, address: int) -> SigInfo:
    """What the program gave, unless it pretends to be the kernel or kill(2); without anything, what kill(2) would send."""
    sender = task.process
    if not address:
        return infos.from_user(number, sender.pid, sender.credentials.ruid)
    image = task.space.read(address, infos.BYTES)
    info = infos.unpack(number, image)
    if info is None or int.from_bytes(image[:4], "little", signed=True) != number:
        raise SyscallError(errno.EINVAL)
    if process is not sender and (info.code >= 0 or info.code == SI_TKILL):
        raise SyscallError(errno.EPERM)
    return info
