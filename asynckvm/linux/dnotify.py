"""F_NOTIFY: a signal to who has a directory open when something happens to the files in it.

The older sibling of inotify(7), whose reports it listens to. Source: fcntl(2), Documentation/filesystems/dnotify.rst.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import (
    IN_ACCESS,
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    Watch,
    Watches,
)
from asynckvm.linux.owner import MESSAGE, POLL_MSG, owner_of

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

DN_ACCESS, DN_MODIFY, DN_CREATE, DN_DELETE, DN_RENAME, DN_ATTRIB, DN_MULTISHOT = 1, 2, 4, 8, 16, 32, 1 << 31
_EVENTS: Final = {
    DN_ACCESS: IN_ACCESS,
    DN_MODIFY: IN_MODIFY,
    DN_CREATE: IN_CREATE | IN_MOVED_TO,
    DN_DELETE: IN_DELETE | IN_MOVED_FROM,
    DN_ATTRIB: IN_ATTRIB,
}


class Notice:
    """What one open directory is to be told of: `mask` of DN_*."""

    def __init__(self, watches: Watches, directory: OpenFile) -> None:
        self.mask = 0
        self._watches = watches
        self._directory = directory
        self._watch: Watch | None = None
        self._left = 0  # the cookie of a name that left this directory: it may come back under another one

    def set(self, mask: int) -> None:
        """Until something happened once, or, with DN_MULTISHOT, for good; 0 ends it."""
        if not mask & ~DN_MULTISHOT:
            self._end()
            return
        self.mask |= mask
        self._watches.heed(IN_ACCESS if mask & DN_ACCESS else 0)
        if self._watch is None:
            assert self._directory.location is not None
            self._watch = Watch(self, 0, self._directory.location.node.identity, 0)
            self._watches.add(self._watch)
            self._directory.watch_close(self._closed)

    def report(self, watch: Watch, mask: int, name: bytes, cookie: int) -> None:  # noqa: ARG002
        """For `Watches`."""
        renamed = bool(mask & IN_MOVED_TO) and cookie == self._left
        if mask & IN_MOVED_FROM:
            self._left = cookie
        wanted = any(self.mask & one and mask & events for one, events in _EVENTS.items())
        if wanted or (renamed and self.mask & DN_RENAME):
            if self._directory.signalled is not None:
                self._directory.signalled.tell(POLL_MSG, MESSAGE)
            if not self.mask & DN_MULTISHOT:
                self._end()

    def forget(self, watch: Watch) -> None:  # noqa: ARG002
        """For `Watches`: the directory is gone."""
        self._end()

    def _end(self) -> None:
        self.mask = 0
        if self._watch is not None:
            self._watches.remove(self._watch)
            self._watch = None

    def _closed(self, directory: OpenFile) -> None:  # noqa: ARG002
        self._end()


def notify(task: Task, directory: OpenFile, mask: int) -> None:
    """fcntl(F_NOTIFY)."""
    if directory.location is None or not directory.location.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    if directory.notice is None:
        directory.notice = Notice(task.process.fs.mounts.watches, directory)
    directory.notice.set(mask)
    owner_of(task, directory).claim(task)
