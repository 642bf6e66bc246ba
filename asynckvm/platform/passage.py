"""A context's passage through the engine: its native memory, its state, and the awaitable that `switch()` waits on.

One reusable object a context instead of a future an exit. It speaks asyncio's future protocol as far as a Task needs it
(`_asyncio_future_blocking`, `_loop`, `add_done_callback`, `cancel`, `result`), so a coroutine can `await` it directly; the engine
calls the Task's wake-up itself (`wake`). Not for anybody else to await, and nothing is decided here.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, Protocol

from asynckvm.model.states import ContextState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

    from asynckvm.model.exits import Exit
    from asynckvm.platform.binding import Handle

__all__ = ["IDLE", "QUEUED", "RETURNING", "RUNNING", "Passage", "RunsPassages"]

# Plain ints: an enum member costs a dictionary look-up at each use.
IDLE = int(ContextState.IDLE)
QUEUED = int(ContextState.QUEUED)
RUNNING = int(ContextState.RUNNING)
RETURNING = int(ContextState.RETURNING)


class RunsPassages(Protocol):
    """What a passage asks of the engine."""

    def cancel(self, passage: Passage, message: Any) -> bool:
        """Make the passage end with CancelledError once its vCPU gave it back; False when it has already ended."""


class Passage:
    """State of one context between `switch()` calls and during one. Thread: loop."""

    __slots__ = (
        "__weakref__",
        "_asyncio_future_blocking",
        "_loop",
        "callback",
        "callback_context",
        "cancelling",
        "engine",
        "error",
        "exit",
        "fields",
        "index",
        "native",
        "number",
        "operation",
        "pending",
        "sent",
        "state",
        "watch",
        "words",
    )

    def __init__(
        self,
        engine: RunsPassages,
        loop: asyncio.AbstractEventLoop,
        native: Handle,
        views: tuple[memoryview, memoryview],
        index: int,
        number: int,
    ) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self.engine = engine
        self.native = native
        self.words, self.fields = views
        self.index = index  # names the native context; reused after close
        self.number = number  # names it in logs; never reused
        self.state = IDLE
        self.exit: Exit | None = None  # of the last run, until a switch() returns it
        self.error: BaseException | None = None  # what switch() raises instead
        self.pending = 0  # interrupt bits for the next switch()
        self.sent = 0  # interrupt bits sent to the run in flight
        self.cancelling = False  # the waiting task was cancelled
        self.operation = False  # a ring-0 operation, not a guest thread
        self.watch: Callable[[Passage, Exit | None], None] | None = None
        self.callback: Callable[[Any], object] | None = None
        self.callback_context: Any = None

    def __await__(self) -> Generator[Passage, None, None]:
        self._asyncio_future_blocking = True
        # An error is thrown in here by the Task, which found it in result().
        yield self

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None) -> None:
        """Part of the future protocol: the Task that waits; there is never more than one."""
        if self.callback is not None:
            raise RuntimeError("only one task may wait for a context")
        self.callback = callback
        self.callback_context = contextvars.copy_context() if context is None else context

    def cancel(self, msg: Any = None) -> bool:
        """Part of the future protocol: asks for an end that comes only when the vCPU has given the context back."""
        return self.engine.cancel(self, msg)

    def done(self) -> bool:
        """Part of the future protocol."""
        return self.state == RETURNING

    def cancelled(self) -> bool:
        """Part of the future protocol."""
        return self.state == RETURNING and self.cancelling

    def result(self) -> None:
        """Part of the future protocol: raises what switch() shall raise."""
        error = self.error
        if error is not None:
            self.error = None
            raise error

    def wake(self) -> None:
        """Resume the waiting task now, in its own contextvars. Only from a bare loop callback: no task may be current.

        Whatever the coroutine raises ends in its Task; only KeyboardInterrupt and SystemExit come out.
        """
        if self.state != RETURNING:
            return  # the coroutine left without us, and may be on its next run by now
        callback = self.callback
        if callback is None:
            self.state = IDLE  # the coroutine that waited is gone
            self.cancelling = False
            self.error = None
            return
        self.callback = None
        self.callback_context.run(callback, self)
