"""What all objects of one machine share: the native handle, whether it may still be used, and the burial of dropped objects.

Also the register of live machines, and what happens to them in a child of os.fork(). Knows nothing of scheduling.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, HostForkedError
from asynckvm.model.states import MACHINE_TRANSITIONS, MachineEvent, MachineState, advance

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from asynckvm.errors import AsyncKvmError
    from asynckvm.platform.binding import Binding, Handle

__all__ = ["Core"]

# What still runs when its owner drops it is asked again after this time.
_AGAIN_S: Final = 0.05

_numbers = itertools.count(1)
_cores: weakref.WeakSet[Core] = weakref.WeakSet()


class Core:
    """Handle and life of one machine. Thread: loop, except `bury` and `check`."""

    def __init__(self, binding: Binding, native: Handle, loop: asyncio.AbstractEventLoop) -> None:
        self.binding: Final = binding
        self.native: Final = native
        self.loop: Final = loop
        self.number: Final = next(_numbers)
        self.state = MachineState.OPEN
        # Burials by rank: contexts (0) before what they stand on (1).
        self._graves: tuple[deque[Callable[[], bool]], deque[Callable[[], bool]]] = (deque(), deque())
        self._digging = False
        _cores.add(self)

    def advance(self, event: MachineEvent) -> None:
        """Move the machine's state by the table."""
        self.state = MachineState(advance(MACHINE_TRANSITIONS, self.state, event))

    @property
    def usable(self) -> bool:
        """Whether native calls are allowed."""
        return self.state is MachineState.OPEN or self.state is MachineState.CLOSING

    def check(self) -> None:
        """Raise unless the machine is open."""
        if self.state is not MachineState.OPEN:
            raise self.refusal()

    def refusal(self) -> AsyncKvmError:
        """Why the machine may not be used."""
        if self.state is MachineState.FORKED:
            return HostForkedError("this process is a fork: open a machine of its own, or fork before opening one")
        return ClosedError(f"machine {self.number} is closed")

    def bury(self, rank: int, release: Callable[[], bool]) -> None:
        """Have the loop thread release an object that was dropped without close(). `release` returns False to be asked again.

        Thread: any, including finalizers.
        """
        if not self.usable:
            return
        self._graves[rank].append(release)
        if not self._digging:
            self._digging = True
            try:
                self.loop.call_soon_threadsafe(self.dig)
            except RuntimeError:
                self._digging = False  # the loop is closed; the native close takes everything with it

    def dig(self) -> None:
        """Release what was buried. Thread: loop."""
        self._digging = False
        for graves in self._graves:
            for _ in range(len(graves)):
                if not self.usable:
                    graves.clear()
                    break
                release = graves.popleft()
                if not release():
                    graves.append(release)
        if any(self._graves) and self.usable and not self.loop.is_closed():
            self._digging = True
            self.loop.call_later(_AGAIN_S, self.dig)


def _after_fork_in_child() -> None:
    for core in list(_cores):
        core.advance(MachineEvent.FORK)


os.register_at_fork(after_in_child=_after_fork_in_child)
