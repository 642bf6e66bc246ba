"""The life of a guest thread: switch, look at the exit, answer it, see to signals, switch again, until it is to end.

The one place where exits become system calls and signals. What a call does lives in `syscalls`, what a signal does in `signals`,
what is left to do at the end in `ending`.
"""

from __future__ import annotations

import errno
import signal
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.errors import (
    ClosedError,
    GuestMemoryError,
    GuestStringError,
    GuestTrapError,
    HostError,
    OutOfMemoryError,
    OverloadedError,
    UsageError,
)
from asynckvm.linux import ending
from asynckvm.linux.elf import ElfError
from asynckvm.linux.errors import RESTARTS, SyscallError
from asynckvm.linux.signals import deliver
from asynckvm.linux.stack import ArgumentsTooLongError
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.linux.syscalls.table import BY_NUMBER, CONSTANT
from asynckvm.model.exits import Fault, Instruction, Interrupted, InterruptReason, Syscall
from asynckvm.model.memory import Access
from asynckvm.model.registers import RegisterIndex
from asynckvm.model.signals import SI_KERNEL

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asynckvm.linux.task import Task
    from asynckvm.model.exits import Exit
    from asynckvm.platform import Context

_RAX: Final = RegisterIndex.rax
_RIP: Final = RegisterIndex.rip
# Above all numbers that Linux will give away for a while.
_NUMBERS: Final = 1024
_MASK: Final = (1 << 64) - 1
_OUT_OF_MEMORY: Final = "out of memory"
# How a call fails. The last two: a number of the guest's that no C type holds.
_FAILURES: Final = (
    SyscallError, GuestMemoryError, GuestStringError, OSError, HostError, UsageError, OverloadedError, ElfError,
    ArgumentsTooLongError, OverflowError, struct.error,
)  # fmt: skip
# The platform's copies to and from guest memory, by the names their errors have.
_COPIES: Final = frozenset({"read guest memory", "write guest memory", "read guest string", "compare and exchange guest memory"})


async def drive(task: Task) -> None:
    """Run one thread to its end. Raises ClosedError when the machine was closed under it."""
    try:
        _prepare(task)
        while _undisturbed(task) or await _attend(task):
            task.in_guest = True
            try:
                exit_ = await task.context.switch()
            except GuestTrapError as error:
                task.process.end(ExitStatus(signal=signal.SIGKILL, rip=error.rip, reason=str(error)))
                break
            finally:
                task.in_guest = False
                if task.left_guest is not None:
                    task.left_guest.set_result(None)
                    task.left_guest = None
            if isinstance(exit_, Syscall) and exit_.instruction is Instruction.SYSCALL:
                context = task.context
                result = _call(task, exit_)
                if not isinstance(result, int):
                    result = await _wait_for(task, result)
                _answer(task, context, exit_, result)
            else:
                _except(task, exit_)
    except ClosedError:
        raise
    except Exception as error:  # noqa: BLE001  a defect of ours or of the host's: it costs nobody but this process
        ending.fail_process(task, error)
    finally:
        await ending.end(task)


def _undisturbed(task: Task) -> bool:
    """Nothing to see to before ring 3: no signal, no end, no stop, and no system call that was interrupted."""
    return task.syscall is None and task.saved_mask is None and not task.interrupted


async def _attend(task: Task) -> bool:
    """Act on signals, and stay while the process is stopped. False when the thread is to end."""
    while not task.dying:
        deliver.deliver(task)
        if not task.process.job.stopped:
            break
        await deliver.stay_stopped(task)
    return not task.dying


def _prepare(task: Task) -> None:
    """Calls whose answer never changes, and those on plain files, are answered on the vCPU's thread, unless somebody traces."""
    process, kernel = task.process, task.process.kernel
    if not kernel.observer.tracing:
        task.context.answers = {call.number: call.handler(task) for call in CONSTANT}  # type: ignore[misc]
        task.context.set_direct_files(kernel.direct_reads.of(process.files, process.fs.mounts.watches))


def _call(task: Task, exit_: Syscall) -> int | Awaitable[int]:
    """The result of a system call, or what it still waits for."""
    task.syscall = exit_.number
    # Numbers of a guest's own making are one to the statistics and to the log, which it could fill with them.
    number = min(exit_.number, _NUMBERS)
    call = BY_NUMBER.get(number)
    process = task.process
    observer = process.kernel.observer
    process.calls[number] += 1
    if call is None:
        if process.calls[number] == 1:
            observer.unknown(task, exit_.number)
        return -errno.ENOSYS
    if observer.tracing:
        observer.calling(task, call, exit_.args)
    try:
        return call.handler(task, *call.decode(task.space, exit_.args))
    except _FAILURES as error:
        return _failed(task, error)


async def _wait_for(task: Task, result: Awaitable[int]) -> int:
    try:
        return await result
    except _FAILURES as error:
        return _failed(task, error)


def _answer(task: Task, context: Context, exit_: Syscall, result: int) -> None:
    observer = task.process.kernel.observer
    if observer.tracing and (call := BY_NUMBER.get(exit_.number)) is not None:
        observer.called(task, call, exit_.args, result)
    if -result not in RESTARTS:
        task.syscall = None
    if task.context is context:
        context.words[_RAX] = result & _MASK
    else:
        _prepare(task)  # it executed a program


def _except(task: Task, exit_: Exit) -> None:
    """Any other reason to be out of ring 3."""
    if isinstance(exit_, Syscall):
        # INT 0x80, as a kernel without 32-bit emulation: there is no such gate, and that is a protection fault.
        _fault(task, Fault(signal.SIGSEGV, SI_KERNEL, 0, Access.NONE, exit_.instruction, 0))
    elif isinstance(exit_, Fault):
        _fault(task, exit_)
    elif isinstance(exit_, Interrupted) and exit_.reason is InterruptReason.CLOSED:
        raise ClosedError("the machine was closed while the program ran")


def _failed(task: Task, error: Exception) -> int:
    if isinstance(error, SyscallError):
        return -error.number
    if isinstance(error, GuestMemoryError):
        return -errno.EFAULT
    if isinstance(error, OutOfMemoryError) and error.operation in _COPIES:
        # No call that was refused, which has an errno, but a page that is missing behind a pointer.
        _out_of_memory(task)
    return -_number_of(error)


def _number_of(error: Exception) -> int:
    if isinstance(error, (OSError, HostError)):
        return error.errno or errno.EIO
    if isinstance(error, (ElfError, ArgumentsTooLongError)):
        return error.errno
    if isinstance(error, GuestStringError):
        return errno.ENAMETOOLONG
    if isinstance(error, OverloadedError):
        return errno.EAGAIN
    # A number was out of its range that a handler let through: the guest's mistake, not this process's.
    return errno.EINVAL


def _fault(task: Task, fault: Fault) -> None:
    if fault.signal == signal.SIGKILL:
        _out_of_memory(task, fault)
    else:
        deliver.fault(task, fault)


def _out_of_memory(task: Task, fault: Fault | None = None) -> None:
    """The sandbox has no page left for this process: it dies, unless one is found, and then touches its page again."""
    if not task.process.kernel.reclaim_memory():
        rip = task.context.words[_RIP]
        task.process.end(ExitStatus(signal=signal.SIGKILL, fault=fault, rip=rip, reason=_OUT_OF_MEMORY, cause=Cause.MEMORY))
