"""Timers that send signals: the three interval timers of a process, its limit of processor time, and what timer_create(2) makes.

A timer waits on the event loop, and looks at its own clock again when it is called: a clock of processor time is slower than the
loop's, never faster. A periodic timer whose signal is pending sleeps until that is taken, and counts then what it missed, so that
no interval is too short for this process. Source: setitimer(2), timer_create(2), timer_settime(2), timer_getoverrun(2),
getrlimit(2), kernel/time/posix-timers.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.errors import ClosedError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals import send
from asynckvm.linux.signals.numbers import SI_KERNEL
from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from asynckvm.linux.process import Process
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task

ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF = 0, 1, 2
ITIMER_SIGNALS: Final = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
# Of one process, whatever limit it sets itself.
TIMERS_MAX: Final = 512
_OVERRUN_MAX: Final = (1 << 31) - 1
# One wait of the event loop: a clock may have been set meanwhile.
_PIECE: Final = 3600 * NANOSECONDS
# How soon a timer is looked at again when nothing shows how soon it could expire: it sends what nobody takes, or waits for a
# process that may be asleep.
_TICK: Final = 4_000_000
_TICK_MAX: Final = 256_000_000


class Clock(Protocol):
    """What a timer measures."""

    def now(self) -> int:
        """Nanoseconds."""

    def delay(self, left: int) -> int:
        """The real time after which it may have advanced by `left`, at the earliest."""


class HostClock:
    """A clock that runs by itself."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.now = read

    def delay(self, left: int) -> int:
        return max(left, 0)


_MONOTONIC: Final = HostClock(time.monotonic_ns)


