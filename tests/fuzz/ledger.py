"""What this process and the machine hold, for comparison: frames, tables, spaces, contexts, threads, descriptors, memory, and the
registers of the vCPUs that guests must not reach."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.judge import BrokenError

from asynckvm.errors import GuestOperationError
from asynckvm.platform import ReadMsr
from support.descriptors import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.platform import Machine

# EFER, STAR, LSTAR, CSTAR, SFMASK, SYSENTER_CS, PAT.
_MSRS: Final = (0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0x174, 0x277)
# Host memory may grow by what allocators and caches keep; a leak of one page in a hundred cases is beyond it soon enough.
RSS_SLACK_KB: Final = 24 << 10
_POLL_SECONDS: Final = 0.002


class Holdings(NamedTuple):
    """What must be the same whenever no attacker holds anything."""

    frames: int
    tables: int
    spaces: int
    limbo: int
    contexts: int
    files: int
    threads: int
    descriptors: int


def descriptors() -> int:
    """Open descriptors of this process."""
    return count()


def holdings(machine: Machine) -> Holdings:
    counters = machine.counters()
    memory = counters.memory
    return Holdings(
        memory.frames_used,
        memory.tables_used,
        memory.spaces,
        memory.limbo_frames,
        counters.contexts,
        memory.file_slots,
        len(os.listdir("/proc/self/task")),
        descriptors(),
    )


def resident_kb() -> int:
    """Anonymous memory of this process: what C and Python have allocated, without the guests' frames."""
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0])


async def model_registers(machine: Machine) -> dict[int, list[int | None]]:
    """Of every vCPU; None where this KVM has no such register."""
    found: dict[int, list[int | None]] = {}
    for index in _MSRS:
        try:
            found[index] = [*await machine.retry_in_guest(ReadMsr(index), "all")]
        except GuestOperationError as error:
            if error.vector is None:
                raise
            found[index] = [None]
    return found


class Ledger:
    """Opened when the witnesses exist and no attacker does; `check()` at any later such moment."""

    def __init__(self, machine: Machine, clock: Callable[[], float], bound: float) -> None:
        self._machine = machine
        self._clock = clock
        self._bound = bound
        self._opening = holdings(machine)
        self._registers: dict[int, list[int | None]] = {}
        self._resident_kb = 0
        self.checks = 0
        self.grown_kb = 0

    async def open(self) -> None:
        self._registers = await model_registers(self._machine)
        await asyncio.sleep(0)
        self._opening = holdings(self._machine)

    async def check(self) -> None:
        """Raises BrokenError when something is missing or left over and stays so."""
        until = self._clock() + self._bound
        while (found := holdings(self._machine)) != self._opening:
            if self._clock() > until:
                pairs = zip(Holdings._fields, self._opening, found, strict=True)
                raise BrokenError("leaked: " + ", ".join(f"{name} {a} -> {b}" for name, a, b in pairs if a != b))
            await asyncio.sleep(_POLL_SECONDS)
        registers = await model_registers(self._machine)
        if registers != self._registers:
            raise BrokenError(f"model-specific registers changed: {self._registers} -> {registers}")
        self.checks += 1
        self._check_memory()

    def _check_memory(self) -> None:
        """Against the first check, when everything has been in use once."""
        now = resident_kb()
        if not self._resident_kb:
            self._resident_kb = now
        self.grown_kb = max(self.grown_kb, now - self._resident_kb)
        if now - self._resident_kb > RSS_SLACK_KB:
            raise BrokenError(f"memory grew from {self._resident_kb} to {now} KiB")
