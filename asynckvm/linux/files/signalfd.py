"""signalfd(2): pending signals to read. They are those of whoever reads or polls, not of whoever made the file."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile, would_block
from asynckvm.linux.signals import deliver
from asynckvm.linux.signals.info import Layout
from asynckvm.linux.wait import READABLE

if TYPE_CHECKING:
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task
    from asynckvm.linux.wait import WaitQueue

# struct signalfd_siginfo: signo, errno, code, pid, uid, fd, tid, band, overrun, trapno, status, int, ptr, utime, stime, addr,
# addr_lsb.
_INFO: Final = struct.Struct("<IiiIIiIIIIiiQQQQH")
BYTES: Final = 128
_CHUNK: Final = 64


class SignalFile(AnonymousFile):
    """`mask` has a bit for each signal that is to be read here."""

    kind = b"[signalfd]"

    def __init__(self, mask: int, flags: int) -> None:
        super().__init__(flags)
        self.mask = mask

    async def read_for(self, task: Task, length: int) -> bytes:
        if length < BYTES:
            raise SyscallError(errno.EINVAL)
        while not deliver.pending_for(task, self.mask):
            if self.nonblocking:
                raise would_block()
            await task.wait(task.process.signal_queue)
        found = b""
        while len(found) < min(length, BYTES * _CHUNK) - BYTES + 1 and (info := deliver.take(task, self.mask)) is not None:
            found += image(info)
        return found

    def read(self, length: int) -> bytes:  # noqa: ARG002
        """Whose signals is not known here: none are."""
        raise would_block()

    def write(self, data: bytes) -> int:  # noqa: ARG002
        raise SyscallError(errno.EINVAL)

    def poll(self) -> int:
        return 0

    def poll_for(self, task: Task) -> int:
        return READABLE if deliver.pending_for(task, self.mask) else 0

    def queue_for(self, task: Task) -> WaitQueue:
        return task.process.signal_queue


def image(info: SigInfo) -> bytes:
    """As struct signalfd_siginfo; which of its members say something depends on who sent the signal."""
    pid = uid = fd = tid = band = overrun = status = number = pointer = address = 0
    user = system = 0
    layout = info.layout
    if layout in (Layout.KILL, Layout.RT, Layout.CHILD):
        pid, uid = info.pid, info.uid
    if layout is Layout.TIMER:
        tid, overrun = info.timer, info.overrun
    if layout in (Layout.RT, Layout.TIMER):
        pointer = info.value
        number = (pointer & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)
    if layout is Layout.CHILD:
        status, (user, system) = info.status, info.times
    if layout is Layout.POLL:
        band, fd = info.band & 0xFFFF_FFFF, info.descriptor
    if layout is Layout.FAULT:
        address = info.address
    fields = (info.number, info.errno, info.code, pid & 0xFFFF_FFFF, uid, fd, tid & 0xFFFF_FFFF, band, overrun & 0xFFFF_FFFF, 0)
    return _INFO.pack(*fields, status, number, pointer, user, system, address, 0).ljust(BYTES, b"\0")