class ProcessorClock:
    """The processor time of some threads. Counted when a thread leaves its vCPU, so whoever looks makes them leave it."""

    def __init__(self, read: Callable[[], int], tasks: Callable[[], Collection[Task]]) -> None:
        self.now = read
        self._tasks = tasks
        self._looked = -1.0
        self._seen = -1
        self._tick = _TICK

    def delay(self, left: int) -> int:
        tasks = self._tasks()
        moment = asyncio.get_running_loop().time()
        if moment - self._looked >= _TICK / NANOSECONDS:
            self._looked = moment
            # Threads that sleep are looked at ever more rarely.
            now = self.now()
            self._tick = _TICK if now != self._seen else min(self._tick * 2, _TICK_MAX)
            self._seen = now
            for task in tasks:
                if task.in_guest:
                    task.context.interrupt()
        return max(left // max(len(tasks), 1), self._tick)


class Timer:
    """One timer. `fire` sends its signal and says whether that is pending now: then `advance` goes on when it is taken."""

    def __init__(self, clock: Clock, fire: Callable[[], bool] | None) -> None:
        self.clock = clock
        self.interval = 0
        # None: it only shows the time left.
        self._fire = fire
        # When it expires next; None: disarmed.
        self._deadline: int | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._tick = _TICK

    def set(self, deadline: int | None, interval: int) -> None:
        """Arm it for a time of its clock, or disarm it."""
        self.cancel()
        self._deadline, self.interval = deadline, interval if deadline is not None else 0
        self._arm(0)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._deadline = None

    @property
    def left(self) -> int:
        """Time to the next expiration; 0 when there is none."""
        if self._deadline is None:
            return 0
        left = self._deadline - self.clock.now()
        if left <= 0 and self.interval:
            left = left % self.interval or self.interval
        # Due, but not yet looked at, is not disarmed.
        return max(left, 0 if self._handle is None else 1)

    def advance(self) -> int:
        """Its signal was taken: on to the next expiration. How many were missed meanwhile."""
        if self._deadline is None or self._handle is not None:
            return 0
        missed = self._skip()
        self._tick = _TICK
        self._arm(0)
        return missed

    def _skip(self) -> int:
        assert self._deadline is not None
        missed = max(self.clock.now() - self._deadline, 0) // self.interval
        self._deadline += (missed + 1) * self.interval
        return missed

    def _arm(self, at_least: int) -> None:
        if self._deadline is not None and self._fire is not None:
            delay = max(min(self.clock.delay(self._deadline - self.clock.now()), _PIECE), at_least)
            self._handle = asyncio.get_running_loop().call_later(delay / NANOSECONDS, self._look)

    def _look(self) -> None:
        self._handle = None
        # A closed machine has no processor time to tell, and nobody to tell it to.
        with contextlib.suppress(ClosedError):
            self._expire()

    def _expire(self) -> None:
        if self._deadline is None or self._fire is None:
            return
        if self._deadline > self.clock.now():
            self._arm(0)
        elif not self.interval:
            self._deadline = None
            self._fire()
        elif not self._fire() and self._handle is None:
            # Nobody will tell when to go on: the signal is ignored, or another one like it was pending.
            self._skip()
            self._arm(self._tick)
            self._tick = min(self._tick * 2, _TICK_MAX)


class IntervalTimer:
    """One of setitimer(2)'s."""

    def __init__(self, process: Process, number: int, clock: Clock) -> None:
        self._process = process
        self._number = number
        self.timer = Timer(clock, self._fire)

    def _fire(self) -> bool:
        info = infos.SigInfo(self._number, SI_KERNEL, source=self)
        return send.send_to_process(self._process, info)

    def collected(self, info: SigInfo) -> SigInfo:
        self.timer.advance()
        return info

    def discarded(self) -> None:
        self.timer.advance()


@dataclass(frozen=True, slots=True)
class Event:
    """struct sigevent: how a timer tells of its expiration. `value` None: the timer's number."""

    notify: int = SIGEV_SIGNAL
    number: int = signal.SIGALRM
    value: int | None = None
    tid: int = 0


class PosixTimer:
    """One of timer_create(2)'s."""

    def __init__(self, process: Process, number: int, clock: Clock, event: Event) -> None:
        self.timer = Timer(clock, self._fire if event.notify != SIGEV_NONE else None)
        self.event = event
        # Of the last signal that was taken.
        self.overrun = 0
        self._process = process
        self._number = number

    def settle(self) -> None:
        """Before it is set anew or deleted: a signal of the old setting is not delivered any more."""
        self.timer.cancel()
        self._process.pending.withdraw(self)
        for task in self._process.tasks.values():
            task.pending.withdraw(self)

    def _fire(self) -> bool:
        event = self.event
        value = event.value if event.value is not None else self._number
        info = infos.from_timer(event.number, self._number, value, self)
        if event.notify & SIGEV_THREAD_ID:
            task = self._process.tasks.get(event.tid)
            return task is not None and send.send_to_task(task, info)
        return send.send_to_process(self._process, info)

    def collected(self, info: SigInfo) -> SigInfo:
        self.overrun = min(self.timer.advance(), _OVERRUN_MAX)
        return info.with_overrun(self.overrun)

    def discarded(self) -> None:
        self.timer.advance()


# From a late SIGXCPU to SIGKILL.
_WARNED_NS: Final = 10_000_000


class ProcessorLimit:
    """RLIMIT_CPU: SIGXCPU at the soft limit and every second after it, SIGKILL at the hard one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.timer = Timer(process.timers.processor_clock(), self._reached)

    def watch(self) -> None:
        """The limits were set."""
        seconds = min(self._process.limits[Limit.CPU])
        # A limit of none at all is one of a second, as getrlimit(2) has it for Linux.
        self.timer.set(max(seconds, 1) * NANOSECONDS if seconds != INFINITY else None, 0)

    def _reached(self) -> bool:
        process = self._process
        soft, hard = process.limits[Limit.CPU]
        used = process.cpu_ns // NANOSECONDS
        # A look that comes late finds both reached; the warning comes first even so.
        if used >= max(hard, 1) and soft >= hard:
            return send.send_to_process(process, infos.SigInfo(signal.SIGKILL, SI_KERNEL))
        process.limits[Limit.CPU] = min(max(soft, used) + 1, hard), hard
        if used >= hard:
            self.timer.set(process.cpu_ns + _WARNED_NS, 0)
        else:
            self.watch()
        return send.send_to_process(process, infos.SigInfo(signal.SIGXCPU, SI_KERNEL))


class TimerTable:
    """All timers of a process. A child made by fork(2) starts with an empty one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._intervals: dict[int, IntervalTimer] = {}
        self._timers: dict[int, PosixTimer] = {}
        self._next = 0
        self._processor: ProcessorClock | None = None
        self._limit: ProcessorLimit | None = None

    def processor_clock(self) -> Clock:
        """CLOCK_PROCESS_CPUTIME_ID."""
        if self._processor is None:
            process = self._process
            self._processor = ProcessorClock(lambda: process.cpu_ns, lambda: tuple(process.tasks.values()))
        return self._processor

    def thread_clock(self, task: Task) -> Clock:
        """CLOCK_THREAD_CPUTIME_ID; it stands still once the thread has ended."""
        last = 0

        def read() -> int:
            nonlocal last
            if not task.context.closed:
                last = task.cpu_ns
            return last

        return ProcessorClock(read, lambda: () if task.context.closed else (task,))

    def watch_limit(self) -> None:
        """Enforce RLIMIT_CPU, which is new or was changed."""
        if self._limit is None and min(self._process.limits[Limit.CPU]) != INFINITY:
            self._limit = ProcessorLimit(self._process)
        if self._limit is not None:
            self._limit.watch()

    def interval(self, which: int) -> Timer:
        """ITIMER_REAL, _VIRTUAL or _PROF. EINVAL."""
        if not 0 <= which < len(ITIMER_SIGNALS):
            raise SyscallError(errno.EINVAL)
        if which not in self._intervals:
            clock = _MONOTONIC if which == ITIMER_REAL else self.processor_clock()
            self._intervals[which] = IntervalTimer(self._process, ITIMER_SIGNALS[which], clock)
        return self._intervals[which].timer

    def create(self, clock: Clock, event: Event) -> int:
        """The number of a new timer, disarmed. EAGAIN when there are too many."""
        if len(self._timers) >= min(self._process.limits.soft(Limit.SIGPENDING), TIMERS_MAX):
            raise SyscallError(errno.EAGAIN)
        number = self._next
        self._next = (number + 1) % _OVERRUN_MAX
        self._timers[number] = PosixTimer(self._process, number, clock, event)
        return number

    def __getitem__(self, number: int) -> PosixTimer:
        timer = self._timers.get(number)
        if timer is None:
            raise SyscallError(errno.EINVAL)
        return timer

    def delete(self, number: int) -> None:
        self[number].settle()
        del self._timers[number]

    def executed(self) -> None:
        """execve(2): interval timers go on, the others are gone."""
        for number in tuple(self._timers):
            self.delete(number)
        self._next = 0

    def close(self) -> None:
        """The process has ended."""
        self.executed()
        for interval in self._intervals.values():
            interval.timer.cancel()
        self._intervals.clear()
        if self._limit is not None:
            self._limit.timer.cancel()
