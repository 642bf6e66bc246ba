"""inotify(7): what the programs of a sandbox do to files that somebody watches, as events to read.

A watch belongs to a file by its identity, whatever names it has. Only what happens through the sandbox's own calls is seen:
neither what the host's programs do to a shared tree nor stores through a mapping, which Linux does not report either.
Source: inotify(7), fs/notify/inotify/inotify_fsnotify.c.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile, would_block
from asynckvm.linux.files.open_file import FIONREAD
from asynckvm.linux.wait import READABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import Location

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN = 1, 2, 4, 8, 0x10, 0x20
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
IN_ALL_EVENTS: Final = 0xFFF
IN_Q_OVERFLOW, IN_IGNORED, IN_ISDIR = 0x4000, 0x8000, 0x4000_0000
IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK = 0x0100_0000, 0x0200_0000, 0x0400_0000
IN_MASK_CREATE, IN_MASK_ADD, IN_ONESHOT = 0x1000_0000, 0x2000_0000, 0x8000_0000
# Defaults of /proc/sys/fs/inotify; all of a sandbox share them.
EVENTS_MAX: Final = 16384
INSTANCES_MAX: Final = 128
WATCHES_MAX: Final = 8192
# struct inotify_event: wd, mask, cookie, len.
_EVENT: Final = struct.Struct("<iIII")


class Event(NamedTuple):
    """One struct inotify_event."""

    watch: int
    mask: int
    cookie: int
    name: bytes

    def pack(self) -> bytes:
        """The name is filled up with NULs to a multiple of the structure's size."""
        size = -(-(len(self.name) + 1) // _EVENT.size) * _EVENT.size if self.name else 0
        return _EVENT.pack(self.watch, self.mask, self.cookie, size) + self.name.ljust(size, b"\0")


class Watcher(Protocol):
    """Who is told what happens to files."""

    def report(self, watch: Watch, mask: int, name: bytes, cookie: int) -> None: ...
    def forget(self, watch: Watch) -> None: ...


class Watch:
    """One file watched by one instance."""

    __slots__ = ("identity", "mask", "number", "owner")

    def __init__(self, owner: Watcher, number: int, identity: tuple[int, int], mask: int) -> None:
        self.owner = owner
        self.number = number
        self.identity = identity
        self.mask = mask


class Watches:
    """All watches of a sandbox; `files` is empty when nobody watches anything, which those who report look at first."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], dict[Watcher, Watch]] = {}
        self.instances = 0
        self.count = 0
        self._cookies = itertools.count(1)
        # Whether somebody ever wanted to know of accesses; and who is to hear that first.
        self.has_accesses = False
        self.before_accesses: Callable[[], None] | None = None

    def add(self, watch: Watch) -> None:
        """ENOSPC when there are too many."""
        if self.count >= WATCHES_MAX:
            raise SyscallError(errno.ENOSPC)
        self.count += 1
        self.files.setdefault(watch.identity, {})[watch.owner] = watch

    def heed(self, mask: int) -> None:
        """Somebody is about to watch for that."""
        if mask & IN_ACCESS and not self.has_accesses:
            self.has_accesses = True
            if self.before_accesses is not None:
                self.before_accesses()

    def remove(self, watch: Watch) -> None:
        self.count -= 1
        others = self.files[watch.identity]
        del others[watch.owner]
        if not others:
            del self.files[watch.identity]

    # ------------------------------------------------------------ what happened

    def notify(self, identity: tuple[int, int], mask: int, name: bytes = b"", cookie: int = 0, excluded: int = 0) -> None:
        """`mask` says what happened to the file, or to `name` in the directory. A file that is gone takes its watches along.
        Watches with a bit of `excluded` do not want to know."""
        for watch in list(self.files.get(identity, {}).values()):
            if watch.mask & excluded:
                continue
            watch.owner.report(watch, mask, name, cookie)
            if mask & IN_DELETE_SELF:
                watch.owner.forget(watch)

    def about(self, location: Location | None, mask: int) -> None:
        """To the file, and to the directory it is in under its name. Never raises: who is watched does not notice."""
        if not self.files or location is None:
            return
        try:
            entry = location.entry
            mask |= IN_ISDIR if entry.node.is_directory else 0
            parent = entry.up()
            if parent is not None:
                self.notify(parent.node.identity, mask, entry.name, excluded=IN_EXCL_UNLINK if entry.deleted else 0)
            self.notify(entry.node.identity, mask)
        except (SyscallError, OSError):
            return  # a tree of the host changed under us

    def created(self, parent: Location, name: bytes, *, directory: bool = False) -> None:
        if self.files:
            self.notify(parent.node.identity, IN_CREATE | (IN_ISDIR if directory else 0), name)

    def removed(self, parent: Location, name: bytes, identity: tuple[int, int], *, directory: bool, last: bool) -> None:
        """A name is gone; with the `last` one the file."""
        if self.files:
            if not directory:
                self.notify(identity, IN_ATTRIB)
            if last:
                self.notify(identity, IN_DELETE_SELF)
            self.notify(parent.node.identity, IN_DELETE | (IN_ISDIR if directory else 0), name)

    def moved(
        self, parent: Location, old: bytes, into: Location, new: bytes, identity: tuple[int, int], *, directory: bool
    ) -> None:
        if self.files:
            cookie, kind = next(self._cookies) & 0xFFFF_FFFF, IN_ISDIR if directory else 0
            self.notify(parent.node.identity, IN_MOVED_FROM | kind, old, cookie)
            self.notify(into.node.identity, IN_MOVED_TO | kind, new, cookie)
            self.notify(identity, IN_MOVE_SELF)

    def opened(self, file: OpenFile) -> None:
        """A file with a name was opened: its closing is an event too, also for who begins to watch only then."""
        file.watch_close(self._closed)
        self.about(file.location, IN_OPEN)

    def _closed(self, file: OpenFile) -> None:
        self.about(file.location, IN_CLOSE_WRITE if file.writable else IN_CLOSE_NOWRITE)


class Inotify(AnonymousFile):
    """An instance: its watches by number, and the events that nobody has read yet. EMFILE when there are too many instances."""

    kind = b"inotify"

    def __init__(self, watches: Watches, flags: int = 0) -> None:
        super().__init__(os.O_RDONLY)
        self.flags = os.O_RDONLY | flags
        if watches.instances >= INSTANCES_MAX:
            raise SyscallError(errno.EMFILE)
        watches.instances += 1
        self._all = watches
        self._watches: dict[int, Watch] = {}
        self._numbers = itertools.count(1)
        self._events: deque[Event] = deque()

    # ------------------------------------------------------------ watches

    def add(self, identity: tuple[int, int], mask: int) -> int:
        """Watch a file, or change what is watched of it; the number of the watch. ENOSPC, EEXIST."""
        flags = mask & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK)
        self._all.heed(mask)
        watch = self._all.files.get(identity, {}).get(self)
        if watch is not None:
            if mask & IN_MASK_CREATE:
                raise SyscallError(errno.EEXIST)
            watch.mask = watch.mask | flags if mask & IN_MASK_ADD else flags
            return watch.number
        watch = Watch(self, next(self._numbers), identity, flags)
        self._all.add(watch)
        self._watches[watch.number] = watch
        return watch.number

    def remove(self, number: int) -> None:
        """inotify_rm_watch(2): EINVAL for no watch of this instance."""
        watch = self._watches.get(number)
        if watch is None:
            raise SyscallError(errno.EINVAL)
        self.forget(watch)

    def forget(self, watch: Watch) -> None:
        """The watch ends, and that is the last event of it."""
        if self._drop(watch):
            self._put(Event(watch.number, IN_IGNORED, 0, b""))

    def _drop(self, watch: Watch) -> bool:
        if self._watches.pop(watch.number, None) is None:
            return False
        self._all.remove(watch)
        return True

    # ------------------------------------------------------------ events

    def report(self, watch: Watch, mask: int, name: bytes, cookie: int) -> None:
        """Something happened; whether it is wanted is decided here."""
        if mask & IN_ALL_EVENTS & watch.mask:
            self._put(Event(watch.number, mask, cookie, name))
            if watch.mask & IN_ONESHOT:
                self.forget(watch)

    def _put(self, event: Event) -> None:
        if self._events and self._events[-1] == event:
            return  # one event says it for both
        if len(self._events) >= EVENTS_MAX:
            event = Event(-1, IN_Q_OVERFLOW, 0, b"")
            if self._events[-1] == event:
                return
        self._events.append(event)
        self.queue.wake(READABLE)

    # ------------------------------------------------------------ as a file

    def read(self, length: int) -> bytes:
        if not self._events:
            raise would_block()
        found = bytearray()
        while self._events:
            record = self._events[0].pack()
            if len(found) + len(record) > length:
                break
            found += record
            self._events.popleft()
        if not found:
            raise SyscallError(errno.EINVAL)
        return bytes(found)

    def write(self, data: bytes) -> int:  # noqa: ARG002
        raise SyscallError(errno.EBADF)

    def poll(self) -> int:
        return READABLE if self._events else 0

    def details(self) -> bytes:
        rows = [(watch.number, watch.identity[1], watch.identity[0], watch.mask) for watch in self._watches.values()]
        return b"".join(b"inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:0 \n" % row for row in rows)

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if request != FIONREAD:
            raise SyscallError(errno.ENOTTY)
        size = sum(len(event.pack()) for event in self._events)
        task.space.write(argument, size.to_bytes(4, "little"))
        return 0

    def close(self) -> None:
        for watch in list(self._watches.values()):
            self._drop(watch)
        self._all.instances -= 1
