"""File descriptors of a process: small numbers to open files, each with its own close-on-exec flag. Source: dup(2), fcntl(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.account import OpenFileAccount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.platform import DirectFiles

# Soft limit of a new process, and the bound of all: Linux's default RLIMIT_NOFILE.
DESCRIPTORS: Final = 1024
DESCRIPTORS_MAX: Final = 4096


class DescriptorTable:
    """`limit` is the soft RLIMIT_NOFILE. Shared by processes made with CLONE_FILES, which count as `users`. `account`: the
    sandbox's, of all its files."""

    def __init__(self, limit: int = DESCRIPTORS, account: OpenFileAccount | None = None) -> None:
        self.limit = limit
        self.account = account if account is not None else OpenFileAccount()
        self.users = 1
        # Called with each file that a descriptor is closed of: locks of a process go then. Not copied.
        self.closing: Callable[[DescriptorTable, OpenFile], None] | None = None
        # Those of the files that vCPUs read by themselves, once processes run with this table.
        self.direct: DirectFiles | None = None
        self._slots: dict[int, OpenFile] = {}
        self._close_on_exec: set[int] = set()
        self._lowest = 0  # all below are taken

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[int]:
        """The numbers in use, ascending."""
        return iter(sorted(self._slots))

    def files(self) -> Iterator[OpenFile]:
        """What the numbers stand for, as often as they do."""
        return iter(self._slots.values())

    def get(self, fd: int) -> OpenFile:
        """EBADF when there is none."""
        file = self._slots.get(fd)
        if file is None:
            raise SyscallError(errno.EBADF)
        return file

    def get_open(self, fd: int) -> OpenFile:
        """As `get`, for calls that want the file itself: EBADF also for what O_PATH gave, a handle on a place."""
        file = self.get(fd)
        if file.flags & os.O_PATH:
            raise SyscallError(errno.EBADF)
        return file

    def add(self, file: OpenFile, *, lowest: int = 0, close_on_exec: bool = False) -> int:
        """The lowest free number from `lowest` on. EMFILE when there is none, ENFILE when the sandbox has too many files; then
        `file` is closed if nobody holds it."""
        try:
            fd = self._free(lowest)
            if file.account is None:
                self.account.check_room()
        except SyscallError:
            with file.held():
                raise
        self._set(fd, file, close_on_exec=close_on_exec)
        return fd

    def check_room(self) -> None:
        """As `add` fails, for calls that have an effect before they have a file."""
        self._free(0)
        self.account.check_room()

    def _free(self, lowest: int) -> int:
        fd = max(lowest, self._lowest)
        while fd in self._slots:
            fd += 1
        if lowest <= self._lowest:
            self._lowest = fd
        if fd >= self.limit:
            raise SyscallError(errno.EMFILE)
        return fd

    def replace(self, fd: int, file: OpenFile, *, close_on_exec: bool = False) -> int:
        """As dup2: `fd` becomes `file`, whatever it was."""
        if not 0 <= fd < self.limit:
            raise SyscallError(errno.EBADF)
        file.hold()  # in case closing `fd` would end it
        if fd in self._slots:
            self.close(fd)
        self._set(fd, file, close_on_exec=close_on_exec)
        file.release()
        return fd

    def close(self, fd: int) -> None:
        file = self.get(fd)
        del self._slots[fd]
        if self.direct is not None:
            self.direct.remove(fd)
        self._close_on_exec.discard(fd)
        self._lowest = min(self._lowest, fd)
        if self.closing is not None:
            self.closing(self, file)
        file.release()

    def close_range(self, first: int, last: int) -> None:
        for fd in [fd for fd in self._slots if first <= fd <= last]:
            self.close(fd)

    def close_for_exec(self) -> None:
        """execve(2) succeeded."""
        for fd in sorted(self._close_on_exec):
            self.close(fd)

    def share(self) -> DescriptorTable:
        """One user more."""
        self.users += 1
        self.end_direct()
        return self

    def copy(self) -> DescriptorTable:
        """For fork(2): the same files under the same numbers."""
        twin = DescriptorTable(self.limit, self.account)
        twin._slots = dict(self._slots)
        twin._close_on_exec = set(self._close_on_exec)
        twin._lowest = self._lowest
        for file in twin._slots.values():
            file.hold()
        return twin

    def drop(self) -> None:
        """One user less; the last one closes all files."""
        self.users -= 1
        if self.users <= 0:
            self.end_direct()
            for fd in list(self._slots):
                self.close(fd)

    def begin_direct(self, files: DirectFiles) -> None:
        """Let vCPUs read what they can by themselves; `files` becomes the table's own."""
        self.direct = files
        for fd in self._slots:
            self._offer(fd)

    def end_direct(self) -> None:
        """From now on every call on the files is seen."""
        if self.direct is not None:
            for fd in self._slots:
                self.direct.remove(fd)
            self.direct.close()
            self.direct = None

    def closes_on_exec(self, fd: int) -> bool:
        self.get(fd)
        return fd in self._close_on_exec

    def set_close_on_exec(self, fd: int, *, value: bool) -> None:
        self.get(fd)
        (self._close_on_exec.add if value else self._close_on_exec.discard)(fd)

    def set_range_close_on_exec(self, first: int, last: int) -> None:
        self._close_on_exec.update(fd for fd in self._slots if first <= fd <= last)

    def _set(self, fd: int, file: OpenFile, *, close_on_exec: bool) -> None:
        file.hold()
        if file.account is None:
            file.account = self.account
            self.account.count += 1
        self._slots[fd] = file
        if close_on_exec:
            self._close_on_exec.add(fd)
        self._offer(fd)

    def _offer(self, fd: int) -> None:
        if self.direct is not None and (file := self._slots[fd].direct(self.direct)) is not None:
            self.direct.add(fd, file)
