"""Making threads and processes: clone(2), clone3(2), fork(2) and vfork(2) are one function with flags.

A new thread is a context of the same address space. A new process has a copy of the address space, made copy-on-write by the
platform, unless it shares its parent's (CLONE_VM): until it executes a program, as after vfork(2), or for good.
Source: clone(2), kernel/fork.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.pidfd import ProcessFile
from asynckvm.linux.process import Process
from asynckvm.linux.task import Task
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from asynckvm.linux.memory import Memory

VM, FS, FILES, SIGHAND, PIDFD = 0x100, 0x200, 0x400, 0x800, 0x1000
VFORK, PARENT, THREAD, SYSVSEM, SETTLS = 0x4000, 0x8000, 0x10000, 0x40000, 0x80000
PARENT_SETTID, CHILD_CLEARTID, CHILD_SETTID = 0x100000, 0x200000, 0x1000000
CLEAR_SIGHAND: Final = 0x1_0000_0000
_NEW_NAMESPACE: Final = 0x2_0000  # CLONE_NEWNS
_NAMESPACES: Final = 0x7E02_0080  # CLONE_NEW*
_INTO_CGROUP: Final = 0x2_0000_0000
_KNOWN_BITS: Final = 34


@dataclass(frozen=True, slots=True)
class Request:
    """What clone3(2) takes: `stack` is the new stack pointer, 0 for the caller's."""

    flags: int
    exit_signal: int = 0
    stack: int = 0
    tls: int = 0
    parent_tid: int = 0
    child_tid: int = 0
    pidfd: int = 0


async def clone(parent: Task, request: Request) -> int:
    """Make the thread or process and start it; its number. The caller goes on at once, after vfork(2) once the child has."""
    flags = request.flags
    _check(parent, request)
    kernel = parent.process.kernel
    kernel.check_room()
    memory = await _memory(parent, flags)
    try:
        if parent.dying:  # since then; who ends a whole run has looked for its processes already
            raise SyscallError(errno.EAGAIN)
        # Not before the wait, in which others may take theirs.
        number = kernel.take_number()
        context = kernel.machine.create_context(memory.space)
    except BaseException:
        if not flags & THREAD:
            memory.drop()
        raise
    process = parent.process if flags & THREAD else _make_process(parent, number, memory, request)
    child = Task(process, context, number, parent.name, parent.mask)
    try:
        _set_up(parent, child, request)
        _tell_number(parent, child, request)
        if flags & PIDFD:
            _give_pidfd(parent, process, request.pidfd)
    except BaseException:
        context.close()
        if not flags & THREAD:
            process.files.drop()
            memory.drop()
        raise
    if not flags & THREAD:
        _register(process)
    process.tasks[number] = child
    kernel.start(child)
    if flags & VFORK and not flags & THREAD:
        while process.borrows_memory and not process.exited:
            await parent.wait(process.detached, killable=True)
    return number


def _tell_number(parent: Task, child: Task, request: Request) -> None:
    """A bad pointer is no reason to fail; that there is no memory for the child's copy of a page is one."""
    number = child.tid.to_bytes(4, "little")
    for flag, task, pointer in (PARENT_SETTID, parent, request.parent_tid), (CHILD_SETTID, child, request.child_tid):
        if request.flags & flag:
            with contextlib.suppress(GuestMemoryError):
                task.space.write(pointer, number)


def _give_pidfd(parent: Task, process: Process, address: int) -> None:
    files = parent.process.files
    descriptor = files.add(ProcessFile(process, os.O_RDWR), close_on_exec=True)
    try:
        parent.space.write(address, descriptor.to_bytes(4, "little"))
    except BaseException:
        files.close(descriptor)
        raise


def _check(parent: Task, request: Request) -> None:
    flags = request.flags
    if flags & _NEW_NAMESPACE and flags & FS:
        raise SyscallError(errno.EINVAL)
    if flags & _NAMESPACES or (flags & SETTLS and request.tls >= USER_MAX):
        raise SyscallError(errno.EPERM)
    if flags & _INTO_CGROUP:
        raise SyscallError(errno.EOPNOTSUPP)
    invalid = (
        flags >> _KNOWN_BITS,
        flags & THREAD and not flags & SIGHAND,
        flags & SIGHAND and not flags & VM,
        flags & SIGHAND and flags & CLEAR_SIGHAND,
        # Threads that share neither files nor their view of the file system: no C library makes such, and nothing here could.
        flags & THREAD and flags & (FS | FILES) != FS | FILES,
        flags & PIDFD and flags & THREAD,
    )
    if any(invalid):
        raise SyscallError(errno.EINVAL)
    if parent.dying:
        raise SyscallError(errno.EAGAIN)


async def _memory(parent: Task, flags: int) -> Memory:
    if flags & THREAD:
        return parent.memory
    if flags & VM:
        return parent.memory.share()
    memory = parent.memory.fork()
    if len(parent.process.tasks) > 1 or parent.memory.users > 1:
        # Others may be running in it, and store to pages that are the child's too by now.
        try:
            await parent.space.shootdown()
        except BaseException:
            memory.drop()
            raise
    return memory


def _make_process(parent: Task, number: int, memory: Memory, request: Request) -> Process:
    old, flags = parent.process, request.flags
    actions = old.actions if flags & SIGHAND else old.actions.copy()
    if flags & CLEAR_SIGHAND:
        actions = old.actions.executed()
    process = Process(
        old.kernel,
        number,
        old.group,
        memory,
        old.files.share() if flags & FILES else old.files.copy(),
        old.fs if flags & FS else old.fs.copy(),
        old.credentials,
        actions,
        old.limits.copy(),
        old.program,
    )
    process.borrows_memory = bool(flags & VM)
    process.exit_signal = request.exit_signal
    process.dumpable = old.dumpable
    process.origin = old.origin
    process.timer_slack = process.timer_slack_default = old.timer_slack
    process.huge_pages_disabled = old.huge_pages_disabled
    process.personality = old.personality
    process.nice = old.nice
    process.io_priority = old.io_priority
    process.affinity = old.affinity
    process.parent = old.parent if flags & PARENT else old
    return process


def _register(process: Process) -> None:
    """From now on others find it."""
    if process.parent is not None:
        process.parent.children[process.pid] = process
    process.group.processes[process.pid] = process
    process.kernel.processes[process.pid] = process
    process.timers.watch_limit()


def _set_up(parent: Task, child: Task, request: Request) -> None:
    words = child.context.words
    words[:20] = parent.context.words[:20]
    words[RegisterIndex.rax] = 0
    if request.stack:
        words[RegisterIndex.rsp] = request.stack
    if request.flags & SETTLS:
        words[RegisterIndex.fs_base] = request.tls
    child.context.xsave = parent.context.xsave
    child.context.answers = parent.context.answers if child.process is parent.process else {}
    if not request.flags & VM or request.flags & VFORK:
        child.altstack = parent.altstack
    if request.flags & CHILD_CLEARTID:
        child.clear_child_tid = request.child_tid
