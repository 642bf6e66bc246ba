"""Linux's asynchronous I/O, io_setup(2): requests that are handed in, and their results that are fetched later.

Here a request is carried out as it is handed in, which Linux does too with files that cannot do better; so when io_submit(2)
returns, all results are there and nothing is left to cancel. Source: io_submit(2), fs/aio.c.
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
    from asynckvm.linux.quota import Quota

# Of all contexts of a sandbox (/proc/sys/fs/aio-max-nr).
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
    """What io_setup makes. `room`: for requests under way and results that nobody has fetched."""

    def __init__(self, events: int) -> None:
        self.room = events
        self._running = 0
        self.done: deque[Event] = deque()
        self.queue = WaitQueue()

    def begin(self) -> None:
        """Keep room for the result of a request. EAGAIN when there is none."""
        if self._running + len(self.done) >= self.room:
            raise SyscallError(errno.EAGAIN)
        self._running += 1

    def finish(self, event: Event) -> None:
        self._running -= 1
        self.done.append(event)
        self.queue.wake()

    def take(self, count: int) -> list[Event]:
        return [self.done.popleft() for _ in range(min(count, len(self.done)))]


class Contexts:
    """Those of one process, by their number, which is the address of a page: a ring that holds nothing.

    `quota` is of the events of all contexts of a sandbox.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._contexts: dict[int, Context] = {}

    def create(self, memory: Memory, events: int) -> int:
        if not 0 < events <= _EVENTS_SANE:
            raise SyscallError(errno.EINVAL)
        self._quota.charge(events)
        try:
            number = memory.map(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        except BaseException:
            self._quota.refund(events)
            raise
        # A program that unmapped the page may be given the same one again.
        self._forget(number)
        self._contexts[number] = Context(events)
        return number

    def get(self, number: int) -> Context:
        """EINVAL when there is none."""
        context = self._contexts.get(number)
        if context is None:
            raise SyscallError(errno.EINVAL)
        return context

    def destroy(self, memory: Memory, number: int) -> None:
        self.get(number)
        self._forget(number)
        memory.unmap(number, PAGE)

    def clear(self) -> None:
        """They go with the memory: execve(2), and the end."""
        for number in list(self._contexts):
            self._forget(number)

    def _forget(self, number: int) -> None:
        context = self._contexts.pop(number, None)
        if context is not None:
            self._quota.refund(context.room)
            context.queue.wake()
