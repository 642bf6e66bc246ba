"""Under what conditions a benchmark ran: host, platforms, versions, and how much of the machine others used meanwhile.

Nothing is judged here: numbers from a busy machine are shown as such, not refused.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm import __version__
from asynckvm.errors import AsyncKvmError, NoPlatformError
from asynckvm.platform import Machine, choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.model.config import PlatformChoice, PlatformName

__all__ = ["CpuUse", "conditions", "platforms", "works"]

PLATFORM_NAMES: Final[tuple[PlatformName, ...]] = ("kvm", "ptrace")

THP: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CLOCKSOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def _line(path: Path, key: str = "") -> str:
    """What follows `key` and a colon on the first line that starts with it; "" when there is none."""
    try:
        with path.open() as lines:
            found = next((line for line in lines if line.startswith(key)), "")
    except OSError:
        return ""
    return found.removeprefix(key).strip().removeprefix(":").strip()


async def platforms(asked: Sequence[PlatformChoice]) -> dict[PlatformName, dict[str, object]]:
    """What each platform of this host offers: of those asked for by name, or of all that work.

    "auto", and nothing at all, is what ASYNCKVM_PLATFORM names, or all. Errors are asynckvm.errors: of one that was asked for, or
    when none works.
    """
    chosen = {choice.chosen(name) for name in asked or ("auto",)}
    found: dict[PlatformName, dict[str, object]] = {}
    refused: dict[PlatformName, AsyncKvmError] = {}
    for name in PLATFORM_NAMES:
        if name not in chosen and "auto" not in chosen:
            continue
        try:
            found[name] = await _offer(name)
        except AsyncKvmError as error:
            if name in chosen or not choice.unusable(error):
                raise
            refused[name] = error
    if not found:
        raise NoPlatformError(refused["kvm"], refused["ptrace"])
    return found


async def works(name: PlatformName) -> bool:
    """Whether a platform runs guests here."""
    try:
        await _offer(name)
    except AsyncKvmError as error:
        if not choice.unusable(error):
            raise
        return False
    return True


async def _offer(name: PlatformName) -> dict[str, object]:
    async with Machine.open(platform=name, vcpus=1, memory=64 << 20) as machine:
        return machine.capabilities.of_platform()


def conditions() -> dict[str, object]:
    """What does not change during a run."""
    return {
        "asynckvm": __version__,
        "python": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "kernel": platform.release(),
        "cpu": _line(Path("/proc/cpuinfo"), "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "clocksource": _line(CLOCKSOURCE),
        "transparent_hugepage": _line(THP),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


class CpuUse(NamedTuple):
    """CPU time since boot in clock ticks: of the whole machine, and of this process with the children it has waited for."""

    busy: int
    stolen: int
    total: int
    own: float

    @classmethod
    def now(cls) -> CpuUse:
        user, nice, system, idle, waiting, irq, soft, stolen = map(int, _line(Path("/proc/stat"), "cpu ").split()[:8])
        busy = user + nice + system + irq + soft
        own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        return cls(busy, stolen, busy + idle + waiting + stolen, own)

    def since(self, earlier: CpuUse) -> dict[str, object]:
        """Shares of the whole machine between the two: used by other processes, and taken by the hypervisor."""
        total = max(1, self.total - earlier.total)
        others = self.busy - earlier.busy - (self.own - earlier.own)
        return {
            "used_by_others": round(max(0.0, others / total), 3),
            "stolen": round((self.stolen - earlier.stolen) / total, 3),
            "load_after": [round(load, 2) for load in os.getloadavg()],
        }
