"""eventfd(2): a counter that can be waited for."""

from __future__ import annotations

import errno
from typing import Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.anonymous import AnonymousFile, would_block
from asynckvm.linux.wait import POLLERR, READABLE, WRITABLE

_COUNTER_MAX: Final = (1 << 64) - 2
_OVERFLOW: Final = _COUNTER_MAX + 1
_BYTES: Final = 8


class EventFile(AnonymousFile):
    """With `semaphore` a read takes one from the counter, without it everything."""

    kind = b"[eventfd]"

    def __init__(self, initial: int, flags: int, *, semaphore: bool) -> None:
        super().__init__(flags)
        self.count = initial
        self._semaphore = semaphore

    def read(self, length: int) -> bytes:
        if length < _BYTES:
            raise SyscallError(errno.EINVAL)
        if not self.count:
            raise would_block()
        taken = 1 if self._semaphore else self.count
        self.count -= taken
        self.queue.wake(WRITABLE)
        return taken.to_bytes(_BYTES, "little")

    def write(self, data: bytes) -> int:
        # As newer kernels: with more bytes there would be a rest, which nobody could tell from a value of its own.
        added = int.from_bytes(data, "little")
        if len(data) != _BYTES or added > _COUNTER_MAX:
            raise SyscallError(errno.EINVAL)
        if self.count + added > _COUNTER_MAX:
            raise would_block()
        self.count += added
        self.queue.wake(READABLE)
        return _BYTES

    def signal(self) -> None:
        """One more from the kernel itself, which never waits: at the very end the counter overflows."""
        self.count = min(self.count + 1, _OVERFLOW)
        self.queue.wake(READABLE)

    def poll(self) -> int:
        mask = READABLE if self.count else 0
        mask |= POLLERR if self.count == _OVERFLOW else 0
        return mask | (WRITABLE if self.count < _COUNTER_MAX else 0)
