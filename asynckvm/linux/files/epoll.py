"""epoll(7): a set of files to watch, and the list of those that may be ready.

A file's wake-up puts its item on the list; who waits asks only the files of the list what they are ready for. An item that turns
out not to be ready leaves the list, a level-triggered one that is ready goes to its end, so that all get their turn.
Source: epoll_ctl(2), epoll_wait(2), fs/eventpoll.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile
from asynckvm.linux.quota import Quota
from asynckvm.linux.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, READABLE

if TYPE_CHECKING:
    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.task import Task

EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLWAKEUP: Final = 1 << 29
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31
_MODES: Final = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET
_ALWAYS: Final = POLLERR | POLLHUP
_WITH_EXCLUSIVE: Final = POLLIN | POLLOUT | _ALWAYS | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
# Instances that may watch each other in a row, in how many ways a wake-up may go through them, items of one instance.
NESTING: Final = 4
PATHS: Final = 1000
ITEMS_MAX: Final = 16384
# In all instances of a sandbox (fs.epoll.max_user_watches).
WATCHES_MAX: Final = 131_072


class Item:
    """A watched file, under the number it was added with. `events` is 0 while a one-shot item is spent."""

    __slots__ = ("data", "epoll", "events", "fd", "file", "modes", "queue")

    def __init__(self, epoll: Epoll, fd: int, file: OpenFile, task: Task) -> None:
        self.epoll = epoll
        self.fd = fd
        self.file = file
        self.queue = file.queue_for(task)
        self.events = 0
        self.modes = 0
        self.data = 0

    def set(self, events: int, data: int) -> None:
        self.events = events & ~_MODES | _ALWAYS
        self.modes = events & _MODES
        self.data = data

    def woken(self, events: int) -> None:
        if events & self.events:
            self.epoll.note(self)

    def woken_exclusively(self, events: int) -> bool:
        """Whether somebody waits for this instance, who will see to the file, so that no other has to be woken."""
        waiting = bool(events & self.events) and len(self.epoll.queue) > 0
        self.woken(events)
        return waiting

    def watch(self) -> None:
        if self.modes & EPOLLEXCLUSIVE:
            self.queue.watch_exclusively(self.woken_exclusively)
        else:
            self.queue.watch(self.woken)

    def unwatch(self) -> None:
        self.queue.unwatch(self.woken)
        self.queue.unwatch_exclusively(self.woken_exclusively)


class Event(NamedTuple):
    """What epoll_wait reports of an item."""

    item: Item
    events: int


class Epoll(AnonymousFile):
    """An epoll instance. `quota` is of the watches of all instances of a sandbox."""

    kind = b"[eventpoll]"

    def __init__(self, flags: int = 0, quota: Quota | None = None) -> None:
        super().__init__(flags)
        self._quota = quota if quota is not None else Quota(WATCHES_MAX, errno.ENOSPC)
        self._items: dict[OpenFile, dict[int, Item]] = {}
        self._count = 0
        # A dict is an ordered set.
        self._ready: dict[Item, None] = {}
        # Items of this instance that are instances themselves, and items of others that watch this one.
        self._inner: dict[Item, Epoll] = {}
        self._outer: dict[Item, Epoll] = {}

    # ------------------------------------------------------------ the set

    def add(self, task: Task, fd: int, file: OpenFile, events: int, data: int) -> None:
        """EPOLL_CTL_ADD."""
        self._check_target(file)
        if events & EPOLLEXCLUSIVE and (events & ~_WITH_EXCLUSIVE or isinstance(file, Epoll)):
            raise SyscallError(errno.EINVAL)
        if fd in self._items.get(file, ()):
            raise SyscallError(errno.EEXIST)
        if self._count >= ITEMS_MAX:
            raise SyscallError(errno.ENOSPC)
        self._quota.check()
        item = Item(self, fd, file, task)
        if isinstance(file, Epoll):
            self._nest(item, file)
        item.set(events, data)
        if file not in self._items:
            self._items[file] = {}
            file.watch_close(self._forget)
        self._items[file][fd] = item
        self._count += 1
        self._quota.charge()
        item.watch()
        self._note_if_ready(task, item)

    def modify(self, task: Task, fd: int, file: OpenFile, events: int, data: int) -> None:
        """EPOLL_CTL_MOD."""
        item = self._item(fd, file)
        if (events | item.modes) & EPOLLEXCLUSIVE:
            raise SyscallError(errno.EINVAL)
        item.set(events, data)
        self._note_if_ready(task, item)

    def delete(self, fd: int, file: OpenFile) -> None:
        """EPOLL_CTL_DEL."""
        self._drop(self._item(fd, file))
        if not self._items[file]:
            del self._items[file]
            file.unwatch_close(self._forget)

    def close(self) -> None:
        for file in list(self._items):
            self._forget(file)
            file.unwatch_close(self._forget)

    def _check_target(self, file: OpenFile) -> None:
        if not file.pollable:
            raise SyscallError(errno.EPERM)
        if file is self:
            raise SyscallError(errno.EINVAL)

    def _item(self, fd: int, file: OpenFile) -> Item:
        self._check_target(file)
        item = self._items.get(file, {}).get(fd)
        if item is None:
            raise SyscallError(errno.ENOENT)
        return item

    def _drop(self, item: Item) -> None:
        item.unwatch()
        del self._items[item.file][item.fd]
        self._count -= 1
        self._quota.refund()
        self._ready.pop(item, None)
        if isinstance(item.file, Epoll):
            del self._inner[item], item.file._outer[item]

    def _forget(self, file: OpenFile) -> None:
        """The file is closed for good: that alone, and not the close of a descriptor, ends its being watched."""
        for item in list(self._items[file].values()):
            self._drop(item)
        del self._items[file]

    # ------------------------------------------------------------ readiness

    def note(self, item: Item) -> None:
        """The item may be ready."""
        self._ready[item] = None
        self.queue.wake(READABLE)

    def _note_if_ready(self, task: Task, item: Item) -> None:
        if item.file.poll_for(task) & item.events:
            self.note(item)

    def events(self, task: Task, limit: int) -> list[Event]:
        """What is ready, oldest first. Stays so until `report`ed, in case the caller cannot tell the guest."""
        found: list[Event] = []
        for item in list(self._ready):
            events = item.file.poll_for(task) & item.events
            if not events:
                del self._ready[item]
                continue
            found.append(Event(item, events))
            if len(found) == limit:
                break
        return found

    def report(self, events: list[Event]) -> None:
        """The guest knows of these now."""
        for item, _ in events:
            self._ready.pop(item, None)
            if item.modes & EPOLLONESHOT:
                item.events = 0
            elif not item.modes & EPOLLET:
                self._ready[item] = None

    def poll(self) -> int:
        """Without a task there is nobody whose files could be asked: what may be ready counts."""
        return READABLE if self._ready else 0

    def poll_for(self, task: Task) -> int:
        return READABLE if self._ready and self.events(task, 1) else 0

    # ------------------------------------------------------------ instances that watch instances

    def _nest(self, item: Item, inner: Epoll) -> None:
        """ELOOP if `inner` watches this one already, EINVAL if too many would watch each other."""
        below, above = inner._reach(downward=True), self._reach(downward=False)
        if self in below:
            raise SyscallError(errno.ELOOP)
        if max(below.values()) + max(above.values()) >= NESTING:
            raise SyscallError(errno.EINVAL)
        inner._outer[item] = self
        known: dict[Epoll, int] = {}
        if any(epoll._paths(known) > PATHS for epoll in below):
            del inner._outer[item]
            raise SyscallError(errno.EINVAL)
        self._inner[item] = inner

    def _reach(self, *, downward: bool) -> dict[Epoll, int]:
        """The instances that this one watches, or that watch it, through others too: each with the longest way there."""
        found = {self: 0}
        edge = {self}
        for level in range(1, NESTING + 1):
            edge = {near for epoll in edge for near in (epoll._inner if downward else epoll._outer).values()}
            found.update(dict.fromkeys(edge, level))
        return found

    def _paths(self, known: dict[Epoll, int]) -> int:
        """In how many ways a wake-up goes on from here, this instance included."""
        if self not in known:
            known[self] = 1 + sum(epoll._paths(known) for epoll in self._outer.values())
        return known[self]
