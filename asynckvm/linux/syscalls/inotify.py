"""inotify_init1(2), inotify_add_watch(2), inotify_rm_watch(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import IN_ALL_EVENTS, IN_DONT_FOLLOW, IN_MASK_ADD, IN_MASK_CREATE, IN_ONLYDIR, Inotify
from asynckvm.linux.syscalls.paths import AT_FDCWD, caller_of, check_flags, start_of
from asynckvm.linux.vfs import resolve

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK


def inotify_init(task: Task) -> int:
    return inotify_init1(task, 0)


def inotify_init1(task: Task, flags: int) -> int:
    check_flags(flags, _FLAGS)
    file = Inotify(task.process.fs.mounts.watches, flags & os.O_NONBLOCK)
    return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))


def inotify_add_watch(task: Task, fd: int, path: bytes, mask: int) -> int:
    if not mask & IN_ALL_EVENTS or (mask & IN_MASK_ADD and mask & IN_MASK_CREATE):
        raise SyscallError(errno.EINVAL)
    instance = _instance(task, fd)
    caller = caller_of(task)
    location = resolve(caller, start_of(task, AT_FDCWD, path), path, follow=not mask & IN_DONT_FOLLOW)
    if mask & IN_ONLYDIR and not location.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    caller.check(location.node.attributes(), os.R_OK)
    return instance.add(location.node.identity, mask)


def inotify_rm_watch(task: Task, fd: int, number: int) -> int:
    _instance(task, fd).remove(number)
    return 0


def _instance(task: Task, fd: int) -> Inotify:
    file = task.process.files.get(fd)
    if not isinstance(file, Inotify):
        raise SyscallError(errno.EINVAL)
    return file
