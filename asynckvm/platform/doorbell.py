"""How the loop sleeps and wakes: poll a little where that is free, arm the eventfd, be woken by it.

A wake-up is never lost: sleeping is allowed only after `akvm_machine_arm` said that no completion is there, and from then on
the core writes the eventfd for the next one. Polling costs a processor, so it happens only when one is left over
beside the busy vCPUs, and the less often the less it succeeds.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.model.config import EngineConfig
    from asynckvm.platform.core import Core

__all__ = ["Doorbell"]

# After polling in vain it is left out of so many rests at most, doubling with each failure in a row.
_MOST_SKIPPED: Final = 15


class Doorbell:
    """The eventfd of one machine in its event loop. Thread: loop."""

    def __init__(self, core: Core, config: EngineConfig, vcpus: int, turn: Callable[[], None]) -> None:
        self._machine = core.native
        self._loop = core.loop
        self._arm = core.binding.arm
        self._poll = core.binding.poll
        self._turn = turn
        self._vcpus = vcpus
        self._cpus = config.cpus
        self._spin_ns = config.spin_ns
        self._penalty = 0  # sleeps without polling after the last failure
        self._skip = 0
        self._fd = core.binding.lib.akvm_machine_doorbell(self._machine)
        self.armed = False
        self.rings = self.polls = self.hits = 0
        self._loop.add_reader(self._fd, self._rang)

    def rest(self, flight: int) -> bool:
        """Nothing was drained: may the loop sleep? False when completions have come meanwhile."""
        if self._spin_ns and min(flight, self._vcpus) < self._cpus:
            if self._skip:
                self._skip -= 1
            elif self._try_polling():
                return False
        if self._arm(self._machine):
            return False
        self.armed = True
        return True

    def expect(self) -> None:
        """A completion is certain to come soon, as after a kick: poll for it, whatever polling was good for lately."""
        self._skip = self._penalty = 0

    def _try_polling(self) -> bool:
        self.polls += 1
        if self._poll(self._machine, self._spin_ns):
            self.hits += 1
            self._penalty = 0
            return True
        self._penalty = min(_MOST_SKIPPED, self._penalty * 2 + 1)
        self._skip = self._penalty
        return False

    def close(self) -> None:
        """Take the eventfd out of the loop; it belongs to the core. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        self.armed = False

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self.armed = False
        self.rings += 1
        self._turn()
