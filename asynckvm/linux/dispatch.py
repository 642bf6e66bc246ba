"""The life of a guest thread: switch, look at the exit, answer it, switch again, until its process has ended.

The one place where exits become system calls and signals. What a call does lives in `syscalls`; how the end is reported in
`guest`.
"""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.errors import ClosedError, GuestMemoryError, GuestStringError, GuestTrapError, HostError, UsageError
from asynckvm.linux.errors import RESTARTS, SyscallError
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.syscalls.table import BY_NUMBER
from asynckvm.model.exits import Fault, Instruction, Interrupted, InterruptReason, Syscall
from asynckvm.model.memory import Access
from asynckvm.model.registers import RegisterIndex
from asynckvm.model.signals import SI_KERNEL

if TYPE_CHECKING:
    from asynckvm.linux.syscalls.call import Call
    from asynckvm.linux.task import Task

_RAX: Final = RegisterIndex.rax
_RIP: Final = RegisterIndex.rip
# Above all numbers that Linux will give away for a while.
_NUMBERS: Final = 1024
_MASK: Final = (1 << 64) - 1
_UNHANDLED: Final = "its handler could not run: signal handlers are not supported yet"
_OUT_OF_MEMORY: Final = "out of memory"


class Observer(Protocol):
    """What is told about a thread's system calls while it runs."""

    def unknown(self, task: Task, number: int) -> None:
        """A system call that does not exist here was answered with ENOSYS."""

    def called(self, task: Task, call: Call, args: tuple[int, ...], result: int) -> None:
        """A system call was answered; asked for only while `tracing` is true."""

    @property
    def tracing(self) -> bool: ...


class Runner:
    """Drives one thread. `run()` is its asyncio task."""

    def __init__(self, task: Task, observer: Observer) -> None:
        self._task = task
        self._observer = observer

    async def run(self) -> ExitStatus:
        """Returns when the process has ended. Raises ClosedError when the machine was closed under it."""
        task, process = self._task, self._task.process
        while True:
            self._deliver_signals()
            if process.ended is not None:
                return process.ended
            task.in_guest = True
            try:
                exit_ = await task.context.switch()
            except GuestTrapError as error:
                process.end(ExitStatus(signal=signal.SIGKILL, rip=error.rip, reason=str(error)))
                continue
            finally:
                task.in_guest = False
            if isinstance(exit_, Syscall):
                if exit_.instruction is Instruction.SYSCALL:
                    task.context.words[_RAX] = await self._answer(exit_) & _MASK
                else:
                    # As a kernel without 32-bit emulation: there is no such gate, and that is a protection fault.
                    self._fault(Fault(signal.SIGSEGV, SI_KERNEL, 0, Access.NONE, exit_.instruction, 0))
            elif isinstance(exit_, Fault):
                self._fault(exit_)
            elif isinstance(exit_, Interrupted) and exit_.reason is InterruptReason.CLOSED:
                raise ClosedError("the machine was closed while the program ran")

    # ------------------------------------------------------------ system calls

    async def _answer(self, exit_: Syscall) -> int:
        # Numbers of a guest's own making are one to the statistics and to the log, which it could fill with them.
        number = min(exit_.number, _NUMBERS)
        call = BY_NUMBER.get(number)
        process = self._task.process
        process.calls[number] += 1
        if call is None:
            if process.calls[number] == 1:
                self._observer.unknown(self._task, exit_.number)
            return -errno.ENOSYS
        try:
            answer = call.handler(self._task, *call.decode(self._task.space, exit_.args))
            result = answer if isinstance(answer, int) else await answer
        except SyscallError as error:
            result = -(errno.EINTR if error.number in RESTARTS else error.number)
        except GuestMemoryError:
            result = -errno.EFAULT
        except GuestStringError:
            result = -errno.ENAMETOOLONG
        except (OSError, HostError) as error:
            result = -(error.errno or errno.EIO)
        except UsageError:
            # The platform found a number out of its range that a handler let through: the guest's mistake, not this process's.
            result = -errno.EINVAL
        if self._observer.tracing:
            self._observer.called(self._task, call, exit_.args, result)
        return result

    # ------------------------------------------------------------ signals

    def _deliver_signals(self) -> None:
        process = self._task.process
        if not process.signals.pending or process.ended is not None:
            return
        number = process.signals.take()
        if number:
            reason = process.signal_reasons.pop(number, "")
            if process.signals.has_handler(number):
                reason = reason or _UNHANDLED
            process.end(ExitStatus(signal=number, rip=self._task.context.words[_RIP], reason=reason))

    def _fault(self, fault: Fault) -> None:
        """An exception sends its signal whether or not the program ignores or blocks it."""
        process = self._task.process
        reason = _OUT_OF_MEMORY if fault.signal == signal.SIGKILL else ""
        if process.signals.has_handler(fault.signal):
            reason = reason or _UNHANDLED
        process.end(ExitStatus(signal=fault.signal, fault=fault, rip=self._task.context.words[_RIP], reason=reason))
