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
    rights = b"%c%c%c%c" % (
        b"r" if access & Access.READ else b"-",
        b"w" if access & Access.WRITE else b"-",
        b"x" if access & Access.EXECUTE else b"-",
        b"s" if region.shared else b"p",
    )
    line = b"%08x-%08x %s %08x 00:00 %d " % (region.start, region.end, rights, region.offset, region.file)
    name = _name(process, region)
    return line.ljust(_NAME_COLUMN) + name + b"\n" if name else line + b"\n"


def _name(process: Process, region: Region) -> bytes:
    memory, program = process.memory, process.program
    loaded = program.loaded
    if loaded.vdso[0] <= region.start < loaded.vdso[1]:
        return b"[vdso]" if region.access & Access.EXECUTE else b"[vvar]"
    if region.file:
        name = memory.names.get(region.file)
        if name is None and program.location is not None and loaded.code[0] - PAGE <= region.start < loaded.heap:
            name = program.location.path  # what the loader mapped
        return (name or b"").replace(b"\n", b"\\012")
    if loaded.stack[0] <= region.start < loaded.stack[1]:
        return b"[stack]"
    # Zeroed memory of the program right before the heap may be one region with it.
    return b"[heap]" if region.start < memory.heap_end and memory.heap_start < region.end else b""
