"""/proc/PID/maps and smaps: the regions of an address space, a few at a time however many there are.

Source: proc_pid_maps(5), proc_pid_smaps(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asynckvm.model.memory import PAGE, USER_MAX, Access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task
    from asynckvm.model.memory import Region

# Where the name of a mapping begins, as columns from the start of the line.
_NAME_COLUMN = 73
_REGIONS_COUNTED = 4096


def regions(process: Process) -> Iterator[Region]:
    """All regions, in order; the memory may change while they are looked at."""
    address = 0
    while not process.exited and address < USER_MAX and (region := process.memory.space.region(address)) is not None:
        yield region
        address = region.end


def size_of(process: Process) -> int:
    """Bytes mapped, by as many regions as one call may count."""
    total = 0
    for _, region in zip(range(_REGIONS_COUNTED), regions(process), strict=False):
        total += region.end - region.start
    return total


def maps(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    for region in regions(process):
        yield _line(process, region)


def smaps(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    for region in regions(process):
        yield _line(process, region) + b"Size:           %8d kB\n" % ((region.end - region.start) // 1024)
        yield b"KernelPageSize:        4 kB\nMMUPageSize:           4 kB\n"


def rollup(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    if not process.exited:
        resident = process.memory.space.resident * PAGE // 1024
        yield b"%08x-%08x ---p 00000000 00:00 0 %s\n" % (0, USER_MAX, b"[rollup]".rjust(32))
        for name in (b"Rss", b"Pss", b"Private_Dirty", b"Anonymous"):
            yield b"%-15s %8d kB\n" % (name + b":", resident)


def _line(process: Process, region: Region) -> bytes:
    access = region.access
    rights = b"%c%c%cp" % (
        b"r" if access & Access.READ else b"-",
        b"w" if access & Access.WRITE else b"-",
        b"x" if access & Access.EXECUTE else b"-",
    )
    line = b"%08x-%08x %s %08x 00:00 %d " % (region.start, region.end, rights, region.offset, region.file)
    name = _name(process, region)
    return line.ljust(_NAME_COLUMN) + name + b"\n" if name else line + b"\n"


def _name(process: Process, region: Region) -> bytes:
    # Which file a number stands for is the memory's to know, once it keeps count of that.
    name_of = getattr(process.memory, "name_of", None)
    if name_of is not None and (name := name_of(region)):
        return bytes(name).replace(b"\n", b"\\012")
    loaded = process.program.loaded
    if region.file:
        return b""
    if loaded.stack[0] <= region.start < loaded.stack[1]:
        return b"[stack]"
    if loaded.vdso[0] <= region.start < loaded.vdso[1]:
        return b"[vdso]" if _is_code(region) else b"[vvar]"
    return b"[heap]" if loaded.heap <= region.start < process.memory.brk(0) else b""


def _is_code(region: Region) -> bool:
    return bool(region.access & Access.EXECUTE)
