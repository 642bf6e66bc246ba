"""What /proc tells about the sandbox as a whole: processors, memory, times. Source: proc(5), fs/proc/*.c.

Of the host there is only what a guest can find out by itself: its processor's name and features, the kernel's name and time.
"""

from __future__ import annotations

import functools
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from asynckvm.linux.kernel import Kernel

TICKS: Final = 100
TICK_NS: Final = 1_000_000_000 // TICKS
# Of a processor what is the same for all of them, and true of the guest too.
_CPU_FIELDS: Final = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "cpu MHz", "cache size",
    "fpu", "fpu_exception", "cpuid level", "wp", "flags", "bugs", "bogomips", "TLB size", "clflush size",
    "cache_alignment", "address sizes", "power management",
)  # fmt: skip
_PLACE: Final = ("physical id", "siblings", "core id", "cpu cores", "apicid", "initial apicid")


def processors(kernel: Kernel) -> int:
    """How many the sandbox may use."""
    return kernel.processors


def memory_pages(kernel: Kernel) -> tuple[int, int]:
    """Pages of memory there are, and how many of them are free."""
    total, free = kernel.memory_shown()
    return total // PAGE, free // PAGE


@functools.cache
def _first_processor() -> Mapping[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return dict(re.findall(r"^([^\t:]+)\t*: ?(.*)$", text, re.MULTILINE))


def _cpuinfo(kernel: Kernel) -> Iterator[bytes]:
    count, host = processors(kernel), _first_processor()
    for number in range(count):
        fields = {"processor": str(number)}
        for name in _CPU_FIELDS[:8]:
            fields[name] = host.get(name, "")
        place = (0, count, number, count, number, number)
        fields |= {name: str(value) for name, value in zip(_PLACE, place, strict=True)}
        for name in _CPU_FIELDS[8:]:
            fields[name] = host.get(name, "")
        lines = [f"{name}{_tabs(name)}: {value}\n" for name, value in fields.items() if value or name == "power management"]
        yield "".join(lines).encode() + b"\n"


def _tabs(name: str) -> str:
    """Names are two tab stops wide, the longer ones one more column."""
    return "\t\t" if len(name) < 8 else "\t" if len(name) < 16 else ""


def _meminfo(kernel: Kernel) -> Iterator[bytes]:
    total, free = memory_pages(kernel)
    rows = {
        b"MemTotal": total, b"MemFree": free, b"MemAvailable": free, b"Buffers": 0, b"Cached": 0, b"SwapCached": 0,
        b"Active": total - free, b"Inactive": 0, b"SwapTotal": 0, b"SwapFree": 0, b"Dirty": 0, b"Writeback": 0,
        b"AnonPages": total - free, b"Mapped": 0, b"Shmem": 0, b"KReclaimable": 0, b"Slab": 0,
        b"SReclaimable": 0, b"SUnreclaim": 0, b"CommitLimit": total,
        b"Committed_AS": total - free,
    }  # fmt: skip
    for name, pages in rows.items():
        yield b"%-15s %8d kB\n" % (name + b":", pages * PAGE // 1024)
    yield b"HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n"
    yield b"Hugepagesize:       2048 kB\n"


def _stat(kernel: Kernel) -> Iterator[bytes]:
    uptime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    counted = kernel.machine.counters().vcpus
    used = [vcpu.busy_ns // TICK_NS for vcpu in counted]
    idle = [max(0, uptime // TICK_NS - busy) for busy in used]
    row = b"%s %d 0 0 %d 0 0 0 0 0 0\n"
    yield row % (b"cpu ", sum(used), sum(idle))
    for number, (busy, rest) in enumerate(zip(used, idle, strict=True)):
        yield row % (b"cpu%d" % number, busy, rest)
    running = kernel.running
    switches = sum(vcpu.runs for vcpu in counted)
    yield b"intr 0\nctxt %d\nbtime %d\n" % (switches, (time.time_ns() - uptime) // 1_000_000_000)
    yield b"processes %d\nprocs_running %d\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n" % (len(kernel.tasks), running)


def _uptime(kernel: Kernel) -> Iterable[bytes]:
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    busy = sum(vcpu.busy_ns for vcpu in kernel.machine.counters().vcpus) / 1e9
    return (b"%.2f %.2f\n" % (up, max(0.0, up * processors(kernel) - busy)),)


def _loadavg(kernel: Kernel) -> Iterable[bytes]:
    """No history is kept: all three averages are what runs now."""
    running = kernel.running
    last = max(kernel.tasks, default=0)
    return (b"%.2f %.2f %.2f %d/%d %d\n" % (running, running, running, running, len(kernel.tasks), last),)


def _version(kernel: Kernel) -> Iterable[bytes]:  # noqa: ARG001
    host = os.uname()
    return (os.fsencode(f"{host.sysname} version {host.release} {host.version}\n"),)


def _filesystems(kernel: Kernel) -> Iterator[bytes]:
    for name in kernel.mounts.kinds:
        yield b"nodev\t%s\n" % name


def _cmdline(kernel: Kernel) -> Iterable[bytes]:  # noqa: ARG001
    return (b"\n",)


def _devices(kernel: Kernel) -> Iterable[bytes]:  # noqa: ARG001
    return (b"Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n",)


def _nothing(kernel: Kernel) -> Iterable[bytes]:  # noqa: ARG001
    return ()


def _swaps(kernel: Kernel) -> Iterable[bytes]:  # noqa: ARG001
    return (b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",)


TEXTS: Final[Mapping[bytes, Callable[[Kernel], Iterable[bytes]]]] = {
    b"cmdline": _cmdline,
    b"cpuinfo": _cpuinfo,
    b"devices": _devices,
    b"filesystems": _filesystems,
    b"loadavg": _loadavg,
    b"meminfo": _meminfo,
    b"modules": _nothing,
    b"partitions": _nothing,
    b"stat": _stat,
    b"swaps": _swaps,
    b"uptime": _uptime,
    b"version": _version,
}
