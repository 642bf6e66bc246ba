"""A task: one guest thread, the context it runs with, and how it waits.

What drives it is `dispatch`; what its threads share is `process`. Source: clone(2), set_tid_address(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asynckvm.linux import wait
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.model.exits import InterruptReason

if TYPE_CHECKING:
    import asyncio

    from asynckvm.linux.process import Process
    from asynckvm.linux.wait import WaitQueue
    from asynckvm.platform import AddressSpace, Context


class Task:
    """One thread. Thread: loop."""

    def __init__(self, process: Process, context: Context, tid: int) -> None:
        self.process = process
        self.context = context
        self.tid = tid
        # Where to write zero at the end of the thread (set_tid_address), and its list of robust futexes.
        self.clear_child_tid = 0
        self.robust_list = (0, 24)
        # The system call that is being answered, for its restart.
        self.syscall: int | None = None
        self.in_guest = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def space(self) -> AddressSpace:
        return self.process.memory.space

    @property
    def interrupted(self) -> bool:
        """Whether the thread has something to do before it may wait: a signal to act on, or its end."""
        signals = self.process.signals
        return self.process.ended is not None or bool(signals.pending & ~signals.blocked)

    def notice(self) -> None:
        """Something was sent to the thread: leave the guest, or the wait of a system call, and look. Never blocks."""
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_exception(SyscallError(ERESTARTSYS))
        elif self.in_guest:
            self.context.interrupt(InterruptReason.BOUNCED)

    async def wait(self, *queues: WaitQueue, until: int | None = None) -> bool:
        """Wait for a wake-up of any of `queues`; False when CLOCK_MONOTONIC passed `until` (nanoseconds) first.

        SyscallError(ERESTARTSYS) when a signal is to be acted on first. What was looked at before the call is still true when
        the wait begins.
        """
        if self.interrupted:
            raise SyscallError(ERESTARTSYS)
        try:
            return await wait.wait(queues, until, self._begin)
        finally:
            self._waiting = None

    def _begin(self, waiting: asyncio.Future[bool]) -> None:
        self._waiting = waiting
