"""The kernel object: what all processes of one sandbox share, and the asyncio tasks that drive their threads.

It owns the numbers of processes and threads, and the end of them all: `close()` returns when no thread is left. Everything else
that belongs to a sandbox as a whole hangs off it: futexes, the network, limits. Thread: loop.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, InternalError
from asynckvm.linux import dispatch
from asynckvm.linux.aio import EVENTS_MAX
from asynckvm.linux.clock_page import ClockPage
from asynckvm.linux.direct_reads import DirectReads
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.account import OPEN_FILES, OpenFileAccount
from asynckvm.linux.files.epoll import WATCHES_MAX
from asynckvm.linux.files.pipe import PipePages
from asynckvm.linux.futex import FutexTable
from asynckvm.linux.ipc.messages import MessageQueues
from asynckvm.linux.ipc.segments import Segments
from asynckvm.linux.ipc.semaphores import Semaphores
from asynckvm.linux.leases import LeaseTable
from asynckvm.linux.locks import LockTable
from asynckvm.linux.quota import Quota
from asynckvm.linux.shared_memory import SharedMemory
from asynckvm.linux.signals import info as siginfo
from asynckvm.linux.signals import send
from asynckvm.linux.signals.queue import Account
from asynckvm.linux.sockets.network import Network
from asynckvm.linux.sockets.outside import SOCKETS, Outside
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.linux.tty import Terminals
from asynckvm.linux.uts import SystemNames
from asynckvm.linux.vdso import Vdso
from asynckvm.linux.vfs import Budget, Mounts, Tmpfs
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.linux.groups import ProcessGroup
    from asynckvm.linux.process import Process
    from asynckvm.linux.report import Observer
    from asynckvm.linux.sockets.policy import Policy
    from asynckvm.linux.task import Task
    from asynckvm.platform import AddressSpace, Machine

# The first number given away: 1 is init's, the parent of orphans.
_FIRST_PID: Final = 2
_PIDS: Final = 32768
THREADS: Final = 512
_CLOSE_SECONDS: Final = 10.0


def _signal(processes: Iterable[Process], number: int) -> None:
    """For terminals, which know nothing of signals."""
    for process in processes:
        if not process.exited:
            send.send_to_process(process, siginfo.from_kernel(number))


class Kernel:
    """`threads` bounds how many threads exist at a time, in all processes (EAGAIN); `open_files` how many files they have open
    (ENFILE). `policy` says what of the outside network may be reached, by at most `host_sockets` at a time (ENOBUFS)."""

    def __init__(
        self,
        machine: Machine,
        observer: Observer,
        *,
        threads: int = THREADS,
        memory_pages: int = 0,
        open_files: int = OPEN_FILES,
        policy: Policy | None = None,
        host_sockets: int = SOCKETS,
    ) -> None:
        self.machine = machine
        self.observer = observer
        self.threads_max = threads
        self.processors = machine.config.vcpus
        self.processes: dict[int, Process] = {}
        self.tasks: dict[int, Task] = {}
        self.groups: dict[int, ProcessGroup] = {}
        self.names = SystemNames()
        self.futexes = FutexTable()
        self.locks = LockTable()
        self.leases = LeaseTable()
        self.message_queues = MessageQueues()
        self.semaphores = Semaphores()
        self.segments = Segments(self)
        self.aio_events = Quota(EVENTS_MAX, errno.EAGAIN)
        self.epoll_watches = Quota(WATCHES_MAX, errno.ENOSPC)
        # One bound for the private memory of all processes, their page tables and what they share.
        self.memory_budget = machine.create_memory_budget(memory_pages) if memory_pages else None
        self.shared_memory = SharedMemory(machine, memory_pages * PAGE or machine.config.memory, self.memory_budget)
        # Nothing, until its owner gives it a root.
        self.mounts = Mounts(Tmpfs(Budget(PAGE, 1)))
        self.signal_account = Account()
        self.pipe_pages = PipePages()
        self._clock_page = ClockPage(counter_exact=machine.capabilities.tsc_offset_exact)
        self.vdso = Vdso(machine, self._clock_page)
        self.network = Network(Outside(policy, observer.policy_failed, limit=host_sockets))
        self.open_files = OpenFileAccount(open_files, self.network.flight.collect)
        self.terminals = Terminals(_signal)
        self.direct_reads = DirectReads(machine)
        self._last_pid = _FIRST_PID - 1
        self._drivers: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Begin to keep time for the guests. Needs the running loop."""
        self._clock_page.start(asyncio.get_running_loop())

    # ------------------------------------------------------------ numbers

    def check_room(self) -> None:
        """EAGAIN when there are too many threads. Who has ended and was not waited for counts too, as for RLIMIT_NPROC."""
        if max(len(self.tasks), len(self.processes)) >= self.threads_max:
            raise SyscallError(errno.EAGAIN)

    def take_number(self) -> int:
        """A number for a process or thread that nobody has, to be used before the next wait. EAGAIN as `check_room`."""
        self.check_room()
        for _ in range(_PIDS):
            self._last_pid = self._last_pid + 1 if self._last_pid < _PIDS - 1 else _FIRST_PID
            number = self._last_pid
            if number not in self.tasks and number not in self.processes and number not in self.groups:
                return number
        raise SyscallError(errno.EAGAIN)

    # ------------------------------------------------------------ threads

    def start(self, task: Task) -> None:
        """Let the thread run."""
        self.tasks[task.tid] = task
        driver = asyncio.get_running_loop().create_task(dispatch.drive(task), name=f"task {task.tid}")
        self._drivers.add(driver)
        driver.add_done_callback(self._driven)

    def _driven(self, driver: asyncio.Task[None]) -> None:
        self._drivers.discard(driver)
        error = asyncio.CancelledError() if driver.cancelled() else driver.exception()
        if error is not None:
            self.fail(error)

    def limit_memory(self, space: AddressSpace) -> None:
        """Bound a new address space as this sandbox is; copies of it by fork inherit that."""
        if self.memory_budget is not None:
            space.set_budget(self.memory_budget)

    def reclaim_memory(self) -> bool:
        """Somebody needs more than there is: whether something was found that nobody uses any more."""
        return self.shared_memory.sweep()

    @property
    def running(self) -> int:
        """Threads in ring 3, or on their way there."""
        return sum(task.in_guest for task in self.tasks.values())

    def memory_shown(self) -> tuple[int, int]:
        """Bytes of memory that programs are told of: all and free."""
        status = self.machine.memory_counters()
        total, free = status.frames_total, status.frames_total - status.frames_used
        if self.memory_budget is not None:
            total = min(total, self.memory_budget.pages)
            free = min(free, max(self.memory_budget.pages - self.memory_budget.used, 0))
        return total * PAGE, free * PAGE

    # ------------------------------------------------------------ the end

    async def end_run(self, origin: Process) -> None:
        """End what is left of the processes that descend from `origin`, which the host started, and return when all are gone."""
        while left := [process for process in self.processes.values() if process.origin is origin and not process.exited]:
            if self._failure is not None:
                return  # a thread that ended with an exception tells nobody
            for process in left:
                process.end(ExitStatus(signal=signal.SIGKILL))
            await left[0].until_exited()

    @property
    def failure(self) -> BaseException | None:
        """Why this kernel cannot go on, if something went wrong that is no guest's doing."""
        return self._failure

    def fail(self, error: BaseException) -> None:
        """End every process; who waits for one is told by `check`."""
        if self._failure is None:
            self._failure = error
        self.kill_all("the sandbox failed")
        for process in self.processes.values():
            process.exit_queue.wake()

    def check(self) -> None:
        """Raise what made the kernel fail."""
        if self._failure is not None:
            raise self._failure

    def kill_all(self, reason: str) -> None:
        """As SIGKILL to every process."""
        for process in list(self.processes.values()):
            process.end(ExitStatus(signal=signal.SIGKILL, reason=reason, cause=Cause.CLOSED))

    async def close(self) -> None:
        """End every process and wait until no thread runs. Bounded: InternalError. Idempotent."""
        self.kill_all("the sandbox was closed")
        if self._drivers:
            _, late = await asyncio.wait(self._drivers, timeout=_CLOSE_SECONDS)
            if late:
                raise InternalError(f"{len(late)} guest threads did not end", self.machine.dump())
        self.segments.close()
        self.shared_memory.close()
        self.mounts.close()
        if self.memory_budget is not None:
            self.memory_budget.close()
        self.vdso.close()
        self._clock_page.close()
        await self.network.close()
        self.observer.closed()
        if self._failure is not None and not isinstance(self._failure, ClosedError):
            raise self._failure
