"""Stopped and continued: the state of a process under job control, and what its parent has yet to hear of it.

Who stops and who continues is `deliver`'s and `send`'s business. Source: signal(7), waitid(2), kernel/signal.c (do_signal_stop).
"""

from __future__ import annotations

import asyncio

from asynckvm.linux.signals.numbers import CLD_CONTINUED, CLD_STOPPED


class Job:
    """Of one process. `stopped`: the signal that stopped it, 0 while it runs.

    `news`: CLD_STOPPED or CLD_CONTINUED until a wait of the parent has taken it, else 0; `stopped` is the status of the first.
    """

    def __init__(self) -> None:
        self.stopped = 0
        self.news = 0
        self._resumed: asyncio.Event | None = None

    def stop(self, number: int) -> None:
        self.stopped = number
        self.news = CLD_STOPPED

    def resume(self) -> bool:
        """Let every thread go on; False when none was stopped."""
        if not self.stopped:
            return False
        self.stopped = 0
        self.news = CLD_CONTINUED
        self.release()
        return True

    def release(self) -> None:
        """Wake the threads that wait, to look again: continued, or the process has ended."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def wait(self) -> None:
        """Until somebody calls `resume` or `release`."""
        if self._resumed is None:
            self._resumed = asyncio.Event()
        await self._resumed.wait()
