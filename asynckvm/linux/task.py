"""A task: one guest thread, the context it runs with, and how it waits.

What drives it is `dispatch`; what threads share is `process`. Source: clone(2), set_tid_address(2), get_robust_list(2).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from typing import TYPE_CHECKING

from asynckvm.errors import ClosedError
from asynckvm.linux import wait
from asynckvm.linux.direct_reads import NUMBERS
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.signals.altstack import AlternateStack
from asynckvm.linux.signals.frame import Trap
from asynckvm.linux.signals.queue import SignalQueue
from asynckvm.model.exits import InterruptReason

if TYPE_CHECKING:
    from asynckvm.linux.memory import Memory
    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.restart import Restart
    from asynckvm.linux.wait import WaitQueue
    from asynckvm.platform import AddressSpace, Context

NAME_BYTES = 15


class Task:
    """One thread. Thread: loop."""

    def __init__(self, process: Process, context: Context, tid: int, name: bytes, mask: int = 0) -> None:
        self.process = process
        self.context = context
        self.tid = tid
        self.name = name[:NAME_BYTES]
        self.started_ns = time.monotonic_ns()
        # Signals. `saved_mask`: what rt_sigsuspend, ppoll and the like put aside until the next handler has begun.
        self.mask = mask
        self.saved_mask: int | None = None
        self.pending = SignalQueue(process.kernel.signal_account)
        self.altstack = AlternateStack()
        # The system call that is being answered, for its restart.
        self.syscall: int | None = None
        self.restart: Restart | None = None
        # Of its last exception, for the frame of the signal it became.
        self.trap = Trap(0, 0, 0)
        # Where to write zero at the end of the thread (set_tid_address), and its list of robust futexes.
        self.clear_child_tid = 0
        self.robust_list = 0
        self.killed = False  # this thread alone is to end: another one executes a program
        self.in_guest = False
        self.left_guest: asyncio.Future[None] | None = None
        self._waiting: asyncio.Future[bool] | None = None
        self._killable = False
        self._past_ns = 0  # of contexts it had before execve(2)

    @property
    def memory(self) -> Memory:
        return self.process.memory

    @property
    def space(self) -> AddressSpace:
        return self.process.memory.space

    @property
    def cpu_ns(self) -> int:
        """Processor time used so far."""
        return self._past_ns + self.context.counters.ran_ns

    @property
    def direct_calls(self) -> collections.Counter[int]:
        """System calls by number that its vCPU answered since its program began."""
        return collections.Counter({NUMBERS[call]: count for call, count in self.context.direct_calls.items()})

    @property
    def dying(self) -> bool:
        """It will not see ring 3 again."""
        return self.killed or self.process.ended is not None

    @property
    def interrupted(self) -> bool:
        """Whether the thread has something to do before it may wait: a signal to act on, or its end."""
        process = self.process
        return bool((self.pending.mask | process.pending.mask) & ~self.mask) or self.dying or bool(process.job.stopped)

    @property
    def waiting(self) -> bool:
        """It sleeps in a system call."""
        return self._waiting is not None

    def replace_context(self, context: Context) -> None:
        """execve(2): go on in another address space."""
        self._past_ns += self.context.counters.ran_ns
        self.process.calls += self.direct_calls
        self.context.close()
        self.context = context

    def notice(self) -> None:
        """Something was sent to the thread: leave the guest, or the wait of a system call, and look. Never blocks."""
        if self._waiting is not None:
            if not self._waiting.done() and (self.dying or not self._killable):
                self._waiting.set_exception(SyscallError(ERESTARTSYS))
        elif self.in_guest:
            # A machine that is closed brings it out of the guest by itself.
            with contextlib.suppress(ClosedError):
                self.context.interrupt(InterruptReason.BOUNCED)

    async def turn(self) -> None:
        """Let others have the event loop, in the middle of a long call. SyscallError when the thread is to end."""
        await asyncio.sleep(0)
        if self.dying:
            raise SyscallError(ERESTARTSYS)

    async def leave_guest(self) -> None:
        """Return when the thread is not in ring 3, or has been out of it since the call."""
        if self.in_guest:
            self.left_guest = self.left_guest or asyncio.get_running_loop().create_future()
            self.context.interrupt(InterruptReason.BOUNCED)
            await asyncio.shield(self.left_guest)

    async def wait(self, *queues: WaitQueue, until: int | None = None, killable: bool = False) -> bool:
        """Wait for a wake-up of any of `queues`; False when CLOCK_MONOTONIC passed `until` (nanoseconds) first.

        SyscallError(ERESTARTSYS) when a signal is to be acted on first; with `killable` only the thread's end does that. What
        was looked at before the call is still true when the wait begins.
        """
        if self.dying if killable else self.interrupted:
            raise SyscallError(ERESTARTSYS)
        self._killable = killable
        try:
            return await wait.wait(queues, until, self._begin)
        finally:
            self._waiting = None

    def _begin(self, waiting: asyncio.Future[bool]) -> None:
        self._waiting = waiting
