"""System calls on memory: registers to and from `asynckvm.linux.memory`, which knows the rules."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.memory import MAP_ANONYMOUS, MAP_SHARED, MAP_SHARED_VALIDATE, PROT_WRITE

if TYPE_CHECKING:
    from asynckvm.linux.task import Task


def brk(task: Task, address: int) -> int:
    return task.process.memory.brk(address)


def mmap(task: Task, address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    memory = task.process.memory
    if flags & MAP_ANONYMOUS:
        return memory.map(address, length, protection, flags)
    file = task.process.files.get(fd)
    shared = flags & 3 in (MAP_SHARED, MAP_SHARED_VALIDATE)
    if not file.readable or (shared and protection & PROT_WRITE):
        raise SyscallError(errno.EACCES)
    return memory.map(address, length, protection, flags, file.map_file(task.process.machine, writable=False, length=0), offset)


def munmap(task: Task, address: int, length: int) -> int:
    return task.process.memory.unmap(address, length)


def mprotect(task: Task, address: int, length: int, protection: int) -> int:
    return task.process.memory.protect(address, length, protection)


def madvise(task: Task, address: int, length: int, advice: int) -> int:
    return task.process.memory.advise(address, length, advice)


async def mremap(task: Task, address: int, old: int, new: int, flags: int) -> int:
    answer = 0
    for answer in task.process.memory.remap(address, old, new, flags):
        # A zero is a step on the way, no address.
        if not answer:
            await asyncio.sleep(0)
    return answer
