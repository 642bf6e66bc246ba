"""System calls on memory: registers to and from `asynckvm.linux.memory`, which knows the rules."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError, SlotsExhaustedError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import PARTS_AT_ONCE, page_up
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.locked import bring_in
from asynckvm.linux.memory import (
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_TYPE,
    PROT_WRITE,
    Shared,
    check_map_flags,
    mapping_length,
)
from asynckvm.model.memory import PAGE, USER_MAX, USER_MIN

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asynckvm.linux.task import Task

_MCL_CURRENT, _MCL_ONFAULT, _MCL_ALL = 1, 4, 7
_MLOCK_ONFAULT: Final = 1
_PAGES_AT_ONCE: Final = 1 << 18


def brk(task: Task, address: int) -> int:
    memory, limits = task.memory, task.process.limits
    data = limits.soft(Limit.DATA)
    space = limits.soft(Limit.AS)
    if space != INFINITY and address > memory.heap_end and memory.mapped_bytes + address - memory.heap_end > space:
        return memory.heap_end
    return memory.brk(address, data if data != INFINITY else USER_MAX)


def mmap(task: Task, address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    memory = task.memory
    if offset % PAGE:
        raise SyscallError(errno.EINVAL)
    file = None if flags & MAP_ANONYMOUS else task.process.files.get_open(fd)
    mapped = mapping_length(length)
    check_map_flags(flags)
    _check_limit(task, mapped)
    shared = flags & MAP_TYPE != MAP_PRIVATE
    if file is not None and (not file.readable or (shared and protection & PROT_WRITE and not file.writable)):
        raise SyscallError(errno.EACCES)
    if file is None or file.maps_zeros:
        if not shared:
            return memory.map(address, length, protection, flags | MAP_ANONYMOUS)
        writable = file is None or file.writable
        with contextlib.closing(task.process.kernel.shared_memory.create(mapped, writable=writable)) as host_file:
            return memory.map(address, length, protection, flags, Shared(host_file, 0, shared=True, name=b"/dev/zero (deleted)"))
    if offset + mapped > 1 << 63:
        raise SyscallError(errno.EOVERFLOW)
    try:
        host_file = file.map_file(task.process.machine, writable=shared and file.writable, length=offset + mapped)
    except SlotsExhaustedError:
        raise SyscallError(errno.ENOMEM) from None
    name = file.describe() if file.location is not None else b""
    return memory.map(address, length, protection, flags, Shared(host_file, offset, shared=shared, name=name))


def _check_limit(task: Task, length: int) -> None:
    limit = task.process.limits.soft(Limit.AS)
    if limit != INFINITY and task.memory.mapped_bytes + length > limit:
        raise SyscallError(errno.ENOMEM)


def munmap(task: Task, address: int, length: int) -> int:
    return task.memory.unmap(address, length)


def mprotect(task: Task, address: int, length: int, protection: int) -> int:
    return task.memory.protect(address, length, protection)


def madvise(task: Task, address: int, length: int, advice: int) -> int | Awaitable[int]:
    if advice == MADV_FREE:
        return task.memory.advise_free(address, length, task.turn)
    return task.memory.advise(address, length, advice)


def mremap(task: Task, address: int, old: int, new: int, flags: int, target: int) -> int:
    if new > old:
        _check_limit(task, new - old)
    return task.memory.remap(address, old, new, flags, target)


def msync(task: Task, address: int, length: int, flags: int) -> int:
    return task.memory.sync(address, length, flags)


async def mincore(task: Task, address: int, length: int, vector: int) -> int:
    if address % PAGE:
        raise SyscallError(errno.EINVAL)
    if not length:
        return 0
    pages = -(-length // PAGE)
    task.memory.check_mapped(address, pages * PAGE)
    for done in range(0, pages, _PAGES_AT_ONCE):
        if done:
            await task.turn()
        count = min(_PAGES_AT_ONCE, pages - done)
        task.space.write(vector + done, task.space.present(address + done * PAGE, count * PAGE))
    return 0


# ---------------------------------------------------------------- locking


async def mlock(task: Task, address: int, length: int) -> int:
    return await mlock2(task, address, length, 0)


async def mlock2(task: Task, address: int, length: int, flags: int) -> int:
    if flags & ~_MLOCK_ONFAULT:
        raise SyscallError(errno.EINVAL)
    memory = task.memory
    start, end = address - address % PAGE, page_up(address + length)
    _check_lock_limit(task, memory.locked.total + end - start)
    if length:
        memory.check_mapped(start, end - start)
        memory.locked.add(start, end)
        if not flags & _MLOCK_ONFAULT:
            await _bring_in(task, start, end)
    return 0


async def _bring_in(task: Task, start: int, end: int) -> None:
    """As far as there is something to bring in: a part that another thread unmaps meanwhile is not missed."""
    with contextlib.suppress(GuestMemoryError):
        await bring_in(task.memory, start, end, task.turn)


def munlock(task: Task, address: int, length: int) -> int:
    if length:
        start, end = address - address % PAGE, page_up(address + length)
        task.memory.check_mapped(start, end - start)
        task.memory.locked.remove(start, end)
    return 0


async def mlockall(task: Task, flags: int) -> int:
    """What is there and what will be: it is told back, and comes in when it is touched."""
    if not flags or flags & ~_MCL_ALL or flags == _MCL_ONFAULT:
        raise SyscallError(errno.EINVAL)
    memory = task.memory
    _check_lock_limit(task, memory.mapped_bytes if flags & _MCL_CURRENT else 0)
    if flags & _MCL_CURRENT:
        ranges: list[tuple[int, int]] = []
        for count, (_, start, end) in enumerate(memory.parts(USER_MIN, USER_MAX), 1):
            if ranges and ranges[-1][1] == start:
                start, _ = ranges.pop()  # noqa: PLW2901
            ranges.append((start, end))
            if not count % PARTS_AT_ONCE:
                await task.turn()
        memory.locked.replace(ranges)
    return 0


def munlockall(task: Task) -> int:
    task.memory.locked.remove(0, USER_MAX)
    return 0


def _check_lock_limit(task: Task, length: int) -> None:
    limit = task.process.limits.soft(Limit.MEMLOCK)
    if not task.process.credentials.is_root and length > limit:
        raise SyscallError(errno.ENOMEM if limit else errno.EPERM)
