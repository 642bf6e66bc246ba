"""Tasks, processes and kernels without KVM: the real classes on a fake machine, for tests of what they are handed to.

Nothing drives the threads: a test makes their system calls. Each process has memory at DATA and a stack.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.files import DescriptorTable
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.kernel import Kernel
from asynckvm.linux.limits import Limits
from asynckvm.linux.memory import Memory
from asynckvm.linux.process import Process
from asynckvm.linux.program import Program
from asynckvm.linux.report import Reporter
from asynckvm.linux.signals import xstate
from asynckvm.linux.signals.action import ActionTable
from asynckvm.linux.task import Task
from asynckvm.linux.vfs import FileSystemContext
from asynckvm.model.memory import Access
from asynckvm.model.registers import Registers
from support.fake_platform import FakeMachine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

SECONDS = 5
# Writable memory of every process, 64 KiB each; nothing is behind END, nor behind the stack.
DATA = 0x600000
END = DATA + 0x10000
STACK = 0x7FFE_0000_0000
_BYTES = 0x10000
_START = Registers(rsp=STACK + 0xF000, rip=0x401002)


class FakeKernel(Kernel):
    """Its clocks are not kept: they would need a loop, and somebody to close them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(FakeMachine(), Reporter(), **options)  # type: ignore[arg-type]
        self.vdso.close()
        self._clock_page.close()


class FakeTask(Task):
    """A thread in ring 3. `noticed` counts; `interrupt()` is a signal that has to be handled; `cpu_ns` is a test's to set."""

    cpu_ns: int = 0  # type: ignore[misc]

    def __init__(self, process: FakeProcess, tid: int) -> None:
        context: Any = process.machine.create_context(process.space)
        context.registers = _START
        context.xsave = xstate.initial(process.machine.capabilities.xsave_bytes)
        super().__init__(process, context, tid, b"program")
        self.in_guest = True
        self.noticed = 0
        self._signalled = False

    @property
    def interrupted(self) -> bool:
        return self._signalled or super().interrupted

    def interrupt(self) -> None:
        self._signalled = True
        self.notice()

    def notice(self) -> None:
        self.noticed += 1
        super().notice()

    async def begin(self, call: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """Start a call that has to wait; returns when it waits."""
        running = asyncio.ensure_future(call)
        async with asyncio.timeout(SECONDS):
            while not self.waiting:
                assert not running.done(), f"it did not wait: {running}"
                await asyncio.sleep(0)
        return running


class FakeProcess(Process):
    """A process with threads pid, pid + 1, ..., in its parent's group, or leader of a session."""

    def __init__(self, kernel: Kernel, pid: int, *, parent: Process | None = None, threads: int = 1) -> None:
        space: Any = kernel.machine.create_address_space()
        for start in (DATA, STACK):
            space.map(start, _BYTES, Access.READ | Access.WRITE)
        group = parent.group if parent is not None else ProcessGroup(pid, Session(pid, None))
        loaded: Any = None
        super().__init__(
            kernel, pid, group, Memory(space, END), DescriptorTable(account=kernel.open_files), FileSystemContext(kernel.mounts),
            Credentials.of(1000, 1000), ActionTable(), Limits.default(10), Program(b"/program", None, (0, 0), loaded),
        )  # fmt: skip
        self.parent = parent
        if parent is not None:
            parent.children[pid] = self
        else:
            group.session.leader = self
        self.join(group)
        self.tasks.update({pid + number: FakeTask(self, pid + number) for number in range(threads)})
        kernel.processes[pid] = self
        kernel.tasks.update(self.tasks)

    def join(self, group: ProcessGroup) -> None:
        self._join(group)


def lone_task(pid: int = 1, kernel: Kernel | None = None, **process: Any) -> Any:
    """The only thread of a process in a kernel of its own; `process` are attributes that are to be other ones."""
    made = FakeProcess(kernel or FakeKernel(), pid)
    for name, value in process.items():
        setattr(made, name, value)
    return made.tasks[pid]


async def result(answer: int | Awaitable[int]) -> int:
    """What the call answered, at once or later."""
    async with asyncio.timeout(SECONDS):
        return answer if isinstance(answer, int) else await answer
