"""System calls that make pipes, and fcntl(2)'s two requests about their size."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.pipe import PipeEnd, pipe_ends
from asynckvm.linux.syscalls import descriptors

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

F_SETPIPE_SZ: Final = 1031
F_GETPIPE_SZ: Final = 1032


def pipe(task: Task, pair: int) -> int:
    return pipe2(task, pair, 0)


def pipe2(task: Task, pair: int, flags: int) -> int:
    if flags & ~(os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT):
        raise SyscallError(errno.EINVAL)
    process = task.process
    owner = process.credentials
    ends = pipe_ends(
        process.kernel.pipe_pages,
        flags & ~os.O_CLOEXEC,
        user=owner.euid,
        group=owner.egid,
    )
    return descriptors.add_pair(task, pair, ends, close_on_exec=bool(flags & os.O_CLOEXEC))


def fcntl_pipe(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    """F_SETPIPE_SZ and F_GETPIPE_SZ. EBADF for a file that is no pipe."""
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    return file.pipe.resize(argument & 0xFFFF_FFFF) if command == F_SETPIPE_SZ else file.pipe.capacity


descriptors.COMMANDS[F_SETPIPE_SZ] = descriptors.COMMANDS[F_GETPIPE_SZ] = fcntl_pipe
