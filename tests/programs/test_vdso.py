"""The vDSO in a guest: right, never backwards, in step with the system calls, and without an exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from asynckvm.linux import loader
from asynckvm.linux.clock_page import ClockPage
from asynckvm.linux.files.host import HostDescriptor
from asynckvm.linux.loader import Loaded
from asynckvm.linux.vdso import Vdso
from asynckvm.model.exits import Instruction, Syscall
from asynckvm.model.memory import PAGE, Access
from asynckvm.model.registers import RegisterIndex
from asynckvm.platform import AddressSpace, Context, Machine
from support.pace import paced

SOURCE = Path(__file__).parent / "sources" / "clocks.c"
BEGIN, READ, COMPARED = 1000, 1001, 1002
GETTIMEOFDAY, TIME, CLOCK_GETTIME, EXIT_GROUP = 96, 201, 228, 231


class Report(NamedTuple):
    """struct report of the guest."""

    reads: int
    backward: int
    worst_backward: int
    pairs: int
    after_call: int
    before_call: int
    realtime_after_call: int
    realtime_before_call: int
    microseconds_off: int
    seconds_off: int
    resolution: int
    cpu: int


class Run(NamedTuple):
    status: int
    # System calls made up to each report.
    calls: dict[int, Counter[int]]
    reports: dict[int, Report]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    target = tmp_path / "clocks"
    options = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-mgeneral-regs-only", "-O1", "-w"]
    subprocess.run(["gcc", *options, str(SOURCE), "-o", str(target)], check=True, timeout=60)
    return target


def _no_interpreter(name: bytes) -> HostDescriptor:
    raise AssertionError(f"a static program asked for {name!r}")


@contextlib.asynccontextmanager
async def loaded(machine: Machine, path: Path, page: ClockPage) -> AsyncIterator[tuple[AddressSpace, Context, Loaded]]:
    space = machine.create_address_space()
    file = HostDescriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.O_RDONLY)
    with contextlib.closing(file), contextlib.closing(Vdso(machine, page)) as vdso:
        executable = loader.prepare(file, _no_interpreter, b"clocks", [b"clocks"], [])
        where = loader.load(space, machine, executable, {}, vdso=vdso)
        executable.close()
        context = machine.create_context(space)
        context.registers = context.registers.replace(rip=where.entry, rsp=where.stack_pointer)
        try:
            yield space, context, where
        finally:
            context.close()
            space.close()


async def run(machine: Machine, path: Path, page: ClockPage, *, wait: bool) -> Run:
    """Answer the few calls this guest makes. `wait`: begin when the page is valid."""
    calls: Counter[int] = Counter()
    result = Run(-1, {}, {})
    async with asyncio.timeout(paced(40)), loaded(machine, path, page) as (space, context, _):
        while True:
            exit_ = await context.switch()
            assert isinstance(exit_, Syscall), exit_
            assert exit_.instruction is Instruction.SYSCALL
            number, (first, second, *_) = exit_.number, exit_.args
            calls[number] += 1
            context.words[RegisterIndex.rax] = 0
            if number == EXIT_GROUP:
                return result._replace(status=first)
            if number == CLOCK_GETTIME:
                space.write(second, struct.pack("<qq", *divmod(time.clock_gettime_ns(first), 1_000_000_000)))
            elif number == GETTIMEOFDAY:
                space.write(first, struct.pack("<qq", *divmod(time.time_ns() // 1000, 1_000_000)))
            elif number == TIME:
                context.words[RegisterIndex.rax] = int(time.time())
            elif number == BEGIN:
                while wait and not page.valid:
                    await asyncio.sleep(0.005)
            else:
                result.reports[number] = Report._make(struct.unpack("<12q", space.read(first, 96)))
                result.calls[number] = calls.copy()


async def test_a_guest_reads_clocks_by_itself(machine: Machine, program: Path) -> None:
    if not machine.capabilities.tsc_offset_exact:
        pytest.skip("guests of this KVM do not see the host's time stamp counter")
    with contextlib.closing(ClockPage(counter_exact=True)) as page:
        page.start(asyncio.get_running_loop())
        done = await run(machine, program, page, wait=True)
    assert done.status == 0
    first, last = done.reports[READ], done.reports[COMPARED]
    print(f"{last.reads} reads; nanoseconds from call to vDSO and back: {last.after_call}, {last.before_call}")
    assert first.reads > 1000
    # A page that was not updated in time, because the event loop came late, sends a few reads to the system call.
    assert done.calls[READ].pop(CLOCK_GETTIME, 0) <= first.reads // 1000, "reads left the guest"
    assert done.calls[READ] == Counter({BEGIN: 1, READ: 1}), "a read left the guest"
    # The event loop answers the calls and updates the page: it may have been busy with that when the guest looked.
    assert done.calls[COMPARED][CLOCK_GETTIME] <= 4 * last.pairs + 20
    assert (last.backward, last.worst_backward) == (0, 0)
    assert 0 <= last.microseconds_off < 1_000_000
    assert last.seconds_off in (0, -1)
    assert last.resolution == max(1, round(time.clock_getres(time.CLOCK_MONOTONIC) * 1e9))
    assert last.cpu == 0
    # A call takes longer than the two clocks are apart, so order is never lost between them.
    assert min(last.after_call, last.before_call, last.realtime_after_call, last.realtime_before_call) > 0


async def test_without_a_page_every_read_is_a_call(machine: Machine, program: Path) -> None:
    with contextlib.closing(ClockPage(counter_exact=False)) as page:
        page.start(asyncio.get_running_loop())
        done = await run(machine, program, page, wait=False)
    assert done.status == 0
    report = done.reports[READ]
    # One before the loop, and two beside the other functions.
    assert done.calls[READ][CLOCK_GETTIME] == report.reads + 3
    assert (done.calls[READ][GETTIMEOFDAY], done.calls[READ][TIME]) == (1, 1)
    assert report.backward == 0


async def test_a_closed_page_sends_guests_back_to_their_calls(machine: Machine, program: Path) -> None:
    """One that a guest still has mapped."""
    page = ClockPage(counter_exact=True)
    page.start(asyncio.get_running_loop())
    async with asyncio.timeout(paced(20)), loaded(machine, program, page) as (_, context, _):
        while not page.valid:
            await asyncio.sleep(0.005)
        page.close()
        exit_ = await context.switch()
        assert isinstance(exit_, Syscall)
        assert exit_.number == BEGIN
        context.words[RegisterIndex.rax] = 0
        exit_ = await context.switch()
        assert isinstance(exit_, Syscall)
        assert exit_.number == CLOCK_GETTIME


async def test_what_a_guest_writes_there_is_its_own(machine: Machine, program: Path) -> None:
    """Time is told to all guests by one page."""
    with contextlib.closing(ClockPage(counter_exact=True)) as page:
        async with loaded(machine, program, page) as (space, _, where), loaded(machine, program, page) as (other, _, elsewhere):
            told = os.pread(page.fd, PAGE, 0)
            assert space.read(where.vdso[0], PAGE) == told
            space.protect(where.vdso[0], PAGE, Access.READ | Access.WRITE)
            space.write(where.vdso[0], b"x" * PAGE)
            assert space.read(where.vdso[0], PAGE) == b"x" * PAGE
            assert os.pread(page.fd, PAGE, 0) == told
            page.update()
            told = os.pread(page.fd, PAGE, 0)
            assert told[:8] == (2).to_bytes(8, "little")
            assert other.read(elsewhere.vdso[0], PAGE) == told
