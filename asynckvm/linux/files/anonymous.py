"""Files without a place in any file system: what eventfd, timerfd, signalfd, epoll and pidfd have in common."""

from __future__ import annotations

import errno
import os
from typing import Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.files.open_file import OpenFile

# All of them seem to be one inode without a type.
_DEVICE: Final = 15
_INODE: Final = 1


class AnonymousFile(OpenFile):
    """`kind` is how /proc/self/fd names it."""

    kind = b"[file]"

    def __init__(self, flags: int) -> None:
        super().__init__(os.O_RDWR | flags)

    def seek(self, offset: int, whence: int) -> int:  # noqa: ARG002
        """Allowed, and without effect."""
        return 0

    def attributes(self) -> Attributes:
        return Attributes(device=_DEVICE, inode=_INODE, mode=0o600)

    def describe(self) -> bytes:
        return b"anon_inode:" + self.kind


def would_block() -> BlockingIOError:
    """What a read or write raises that has to wait."""
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
