"""Linux's asynchronous I/O, io_setup(2): requests that are handed in, and their results that are fetched later.

Here a request is carried out as it is handed in, which Linux does too with files that cannot do better; so all results are there
from the start, and nothing is left to cancel. Source: io_submit(2), fs/aio.c.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.memory import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from asynckvm.linux.wait import WaitQueue
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from asynckvm.linux.memory import Memory

# /proc/sys/fs/aio-max-nr; here of one process.
EVENTS_MAX: Final = 65536
_EVENTS_SANE: Final = 0x10000000 // 32
_EVENT: Final = struct.Struct("<QQqq")


class Event(NamedTuple):
    """struct io_event: what the request said of itself, where it is, and what became of it."""

    data: int
    request: int
    result: int

    def pack(self) -> bytes:
        return _EVENT.pack(self.data, self.request, self.result, 0)


class Context:
    """What io_setup makes. `room`: requests whose results nobody has fetched."""

    def __init__(self, events: int) -> None:
        self.room = events
        self.done: deque[Event] = deque()
        self.queue = WaitQueue()

    def finish(self, event: Event) -> None:
        self.done.append(event)
        self.queue.wake()

    def take(self, count: int) -> list[Event]:
        return [self.done.popleft() for _ in range(min(count, len(self.done)))]


class Contexts:
    """Those of one process, by their number, which is the address of a page: a ring that holds nothing."""

    def __init__(self) -> None:
        self._contexts: dict[int, Context] = {}

    def create(self, memory: Memory, events: int) -> int:
        if not 0 < events <= _EVENTS_SANE:
            raise SyscallError(errno.EINVAL)
        if events + sum(context.room for context in self._contexts.values()) > EVENTS_MAX:
            raise SyscallError(errno.EAGAIN)
        number = memory.map(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        # A program that unmaps the page may be given the same one again.
        self._contexts[number] = Context(events)
        return number

    def get(self, number: int) -> Context:
        """EINVAL when there is none."""
        context = self._contexts.get(number)
        if context is None:
            raise SyscallError(errno.EINVAL)
        return context

    def destroy(self, memory: Memory, number: int) -> None:
        context = self.get(number)
        del self._contexts[number]
        context.queue.wake()
        memory.unmap(number, PAGE)

    def clear(self) -> None:
        """execve(2): they go with the memory."""
        self._contexts.clear()
