"""Executing a program: a process gets a new address space, and its calling thread becomes its only one.

Everything that may be refused is found out first; from the point of no return on a failure ends the process.
Source: execve(2), fs/exec.c (begin_new_exec), kernel/signal.c (zap_other_threads).
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from asynckvm.errors import HostError, OutOfMemoryError, OverloadedError
from asynckvm.linux import ending, loader
from asynckvm.linux.elf import ElfError
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.limits import Limit
from asynckvm.linux.memory import Memory
from asynckvm.linux.program import Program
from asynckvm.linux.signals.altstack import AlternateStack
from asynckvm.linux.stack import Auxiliary
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.linux.task import NAME_BYTES
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asynckvm.linux.credentials import Credentials
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.task import Task
    from asynckvm.platform import Context


async def execute(
    task: Task,
    file: OpenFile,
    open_file: Callable[[bytes], OpenFile],
    name: bytes,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    *,
    reachable: bool = True,
) -> None:
    """Replace the program of `task`'s process by `file`, which stays the caller's. See `loader.prepare` for what is refused."""
    process = task.process
    stack = process.limits.soft(Limit.STACK)
    prepared = loader.prepare(file, open_file, name, arguments, environment, stack_limit=stack, reachable=reachable)
    try:
        await _end_other_threads(task)
        await ending.leave_robust(task)
        _forget_the_old(task)
        try:
            memory, context, program = load(process.kernel, prepared, process.credentials, stack)
        except OutOfMemoryError:
            process.end(ExitStatus(signal=signal.SIGKILL, reason="out of memory while a program was loaded", cause=Cause.MEMORY))
            return
        except ElfError as error:
            process.end(ExitStatus(signal=signal.SIGSEGV, reason=str(error)))
            return
        except (HostError, OverloadedError, SyscallError, OSError) as error:
            process.end(ExitStatus(signal=signal.SIGKILL, reason=f"a program could not be loaded: {error}"))
            return
        task.replace_context(context)
        ending.release_memory(process)
        process.memory = memory
        process.program = program
        process.credentials = process.credentials.executed()
        task.name = name.rpartition(b"/")[2][:NAME_BYTES]
    finally:
        prepared.close()


def load(kernel: Kernel, prepared: loader.Executable, credentials: Credentials, stack: int) -> tuple[Memory, Context, Program]:
    """An address space with the program in it, and a context that is about to run it."""
    space = kernel.machine.create_address_space()
    try:
        vector = {
            Auxiliary.UID: credentials.ruid,
            Auxiliary.EUID: credentials.euid,
            Auxiliary.GID: credentials.rgid,
            Auxiliary.EGID: credentials.egid,
            Auxiliary.SECURE: int(credentials.is_secure),
        }
        kernel.limit_memory(space)
        loaded = loader.load(space, kernel.machine, prepared, vector, vdso=kernel.vdso, stack_limit=stack)
        context = kernel.machine.create_context(space)
    except BaseException:
        space.close()
        raise
    context.words[RegisterIndex.rip] = loaded.entry
    context.words[RegisterIndex.rsp] = loaded.stack_pointer
    location = getattr(prepared.file, "location", None)
    identity = prepared.file.attributes().identity
    program = Program(prepared.name, location, identity, loaded)
    return Memory(space, loaded.heap), context, program


async def _end_other_threads(task: Task) -> None:
    """The caller takes the place of the first thread, number and all, when it is another one."""
    process, kernel = task.process, task.process.kernel
    if task.dying:
        # Another thread came first: were both to end the other one, nobody would be left.
        raise SyscallError(ERESTARTSYS)
    for other in list(process.tasks.values()):
        if other is not task:
            other.killed = True
            other.notice()
    while len(process.tasks) > 1:
        await task.wait(process.exit_queue, killable=True)
    if task.tid != process.pid:
        kernel.tasks.pop(task.tid, None)
        task.tid = process.pid
        kernel.tasks[task.tid] = task
        process.tasks = {task.tid: task}


def _forget_the_old(task: Task) -> None:
    """What a new program does not inherit."""
    process = task.process
    ending.leave_memory(task)
    if process.files.users > 1:
        shared, process.files = process.files, process.files.copy()
        shared.drop()
    process.files.close_for_exec()
    process.actions = process.actions.executed()
    process.timers.executed()
    process.aio.clear()
    task.altstack = AlternateStack()
    task.saved_mask = None
    task.syscall = None
    process.exit_signal = signal.SIGCHLD
    process.dumpable = 1
    process.has_executed = True
    process.death_signal = 0
