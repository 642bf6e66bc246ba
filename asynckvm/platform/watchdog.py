"""Watches runs that were told to return: one that does not is reported and told again.

Hangs, not crashes, are what cannot be diagnosed afterwards, so the report is made while the run still hangs. Only interrupted
runs are watched: a guest may compute for as long as nobody wants anything of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from asynckvm.platform.passage import Passage

__all__ = ["Watchdog"]


class Watchdog:
    """Interrupted runs and when each is overdue. Thread: loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound_ns: int, overdue: Callable[[Passage, int], None]) -> None:
        self._loop = loop
        self._bound_ns = bound_ns
        self._overdue = overdue
        self._since: dict[Passage, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, passage: Passage) -> None:
        """The run was interrupted now; the first interrupt of a run counts."""
        self._since.setdefault(passage, time.monotonic_ns())
        if self._timer is None:
            self._timer = self._loop.call_later(self._bound_ns / 1e9, self._look)

    def forget(self, passage: Passage) -> None:
        """The run has returned."""
        self._since.pop(passage, None)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._since.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic_ns()
        for passage, since in list(self._since.items()):
            if now - since >= self._bound_ns:
                self._overdue(passage, now - since)
        if self._since:
            oldest = min(self._since.values())
            delay = max(oldest + self._bound_ns - now, self._bound_ns // 2)
            self._timer = self._loop.call_later(delay / 1e9, self._look)
