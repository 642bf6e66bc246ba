"""pidfd_open(2): a process as a file, readable to poll(2) from the moment it has ended."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile
from asynckvm.linux.wait import READABLE

if TYPE_CHECKING:
    from asynckvm.linux.process import Process


class ProcessFile(AnonymousFile):
    """`process` stays what it is when its number is given to another one."""

    kind = b"[pidfd]"

    def __init__(self, process: Process, flags: int) -> None:
        super().__init__(flags)
        self.process = process
        self.queue = process.exit_queue

    def seek(self, offset: int, whence: int) -> int:  # noqa: ARG002
        raise SyscallError(errno.ESPIPE)

    def poll(self) -> int:
        return READABLE if self.process.exited else 0
