"""Waiting for something another task, a timer or the host does: Linux's wait queues, for coroutines.

What can be waited for has a `WaitQueue`, and wakes it when it changed. Everything here runs on the loop's thread, so nothing
changes between looking at an object and beginning to wait for it, and no wake-up is lost. Who waits is told "look again", never
a result: two waiters for one byte both look, and one of them waits on.

`wait` is for anybody; a task's system calls use `Task.wait`, which a signal ends too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# <asm-generic/poll.h>; the EPOLL* events have the same values.
POLLIN: Final = 0x001
POLLPRI: Final = 0x002
POLLOUT: Final = 0x004
POLLERR: Final = 0x008
POLLHUP: Final = 0x010
POLLNVAL: Final = 0x020
POLLRDNORM: Final = 0x040
POLLRDBAND: Final = 0x080
POLLWRNORM: Final = 0x100
POLLWRBAND: Final = 0x200
POLLRDHUP: Final = 0x2000
READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM
ANYTHING: Final = 0x7FFF_FFFF

# One timer of the event loop; a longer wait is made of several, because loops bound what call_later takes.
_PIECE: Final = 3600.0


class WaitQueue:
    """Who wants to know when an object changes. Callbacks take the events and must neither wait nor raise."""

    __slots__ = ("_exclusive", "_watchers")

    def __init__(self) -> None:
        # Watchers in the order in which they came: a dict is an ordered set.
        self._watchers: dict[Callable[[int], None], None] = {}
        # Those of which one is enough; most queues never have any.
        self._exclusive: dict[Callable[[int], bool], None] | None = None

    def __len__(self) -> int:
        return len(self._watchers) + len(self._exclusive or ())

    def watch(self, watcher: Callable[[int], None]) -> None:
        """Call `watcher(events)` at each wake-up from now on."""
        self._watchers[watcher] = None

    def watch_exclusively(self, watcher: Callable[[int], bool]) -> None:
        """After all others, ask these in turn until one says that somebody will see to it."""
        self._exclusive = self._exclusive or {}
        self._exclusive[watcher] = None

    def unwatch_exclusively(self, watcher: Callable[[int], bool]) -> None:
        (self._exclusive or {}).pop(watcher, None)

    def unwatch(self, watcher: Callable[[int], None]) -> None:
        """No longer; not to have watched is fine."""
        self._watchers.pop(watcher, None)

    def wake(self, events: int = ANYTHING) -> None:
        """The object changed: `events` (POLL*) says in which way."""
        if self._watchers:
            for watcher in list(self._watchers):
                watcher(events)
        if self._exclusive:
            any(exclusive(events) for exclusive in list(self._exclusive))


async def wait(
    queues: Iterable[WaitQueue], until: int | None = None, started: Callable[[asyncio.Future[bool]], None] | None = None
) -> bool:
    """Wait for a wake-up of any of `queues`; False when CLOCK_MONOTONIC passed `until` (nanoseconds) first.

    `started` is given the future that ends the wait, for somebody else who may want to end it, with an exception or without.
    """
    woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def watcher(events: int) -> None:  # noqa: ARG001
        if not woken.done():
            woken.set_result(True)

    watched = list(queues)
    for queue in watched:
        queue.watch(watcher)
    alarm = _Alarm(woken, until) if until is not None else None
    try:
        if started is not None:
            started(woken)
        return await woken
    finally:
        if alarm is not None:
            alarm.cancel()
        for queue in watched:
            queue.unwatch(watcher)


class _Alarm:
    """Ends a wait with False at its time."""

    __slots__ = ("_handle", "_until", "_woken")

    def __init__(self, woken: asyncio.Future[bool], until: int) -> None:
        self._woken = woken
        self._until = until
        self._handle: asyncio.TimerHandle | None = None
        self._look()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        left = (self._until - time.monotonic_ns()) / 1e9
        if left > 0:
            self._handle = self._woken.get_loop().call_later(min(left, _PIECE), self._look)
        elif not self._woken.done():
            self._woken.set_result(False)
