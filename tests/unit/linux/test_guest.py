"""A guest's life: exits become answers, signals end it, cancellation leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import stat
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
import structlog

from asynckvm.errors import ClosedError
from asynckvm.linux import ending, report
from asynckvm.linux.report import Reporter
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.linux.syscalls import table
from asynckvm.linux.task import Task
from asynckvm.model.exits import Exit, Fault, Instruction, Interrupted, InterruptReason, Syscall
from asynckvm.model.memory import Access
from asynckvm.sandbox import Reason
from support.fake_platform import FakeSpace, syscall
from support.fake_tasks import lone_task
from support.scripted import DATA, Scripted

Start: TypeAlias = Callable[..., Scripted]
Calls: TypeAlias = Generator[Exit, int, None]

READ, WRITE, MMAP, SIGACTION, SIGPROCMASK, SCHED_YIELD, PAUSE, GETPID, EXIT, KILL = 0, 1, 9, 13, 14, 24, 34, 39, 60, 62
TKILL, EXIT_GROUP, TGKILL = 200, 231, 234
# Calls that may wait for ever, make or become processes, and send signals some time.
ENDLESS = (7, 23, PAUSE, 35, 69, 70, 128, 130, 202, 230, 270, 271)
PROCESSES = (56, 57, 58, 59, 322, 435)
LATER_SIGNALS = (15, 37, 38, 129, 222, 223, 297, 424)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def put(space: FakeSpace, data: bytes) -> int:
    space.write(DATA, data)
    return DATA


def bit(number: int) -> bytes:
    return (1 << (number - 1)).to_bytes(8, "little")


async def test_a_program_that_prints_and_exits(start: Start) -> None:
    def script(space: FakeSpace) -> Calls:
        yield syscall(WRITE, 1, put(space, b"hello\n"), 6)
        yield syscall(EXIT_GROUP, 0x1FF)

    run = start(script)
    status = await run.finish()
    assert (status.code, status.signal) == (255, None)
    assert bytes(run.output.data) == b"hello\n"
    assert run.results == [6]
    assert run.machine.spaces[0].closed
    assert run.machine.contexts[0].closed
    assert run.result.syscalls == {"write": 1, "exit_group": 1}


async def test_constant_calls_are_left_to_the_platform(start: Start) -> None:
    run = start([syscall(EXIT, 0)])
    await run.finish()
    answers = run.machine.contexts[0].answers
    assert answers[GETPID] == run.process.pid
    assert 102 not in answers, "setuid(2) changes it"


async def test_unknown_calls_are_answered_and_logged_once(start: Start) -> None:
    run = start([syscall(900), syscall(900), syscall(901), syscall(0xFFFF_FFFF), syscall(5000)])
    with structlog.testing.capture_logs() as logs:
        await run.finish()
    assert run.results == [-errno.ENOSYS] * 5
    # Numbers that no Linux has are told about once, so that a guest cannot fill the log with them.
    assert [entry["number"] for entry in logs if entry["event"] == "syscall_missing"] == [900, 901, 0xFFFF_FFFF]
    assert run.result.syscalls == {"900": 2, "901": 1, "1024": 2, "exit_group": 1}


async def test_standard_streams_look_like_pipes_and_files(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "input").open("w+b") as file:
        run = start([syscall(5, number, DATA + 256 * number) for number in (0, 1, 2)], input=file.fileno())
        status = os.fstat(file.fileno())
        await run.finish()
    space = run.machine.spaces[0]
    assert run.results == [0, 0, 0]
    device, inode, links, mode = struct.unpack_from("<QQQI", space.read(DATA, 144))
    assert (device, inode, links, mode) == (status.st_dev, status.st_ino, status.st_nlink, status.st_mode)
    for number in (1, 2):
        assert stat.S_ISFIFO(struct.unpack_from("<24xI", space.read(DATA + 256 * number, 144))[0])


async def test_a_trace_shows_every_call(start: Start) -> None:
    def script(space: FakeSpace) -> Calls:
        yield syscall(257, -100, put(space, b"/missing\0"), 0, 0)
        yield syscall(257, -100, 1, 0, 0)

    run = start(script, trace=True)
    with structlog.testing.capture_logs() as logs:
        await run.finish()
    lines = [(entry["call"], entry["result"]) for entry in logs if entry["event"] == "syscall"]
    assert lines[:2] == [("openat(-100, b'/missing', 0x0, 0)", "-ENOENT"), ("openat(-100, 0x1, 0x0, 0)", "-EFAULT")]


async def test_bad_pointers_are_the_guest_s_concern_alone(start: Start) -> None:
    wild = (1 << 64) - 1
    calls = [
        syscall(WRITE, 1, 0, 1),
        syscall(WRITE, 1, wild, wild),
        syscall(20, 1, wild, 1),
        syscall(257, -100, wild, 0),
        syscall(63, wild),
        syscall(228, 0, wild),
        syscall(SIGACTION, 1, wild, 0, 8),
        syscall(157, 15, wild),
        syscall(318, wild, 100, 0),
        syscall(302, 0, 3, 0, wild),
    ]
    run = start(calls)
    await run.finish()
    assert run.results == [-errno.EFAULT] * len(calls)


async def test_every_call_survives_wild_arguments(start: Start) -> None:
    """No argument makes a call do anything but answer."""
    values = (0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, DATA, 0xFFFF_FFFF_FFFF_F000, 1 << 32, 0x7FFF_FFFF_E000)
    # Left out: what ends or stops the program by design, and mappings too large for a dictionary of pages.
    left_out = {MMAP, 12, 25, EXIT, EXIT_GROUP, KILL, TKILL, TGKILL, *ENDLESS, *PROCESSES, *LATER_SIGNALS}
    calls = [
        syscall(number, *(values[(number * 7 + turn * step) % len(values)] for step in range(1, 7)))
        for number in range(460)
        for turn in range(len(values))
        if number not in left_out
    ]
    run = start(calls)
    with structlog.testing.capture_logs():
        status = await run.finish()
    assert status.code == 0
    assert len(run.results) == len(calls)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP])
async def test_a_fault_ends_it_with_one_line(start: Start, number: int) -> None:
    fault = Fault(number, 1, 0x1234, Access.WRITE, 14, 6)
    with structlog.testing.capture_logs() as logs:
        status = await start([fault]).finish()
    assert (status.code, status.signal, status.fault) == (None, number, fault)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("program_killed", "warning")
    assert (line["signal"], line["address"], line["access"]) == (signal.Signals(number).name, "0x1234", "write")
    assert line["rip"] == "0x400100"


async def test_a_handler_that_cannot_run_is_named(start: Start) -> None:
    def script(space: FakeSpace) -> Calls:
        yield syscall(SIGACTION, signal.SIGSEGV, put(space, (0x400100).to_bytes(32, "little")), 0, 8)
        yield Fault(signal.SIGSEGV, 1, 0, Access.READ, 14, 4)

    with structlog.testing.capture_logs() as logs:
        status = await start(script).finish()
    assert status.signal == signal.SIGSEGV
    assert "signal frame" in logs[0]["reason"]


async def test_a_defect_of_ours_ends_the_process(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: Task, *args: int) -> int:
        raise KeyError("x" * 10_000)

    monkeypatch.setitem(table.BY_NUMBER, SCHED_YIELD, replace(table.BY_NUMBER[SCHED_YIELD], handler=broken))
    run = start([syscall(SCHED_YIELD), syscall(EXIT, 0)])
    with structlog.testing.capture_logs() as logs:
        status = await run.finish()
    assert (status.signal, status.cause, run.result.reason) == (signal.SIGKILL, Cause.INTERNAL, Reason.INTERNAL)
    assert status.reason.startswith("internal error: KeyError: 'xxx")
    assert len(status.reason) == 500
    assert run.results == []
    (error, killed) = logs
    assert (error["event"], error["log_level"], error["number"]) == ("kernel_error", "error", SCHED_YIELD)
    assert "in broken" in error["traceback"]
    assert len(error["traceback"]) <= 1 << 14
    assert (killed["event"], killed["reason"]) == ("program_killed", status.reason)


def test_what_a_guest_can_repeat_does_not_fill_the_log() -> None:
    reporter, task = Reporter(), lone_task()
    with structlog.testing.capture_logs() as logs:
        for number in range(25):
            reporter.failed(task, ValueError(number))
        for _ in range(107):
            reporter.ended(task.process, ExitStatus(signal=signal.SIGKILL, reason="planted"))
        reporter.closed()
    assert [entry["error"] for entry in logs[:20]] == [f"ValueError({number})" for number in range(20)]
    assert [entry["event"] for entry in logs[20:-1]] == ["program_killed"] * 100
    assert logs[-1] == {"event": "records_left_out", "log_level": "warning", "kernel_error": 5, "program_killed": 7}


async def test_a_kernel_tells_when_it_is_closed_what_it_left_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(report._BOUNDS, "program_killed", 0)
    with structlog.testing.capture_logs() as logs:
        await start([Fault(signal.SIGSEGV, 1, 0x1234, Access.WRITE, 14, 6)]).finish()
    assert logs == [{"event": "records_left_out", "log_level": "warning", "program_killed": 1}]


async def test_int_80_is_a_protection_fault(start: Start) -> None:
    status = await start([Syscall(20, (0, 0, 0, 0, 0, 0), Instruction.INT80)]).finish()
    assert status.signal == signal.SIGSEGV


async def test_a_signal_to_itself(start: Start) -> None:
    def script(_: FakeSpace) -> Calls:
        yield syscall(KILL, run.process.pid, 0)
        yield syscall(KILL, run.process.pid, signal.SIGCHLD)
        yield syscall(TGKILL, run.process.pid, run.process.pid, signal.SIGABRT)
        raise AssertionError("it ran on")

    run = start(script)
    assert (await run.finish()).signal == signal.SIGABRT
    assert run.results == [0, 0]


async def test_a_blocked_signal_waits(start: Start) -> None:
    def script(space: FakeSpace) -> Calls:
        mask = put(space, bit(signal.SIGTERM))
        yield syscall(SIGPROCMASK, 0, mask, 0, 8)
        yield syscall(KILL, 0, signal.SIGTERM)
        yield syscall(127, DATA + 64, 8)
        assert space.read(DATA + 64, 8) == bit(signal.SIGTERM)
        yield syscall(SIGPROCMASK, 1, mask, 0, 8)
        raise AssertionError("it ran on")

    run = start(script)
    assert (await run.finish()).signal == signal.SIGTERM
    assert run.results == [0, 0, 0]


async def test_nobody_else_can_be_signalled(start: Start) -> None:
    run = start([syscall(KILL, os.getpid(), 9), syscall(KILL, 1, 9), syscall(KILL, -1, 9), syscall(TKILL, os.getpid(), 9)])
    await run.finish()
    assert run.results == [-errno.ESRCH] * 4


async def test_a_pipe_nobody_reads(start: Start) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    status = await start([syscall(WRITE, 1, DATA, 1)], stdout=writing).finish()
    os.close(writing)
    assert status.signal == signal.SIGPIPE


@pytest.mark.every_loop
async def test_kill_reaches_a_call_that_waits(start: Start, pipe: tuple[int, int]) -> None:
    run = start([syscall(READ, 0, DATA, 1)], input=pipe[0])
    task = await run.begin()
    run.kill(signal.SIGTERM, reason="enough")
    status = await task
    assert (status.signal, status.reason) == (signal.SIGTERM, "enough")
    assert run.results == []


@pytest.mark.every_loop
@pytest.mark.parametrize("call", [syscall(PAUSE), syscall(READ, 0, DATA, 1)])
async def test_kill_just_before_a_call_that_waits(start: Start, pipe: tuple[int, int], call: Exit) -> None:
    """The run it was to interrupt has ended with the call by then."""

    def script(_: FakeSpace) -> Calls:
        run.kill(signal.SIGTERM, reason="enough")
        yield call

    run = start(script, input=pipe[0])
    status = await run.finish()
    assert (status.signal, status.reason) == (signal.SIGTERM, "enough")


async def test_kill_just_before_a_call_that_need_not_wait(start: Start, pipe: tuple[int, int]) -> None:
    """What is there already is read all the same, as on Linux: only a sleep is interrupted."""
    os.write(pipe[1], b"data")

    def script(_: FakeSpace) -> Calls:
        run.kill(signal.SIGTERM)
        yield syscall(READ, 0, DATA, 10)

    run = start(script, input=pipe[0])
    assert (await run.finish()).signal == signal.SIGTERM
    assert run.machine.spaces[0].read(DATA, 4) == b"data"


async def test_kill_reaches_a_program_that_never_waits(start: Start) -> None:
    def script(_: FakeSpace) -> Calls:
        while True:
            yield syscall(SCHED_YIELD)

    run = start(script)
    task = await run.begin()
    run.kill()
    assert (await task).signal == signal.SIGKILL
    run.kill()


async def test_an_ignored_signal_interrupts_nothing(start: Start, pipe: tuple[int, int]) -> None:
    run = start([syscall(READ, 0, DATA, 10)], input=pipe[0])
    task = await run.begin()
    run.kill(signal.SIGCHLD)
    os.write(pipe[1], b"data")
    assert (await task).code == 0
    assert run.results == [4]


@pytest.mark.parametrize("call", [syscall(PAUSE), syscall(READ, 0, DATA, 1)])
async def test_cancellation_ends_it_and_frees_everything(start: Start, call: Exit, pipe: tuple[int, int]) -> None:
    await asyncio.sleep(0)  # the loop opens what it needs for itself
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    run = start([call], input=pipe[0])
    task = await run.begin()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.machine.contexts[0].closed
    assert run.machine.spaces[0].closed
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cancellation_wins_over_a_signal(start: Start, pipe: tuple[int, int]) -> None:
    run = start([syscall(READ, 0, DATA, 1)], input=pipe[0])
    task = await run.begin()
    run.kill(signal.SIGTERM)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_machine_that_is_closed_meanwhile(start: Start) -> None:
    with pytest.raises(ClosedError):
        await start([Interrupted(InterruptReason.CLOSED)]).finish()


async def test_leaving_the_block_ends_a_guest_that_runs(start: Start, pipe: tuple[int, int]) -> None:
    run = start([syscall(READ, 0, DATA, 1)], input=pipe[0])
    task = await run.begin()
    await run.sandbox.close()
    await task
    assert run.result.reason is Reason.CLOSED
    assert run.machine.contexts[0].closed
    assert run.machine.spaces[0].closed


async def test_a_thread_ends_whatever_it_asked_for(start: Start) -> None:
    """An odd place for its number, a wild list of robust futexes: nobody's concern once it is gone."""
    run = start([syscall(218, DATA + 2), syscall(273, (1 << 64) - 8, 24), syscall(EXIT_GROUP, 3)])
    assert (await run.finish()).code == 3
    assert run.machine.contexts[0].closed


async def test_a_defect_of_a_call_ends_the_run_with_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run waits for a thread that will not tell any more."""

    def broken(task: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ending, "end_task", broken)
    with pytest.raises(ZeroDivisionError):
        await start([syscall(EXIT_GROUP, 3)]).finish()
