"""epoll(7)'s system calls: `asynckvm.linux.files.epoll` has the semantics."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.epoll import Epoll
from asynckvm.linux.syscalls.poll import AT_ONCE, deadline_at, deadline_ms, signal_mask

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

# struct epoll_event is packed on x86-64.
_EVENT: Final = struct.Struct("<IQ")
_EVENTS_MAX: Final = 0x7FFF_FFFF // _EVENT.size
# One call reports at most this many, which it may: the event loop gets its turn.
_REPORTED_MAX: Final = 4096
_ADD, _DEL, _MOD = 1, 2, 3


def epoll_create(task: Task, size: int) -> int:
    if size <= 0:
        raise SyscallError(errno.EINVAL)
    return epoll_create1(task, 0)


def epoll_create1(task: Task, flags: int) -> int:
    if flags & ~os.O_CLOEXEC:
        raise SyscallError(errno.EINVAL)
    return task.process.files.add(Epoll(quota=task.process.kernel.epoll_watches), close_on_exec=bool(flags))


def epoll_ctl(task: Task, epfd: int, operation: int, fd: int, event: int) -> int:
    events = data = 0
    if operation != _DEL:
        events, data = _EVENT.unpack(task.space.read(event, _EVENT.size))
    epoll, file = task.process.files.get_open(epfd), task.process.files.get_open(fd)
    if not isinstance(epoll, Epoll):
        raise SyscallError(errno.EPERM if not file.pollable else errno.EINVAL)
    if operation == _ADD:
        epoll.add(task, fd, file, events, data)
    elif operation == _MOD:
        epoll.modify(task, fd, file, events, data)
    elif operation == _DEL:
        epoll.delete(fd, file)
    else:
        raise SyscallError(errno.EINVAL)
    return 0


async def epoll_wait(task: Task, epfd: int, address: int, count: int, milliseconds: int) -> int:
    return await _wait(task, epfd, address, count, deadline_ms(milliseconds))


async def epoll_pwait(task: Task, epfd: int, address: int, count: int, milliseconds: int, mask: int, size: int) -> int:
    with signal_mask(task, mask, size):
        return await _wait(task, epfd, address, count, deadline_ms(milliseconds))


async def epoll_pwait2(task: Task, epfd: int, address: int, count: int, timespec: int, mask: int, size: int) -> int:
    until = deadline_at(task, timespec)
    with signal_mask(task, mask, size):
        return await _wait(task, epfd, address, count, until)


async def _wait(task: Task, epfd: int, address: int, count: int, until: int | None) -> int:
    if not 0 < count <= _EVENTS_MAX:
        raise SyscallError(errno.EINVAL)
    epoll = task.process.files.get(epfd)
    if not isinstance(epoll, Epoll):
        raise SyscallError(errno.EINVAL)
    try:
        with epoll.held():
            waiting = until != AT_ONCE
            while not (found := epoll.events(task, min(count, _REPORTED_MAX))) and waiting:
                waiting = await task.wait(epoll.queue, until=until)
    except SyscallError as error:
        # Never made again: how much of the time is left would be lost.
        raise error.instead_of_restart(errno.EINTR) from None
    if found:
        task.space.write(address, b"".join([_EVENT.pack(events, item.data) for item, events in found]))
        epoll.report(found)
    return len(found)
