"""A task without a guest: memory, descriptors and a real wait, for tests of calls and of files that ask who reads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from asynckvm.linux import wait
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.files import DescriptorTable
from asynckvm.linux.files.pipe import PipePages
from asynckvm.linux.limits import Limits
from asynckvm.linux.wait import WaitQueue
from asynckvm.model.memory import Access
from support.fake_platform import FakeSpace

if TYPE_CHECKING:
    from collections.abc import Coroutine

SECONDS = 5
# Writable memory of every such task, 64 KiB; nothing is behind END.
DATA = 0x600000
END = DATA + 0x10000


class FakeTask:
    """`interrupt()` is a signal that has to be handled."""

    def __init__(self, **process: Any) -> None:
        self.space = FakeSpace()
        self.space.map(DATA, END - DATA, Access.READ | Access.WRITE)
        self.mask = 0
        self.saved_mask: int | None = None
        self.pending = SimpleNamespace(mask=0)
        kernel = SimpleNamespace(pipe_pages=PipePages(), processes={})
        credentials = SimpleNamespace(euid=1000, egid=100, is_root=False)
        self.process: Any = SimpleNamespace(
            files=DescriptorTable(),
            memory=SimpleNamespace(space=self.space),
            limits=Limits.default(10),
            kernel=kernel,
            credentials=credentials,
            pid=1,
            signal_queue=WaitQueue(),
            pending=SimpleNamespace(mask=0),
        )
        for name, value in process.items():
            setattr(self.process, name, value)
        self.interrupted = False
        self.dying = False
        self._waiting: asyncio.Future[bool] | None = None

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def wait(self, *queues: WaitQueue, until: int | None = None) -> bool:
        if self.interrupted:
            raise SyscallError(ERESTARTSYS)
        try:
            return await wait.wait(queues, until, self._begin)
        finally:
            self._waiting = None

    def _begin(self, waiting: asyncio.Future[bool]) -> None:
        self._waiting = waiting

    def interrupt(self) -> None:
        self.interrupted = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(SyscallError(ERESTARTSYS))

    async def begin(self, call: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """Start a call that has to wait; returns when it waits."""
        running = asyncio.ensure_future(call)
        async with asyncio.timeout(SECONDS):
            while self._waiting is None:
                assert not running.done(), f"it did not wait: {running}"
                await asyncio.sleep(0)
        return running


async def result(running: asyncio.Task[int]) -> int:
    """What the call answered."""
    async with asyncio.timeout(SECONDS):
        return await running
