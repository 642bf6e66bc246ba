"""A hostile guest thread: runs it to its next exit, keeps account of the interrupts it is owed, and judges what comes back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from typing import TYPE_CHECKING, Final

from fuzz.judge import SIGKILL, BrokenError, legal

from asynckvm.errors import GuestTrapError, InternalError
from asynckvm.platform import Fault, Interrupted, InterruptReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.platform import Context, Exit

_BOUNCED: Final = Interrupted(InterruptReason.BOUNCED)


class Thread:
    """One context after the other, each for one case: `begin`, `exit` again and again, `end`.

    `deadline`: when the run under way is to be bounced, and `bounced`: when it was; both 0 while none is. `watch` looks at them.
    `starves`: whether its memory may be at the limit.
    """

    def __init__(self, patience: float, starves: Callable[[], bool]) -> None:
        self._patience = patience
        self._starves = starves
        self._task: asyncio.Task[object] | None = None
        self._cancelling = False  # the run under way was cancelled
        self._kept = False  # the run before was cancelled: its exit, if it had one, comes first now
        self._owed = False  # an interrupt was asked for and not yet reported
        self.failure: BrokenError | None = None  # found elsewhere; the run ends with it
        self.context: Context | None = None
        self.deadline = 0.0
        self.bounced = 0.0
        self.exits: collections.Counter[str | int] = collections.Counter()  # by name, faults by vector

    def begin(self, context: Context) -> None:
        self.context = context
        self._owed = self._kept = False

    def end(self) -> None:
        if self.context is not None:
            self.context.close()
            self.context = None

    def interrupt(self) -> None:
        """Ask for an exit now, or at the next run."""
        if self.context is not None:
            self._owed = True
            self.context.interrupt()

    def cancel(self) -> None:
        """Cancel the run under way, as whoever waits for it may be."""
        if self.deadline and not self._cancelling and self._task is not None:
            self._cancelling = True
            self._task.cancel()

    def watch(self, now: float, late: float) -> bool:
        """Bounce a run that takes too long: True when that was done now. BrokenError when it was done long ago."""
        if not self.deadline or now < self.deadline:
            return False
        if not self.bounced:
            self.bounced = now
            self.interrupt()
            return True
        if now - self.bounced > late:
            raise BrokenError(f"bounced {now - self.bounced:.3f} s ago and still running")
        return False

    async def exit(self) -> Exit | None:
        """The next exit, judged; None when the run was cancelled before there was one. Raises BrokenError."""
        context = self.context
        assert context is not None
        before = context.words[:20].tolist()
        owed, kept = self._owed, self._kept
        self._kept = self._cancelling = False
        self._task = asyncio.current_task()
        self.deadline = time.monotonic() + self._patience
        exit_: Exit | None = None
        try:
            exit_ = await context.switch()
        except asyncio.CancelledError:
            if not self._cancelling:
                raise
        except (GuestTrapError, InternalError) as error:
            raise BrokenError(f"{type(error).__name__}: {error}\n{getattr(error, 'dump', '')}") from error
        finally:
            self.deadline = self.bounced = 0.0
        if self.failure is not None:
            raise self.failure
        if self._cancelling:
            self._kept = exit_ is None
            await self._absorb(thrown=exit_ is None)
        if exit_ is not None:
            self._judge(context, exit_, before, owed=owed, kept=kept)
        return exit_

    async def _absorb(self, *, thrown: bool) -> None:
        """Take the cancellation back; one that came when the run had ended is still to be thrown."""
        assert self._task is not None
        if not thrown:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        self._task.uncancel()

    def _judge(self, context: Context, exit_: Exit, before: list[int], *, owed: bool, kept: bool) -> None:
        self.exits[exit_.vector if isinstance(exit_, Fault) else type(exit_).__name__] += 1
        if exit_ == _BOUNCED:
            if not self._owed:
                raise BrokenError("bounced, but nobody asked for it")
            self._owed = False
        elif owed and not kept:
            raise BrokenError(f"an interrupt that was pending was not reported: {exit_}")
        starves = isinstance(exit_, Fault) and exit_.signal == SIGKILL and self._starves()
        complaint = legal(exit_, before, context.words[:20].tolist(), may_starve=starves)
        if complaint:
            raise BrokenError(f"{complaint}: {exit_}")
