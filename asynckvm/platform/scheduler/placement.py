"""Which vCPU gets a context: an idle one first, else the one it ran on last, else the least loaded with room.

Keeps, for each depth, the set of vCPUs whose mailbox is that deep as one integer, so that a choice costs a few bit operations
whatever the number of vCPUs. Depth counts what was *submitted to* a vCPU and has not come back: idle vCPUs steal natively, which
changes where a context runs but not whose mailbox it was counted in.
"""

from __future__ import annotations

from asynckvm.platform.scheduler.entity import NOWHERE

__all__ = ["Placement"]


class Placement:
    """Mailbox depths of all vCPUs."""

    __slots__ = ("_depths", "_sets", "capacity", "flight", "vcpus")

    def __init__(self, vcpus: int, capacity: int) -> None:
        self.vcpus = vcpus
        self.capacity = capacity
        self.flight = 0
        self._depths = [0] * vcpus
        # _sets[d]: bit v is set when vCPU v has depth d; the last one is never looked at by choose().
        self._sets = [0] * (self.capacity + 1)
        self._sets[0] = (1 << vcpus) - 1

    def choose(self, last: int, capacity: int) -> int:
        """A vCPU with room for a context that last ran on `last`; NOWHERE when every mailbox is `capacity` deep."""
        sets = self._sets
        idle = sets[0]
        if idle:
            if last >= 0 and idle >> last & 1:
                return last
            return (idle & -idle).bit_length() - 1
        if last >= 0 and self._depths[last] < capacity:
            return last
        for depth in range(1, capacity):
            room = sets[depth]
            if room:
                return (room & -room).bit_length() - 1
        return NOWHERE

    def add(self, vcpu: int) -> None:
        """One context more in a mailbox."""
        depth = self._depths[vcpu]
        bit = 1 << vcpu
        self._sets[depth] ^= bit
        self._sets[depth + 1] ^= bit
        self._depths[vcpu] = depth + 1
        self.flight += 1

    def drop(self, vcpu: int) -> None:
        """One context less."""
        depth = self._depths[vcpu]
        bit = 1 << vcpu
        self._sets[depth] ^= bit
        self._sets[depth - 1] ^= bit
        self._depths[vcpu] = depth - 1
        self.flight -= 1

    def depth(self, vcpu: int) -> int:
        """Contexts submitted to a vCPU that have not come back."""
        return self._depths[vcpu]
