"""Tasks and processes without a machine: the state that signals and timers work on, with memory that is a list of ranges."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from asynckvm.errors import GuestMemoryError
from asynckvm.linux import wait
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.limits import INFINITY, Limits
from asynckvm.linux.signals import xstate
from asynckvm.linux.signals.action import ActionTable
from asynckvm.linux.signals.altstack import AlternateStack
from asynckvm.linux.signals.frame import Trap
from asynckvm.linux.signals.job import Job
from asynckvm.linux.signals.queue import SignalQueue
from asynckvm.linux.timers import TimerTable
from asynckvm.model.registers import REGISTER_NAMES, Registers

CAPABILITIES = SimpleNamespace(xcr0=7, xsave_bytes=4096)


class FakeSpace:
    """Memory: one range of bytes."""

    def __init__(self, start: int = 0x7FFE_0000_0000, size: int = 0x10000) -> None:
        self.start = start
        self.content = bytearray(size)

    def read(self, address: int, length: int) -> bytes:
        offset = self._offset(address, length)
        return bytes(self.content[offset : offset + length])

    def write(self, address: int, data: bytes) -> None:
        offset = self._offset(address, len(data))
        self.content[offset : offset + len(data)] = data

    def _offset(self, address: int, length: int) -> int:
        offset = address - self.start
        if offset < 0 or offset + length > len(self.content):
            raise GuestMemoryError(address)
        return offset


class FakeContext:
    """Registers and FP state."""

    def __init__(self) -> None:
        self.words = list(Registers(rsp=0x7FFE_0000_F000, rip=0x401002).words())
        self.xsave = xstate.initial(CAPABILITIES.xsave_bytes)
        self.interrupts = 0
        self.closed = False

    @property
    def registers(self) -> Registers:
        return Registers(**dict(zip(REGISTER_NAMES, self.words, strict=True)))

    @registers.setter
    def registers(self, registers: Registers) -> None:
        self.words[:] = registers.words()

    def interrupt(self) -> None:
        self.interrupts += 1


class FakeTask:
    """A thread. `noticed` counts."""

    def __init__(self, process: FakeProcess, tid: int) -> None:
        self.process = process
        self.tid = tid
        self.context = FakeContext()
        self.space = process.space
        self.mask = 0
        self.pending = SignalQueue()
        self.altstack = AlternateStack()
        self.saved_mask: int | None = None
        self.syscall: int | None = None
        self.restart: Any = None
        self.trap = Trap()
        self.noticed = 0
        self.cpu_ns = 0
        self.in_guest = True
        self.killed = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def dying(self) -> bool:
        return self.killed or self.process.ended is not None

    @property
    def interrupted(self) -> bool:
        process = self.process
        return bool((self.pending.mask | process.pending.mask) & ~self.mask) or self.dying or bool(process.job.stopped)

    def notice(self) -> None:
        self.noticed += 1
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(SyscallError(ERESTARTSYS))

    async def wait(self, *queues: wait.WaitQueue, until: int | None = None) -> bool:
        if self.interrupted:
            raise SyscallError(ERESTARTSYS)
        return await wait.wait(queues, until, self._begin)

    def _begin(self, waiting: asyncio.Future[bool]) -> None:
        self._waiting = waiting


class FakeProcess:
    """A process with threads pid, pid + 1, ..."""

    def __init__(self, kernel: FakeKernel, pid: int, *, parent: FakeProcess | None = None, threads: int = 1) -> None:
        self.kernel = kernel
        self.machine = SimpleNamespace(capabilities=CAPABILITIES)
        self.pid = pid
        self.parent = parent
        self.group: Any = parent.group if parent else ProcessGroup(pid, Session(pid, self))  # type: ignore[arg-type]
        self.group.processes[pid] = self
        self.exited = False
        self.credentials = Credentials.of(1000, 1000)
        self.space = FakeSpace()
        self.actions = ActionTable()
        self.pending = SignalQueue()
        self.signal_queue = wait.WaitQueue()
        self.child_queue = wait.WaitQueue()
        self.limits = Limits(dict.fromkeys(range(16), (INFINITY, INFINITY)))
        self.job = Job()
        self.ended: Any = None
        self.tasks: dict[int, FakeTask] = {pid + number: FakeTask(self, pid + number) for number in range(threads)}
        self.timers = TimerTable(self)  # type: ignore[arg-type]
        kernel.processes[pid] = self
        kernel.tasks.update(self.tasks)
        kernel.groups[self.group.id] = self.group

    @property
    def session(self) -> Session:
        session: Session = self.group.session
        return session

    def join(self, group: ProcessGroup) -> None:
        del self.group.processes[self.pid]
        self.group = group
        group.processes[self.pid] = self  # type: ignore[assignment]
        self.kernel.groups[group.id] = group

    @property
    def cpu_ns(self) -> int:
        return sum(task.cpu_ns for task in self.tasks.values())

    def end(self, status: Any) -> None:
        if self.ended is None:
            self.ended = status
            self.job.release()


class FakeKernel:
    """The tables of processes, threads and groups."""

    def __init__(self) -> None:
        self.processes: dict[int, FakeProcess] = {}
        self.tasks: dict[int, FakeTask] = {}
        self.groups: dict[int, ProcessGroup] = {}
