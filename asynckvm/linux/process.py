"""A process: what the threads of a group share, and its place among other processes.

State only. How a process is made is `clone`'s, how it becomes another program `execve`'s, how it ends `ending`'s.
Source: credentials(7), clone(2), pthreads(7).
"""

from __future__ import annotations

import collections
import errno
import signal
import time
from typing import TYPE_CHECKING

from asynckvm.linux.aio import Contexts
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.signals.job import Job
from asynckvm.linux.signals.queue import SignalQueue
from asynckvm.linux.timers import TimerTable
from asynckvm.linux.wait import WaitQueue, wait

if TYPE_CHECKING:
    from asynckvm.linux.credentials import Credentials
    from asynckvm.linux.files import DescriptorTable
    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.limits import Limits
    from asynckvm.linux.memory import Memory
    from asynckvm.linux.program import Program
    from asynckvm.linux.signals.action import ActionTable
    from asynckvm.linux.status import ExitStatus
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs import FileSystemContext
    from asynckvm.platform import AddressSpace, Machine


class Process:
    """A thread group. `pid` is the number of its first thread; `parent` is None for the first process of a sandbox, and for
    orphans, which nobody waits for. Thread: loop."""

    def __init__(
        self,
        kernel: Kernel,
        pid: int,
        group: ProcessGroup,
        memory: Memory,
        files: DescriptorTable,
        fs: FileSystemContext,
        credentials: Credentials,
        actions: ActionTable,
        limits: Limits,
        program: Program,
    ) -> None:
        self.kernel = kernel
        self.pid = pid
        self.group = group
        self.memory = memory
        self.files = files
        self.fs = fs
        self.credentials = credentials
        self.limits = limits
        self.program = program
        # Relations.
        self.parent: Process | None = None
        self.children: dict[int, Process] = {}
        self.tasks: dict[int, Task] = {}
        self.has_lost_parent = False
        self.is_subreaper = False
        self.origin = self  # its ancestor that the host started
        # Signals.
        self.actions = actions
        self.pending = SignalQueue(kernel.signal_account)
        self.signal_queue = WaitQueue()
        self.job = Job()
        self.timers = TimerTable(self)
        self.aio = Contexts(kernel.aio_events)
        self.exit_signal: int = signal.SIGCHLD
        self.death_signal = 0  # PR_SET_PDEATHSIG
        # The end: why, from the moment it is certain; whether all threads are gone.
        self.ended: ExitStatus | None = None
        self.exited = False
        self.exit_queue = WaitQueue()
        # Woken when a child of it ended, stopped or went on.
        self.child_queue = WaitQueue()
        # The memory is the child's own, or the child is gone: what a parent that called vfork(2) waits for.
        self.detached = WaitQueue()
        self.borrows_memory = False
        self.dumpable = 1
        self.oom_adjustment = 0  # as /proc shows and takes it; it decides nothing
        self.has_executed = False
        # Kept and told back; nothing depends on them.
        self.timer_slack = self.timer_slack_default = 50_000
        self.huge_pages_disabled = False
        self.personality = 0
        self.nice = 0
        self.io_priority = 0
        self.affinity = (1 << kernel.processors) - 1
        # Accounts. Times in nanoseconds of vCPU time, of threads and children that are gone.
        self.started_ns = time.monotonic_ns()
        self.past_ns = 0
        self.children_ns = 0
        self.resident_max = 0  # pages
        self.resident_max_children = 0
        # System calls by number: those that threads now gone, or this kernel, were answered.
        self.calls: collections.Counter[int] = collections.Counter()

    @property
    def machine(self) -> Machine:
        return self.kernel.machine

    @property
    def space(self) -> AddressSpace:
        return self.memory.space

    @property
    def session(self) -> Session:
        return self.group.session

    @property
    def parent_pid(self) -> int:
        """The parent's number; 1, init's, for an orphan, and 0 for what the host started."""
        if self.parent is not None:
            return self.parent.pid
        return 1 if self.has_lost_parent else 0

    @property
    def leader(self) -> Task | None:
        """The first thread, if it is still there."""
        return self.tasks.get(self.pid)

    @property
    def name(self) -> bytes:
        """What ps(1) calls it: the name of its first thread."""
        task = self.leader or next(iter(self.tasks.values()), None)
        return task.name if task is not None else self.program.name

    @property
    def cpu_ns(self) -> int:
        """Processor time used so far by all its threads."""
        return self.past_ns + sum(task.cpu_ns for task in self.tasks.values())

    @property
    def all_calls(self) -> collections.Counter[int]:
        """System calls so far by number, without those whose answer never changes."""
        return sum((task.direct_calls for task in self.tasks.values()), self.calls)

    def end(self, status: ExitStatus) -> None:
        """From now on every thread is on its way out. The first reason stays."""
        if self.ended is None:
            self.ended = status
            self.job.release()
            for task in list(self.tasks.values()):
                task.notice()

    async def until_exited(self) -> None:
        """Return when its last thread is gone, or its kernel has failed."""
        while not self.exited and self.kernel.failure is None:
            await wait((self.exit_queue,))

    def start_session(self) -> int:
        """setsid(2): leader of a new session and of its only group. EPERM for the leader of a group."""
        if self.pid in self.kernel.groups:
            raise SyscallError(errno.EPERM)
        self._join(ProcessGroup(self.pid, Session(self.pid, self)))
        return self.pid

    def move_to_group(self, number: int) -> None:
        """setpgid(2): to a group of the same session, which is new when it has the process's own number."""
        if self.session.leader is self:
            raise SyscallError(errno.EPERM)
        group = self.kernel.groups.get(number)
        if group is None and number == self.pid:
            group = ProcessGroup(number, self.session)
        if group is None or group.session is not self.session:
            raise SyscallError(errno.EPERM)
        self._join(group)

    def _join(self, group: ProcessGroup) -> None:
        if group is not self.group:
            self.leave_group()
            self.group = group
        group.processes[self.pid] = self
        self.kernel.groups[group.id] = group

    def leave_group(self) -> None:
        """A group without processes is gone."""
        self.group.processes.pop(self.pid, None)
        if not self.group.processes:
            self.kernel.groups.pop(self.group.id, None)
