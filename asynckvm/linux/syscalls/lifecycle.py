"""System calls that make, replace, end and wait for threads and processes."""

from __future__ import annotations

import errno
import signal
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestStringError
from asynckvm.linux import children, clone, execve
from asynckvm.linux.children import Report
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import pidfd
from asynckvm.linux.signals.numbers import SIGNALS
from asynckvm.linux.stack import STRING_BYTES_MAX
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.syscalls import structs
from asynckvm.linux.syscalls.paths import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    caller_of,
    check_flags,
    location_of,
    start_of,
)
from asynckvm.linux.vfs import opening
from asynckvm.model.memory import PAGE, USER_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

_CLONE_ARGS: Final = struct.Struct("<8Q")
_CLONE_ARGS_MAX: Final = 88  # those of Linux 6: also set_tid, set_tid_size, cgroup
_P_ALL, _P_PID, _P_PGID, _P_PIDFD = 0, 1, 2, 3
_SIGINFO: Final = struct.Struct("<iii4xiIi100x")
# Read at most; what of it a stack has room for is checked when it is laid out.
_STRINGS_BYTES: Final = 6 << 20
_STRINGS_AT_ONCE: Final = 256
_POINTERS_AT_ONCE: Final = 32


# ---------------------------------------------------------------- making


async def clone_(task: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
    """clone(2) in the order of x86-64. The low byte of the flags is the exit signal; a pidfd goes where parent_tid points."""
    request = clone.Request(
        flags & 0xFFFF_FF00, flags & 0xFF, stack, tls, parent_tid, child_tid, pidfd=parent_tid if flags & clone.PIDFD else 0
    )
    if flags & clone.PIDFD and flags & clone.PARENT_SETTID:
        raise SyscallError(errno.EINVAL)
    return await clone.clone(task, request)


async def clone3(task: Task, address: int, size: int) -> int:
    if size < _CLONE_ARGS.size:
        raise SyscallError(errno.EINVAL)
    if size > PAGE:
        raise SyscallError(errno.E2BIG)
    image = task.space.read(address, size)
    if any(image[_CLONE_ARGS_MAX:]):
        raise SyscallError(errno.E2BIG)
    flags, pidfd_at, child_tid, parent_tid, exit_signal, stack, stack_size, tls = _CLONE_ARGS.unpack_from(image)
    if any(image[_CLONE_ARGS.size : 80]):
        raise SyscallError(errno.EPERM)  # set_tid: numbers are the kernel's to give
    if exit_signal > SIGNALS or bool(stack) != bool(stack_size) or flags & 0xFF or (exit_signal and flags & clone.THREAD):
        raise SyscallError(errno.EINVAL)
    if stack + stack_size > USER_MAX:
        raise SyscallError(errno.EINVAL)
    return await clone.clone(task, clone.Request(flags, exit_signal, stack + stack_size, tls, parent_tid, child_tid, pidfd_at))


async def fork(task: Task) -> int:
    return await clone.clone(task, clone.Request(0, signal.SIGCHLD))


async def vfork(task: Task) -> int:
    return await clone.clone(task, clone.Request(clone.VM | clone.VFORK, signal.SIGCHLD))


# ---------------------------------------------------------------- executing


async def execve_(task: Task, path: bytes, arguments: int, environment: int) -> int:
    return await execveat(task, AT_FDCWD, path, arguments, environment, 0)


async def execveat(task: Task, directory: int, path: bytes, arguments: int, environment: int, flags: int) -> int:
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    process, caller = task.process, caller_of(task)
    reachable = True
    name = path
    if not path and flags & AT_EMPTY_PATH:
        name = b"/dev/fd/%d" % directory
        reachable = not process.files.closes_on_exec(directory)
        file = opening.find_program(caller, location_of(task, directory), b"")
    elif not path:
        raise SyscallError(errno.ENOENT)
    else:
        start = start_of(task, directory, path)
        if directory != AT_FDCWD and not path.startswith(b"/"):
            name = b"/dev/fd/%d/%s" % (directory, path)
            reachable = not process.files.closes_on_exec(directory)
        file = opening.find_program(caller, start, path, follow=not flags & AT_SYMLINK_NOFOLLOW)
    with file.held():
        budget = [_STRINGS_BYTES]
        argv, envp = await _strings(task, arguments, budget), await _strings(task, environment, budget)

        def open_file(interpreter: bytes) -> OpenFile:
            return opening.find_program(caller, process.fs.directory, interpreter)

        await execve.execute(task, file, open_file, name, argv, envp, reachable=reachable)
    return 0


async def _strings(task: Task, address: int, budget: list[int]) -> list[bytes]:
    """A NULL-terminated array of strings, none for NULL. E2BIG beyond what execve(2) takes; others run in between."""
    found: list[bytes] = []
    while address:
        # As many pointers as there are for sure, when this one is there: what follows the page may be missing.
        count = min(max((PAGE - address % PAGE) // 8, 1), _POINTERS_AT_ONCE)
        for pointer in struct.unpack(f"<{count}Q", task.space.read(address, 8 * count)):
            if not pointer:
                return found
            try:
                text = task.space.read_string(pointer, STRING_BYTES_MAX)
            except GuestStringError:
                raise SyscallError(errno.E2BIG) from None
            budget[0] -= len(text) + 9
            if budget[0] < 0:
                raise SyscallError(errno.E2BIG)
            found.append(text)
            if len(found) % _STRINGS_AT_ONCE == 0:
                await task.turn()
        address += 8 * count
    return found


# ---------------------------------------------------------------- ending


def exit_(task: Task, code: int) -> int:
    """Of this thread; of the last one, the end of the process with this status."""
    if all(other.killed for other in task.process.tasks.values() if other is not task):
        return exit_group(task, code)
    task.killed = True
    return 0


def exit_group(task: Task, code: int) -> int:
    task.process.end(ExitStatus(code=code & 0xFF))
    return 0


# ---------------------------------------------------------------- waiting


async def wait4(task: Task, pid: int, status: int, options: int, usage: int) -> int:
    if options & ~children.WAIT4_OPTIONS:
        raise SyscallError(errno.EINVAL)
    if pid == -(1 << 31):
        raise SyscallError(errno.ESRCH)
    report = await children.wait_for(task, _wanted(task, pid), options | children.WEXITED)
    if report is None:
        return 0
    if status:
        task.space.write(status, struct.pack("<i", report.wait_status))
    if usage:
        task.space.write(usage, structs.rusage(report.cpu_ns, report.resident_max * 4))
    return report.pid


def _wanted(task: Task, pid: int) -> Callable[[Process], bool]:
    if pid > 0:
        return lambda child: child.pid == pid
    if pid == -1:
        return lambda child: True  # noqa: ARG005
    group = -pid if pid else task.process.group.id
    return lambda child: child.group.id == group


async def waitid(task: Task, kind: int, number: int, info: int, options: int, usage: int) -> int:
    if options & ~children.WAITID_OPTIONS or not options & (children.WEXITED | children.WSTOPPED | children.WCONTINUED):
        raise SyscallError(errno.EINVAL)
    report = await children.wait_for(task, _wanted_by(task, kind, number), options)
    if report is not None and usage:
        task.space.write(usage, structs.rusage(report.cpu_ns, report.resident_max * 4))
    if info:
        task.space.write(info, _siginfo(report))
    return 0


def _wanted_by(task: Task, kind: int, number: int) -> Callable[[Process], bool]:
    if kind == _P_ALL:
        return _wanted(task, -1)
    if kind == _P_PID and number > 0:
        return _wanted(task, number)
    if kind == _P_PGID and number >= 0:
        return _wanted(task, -number)
    if kind == _P_PIDFD:
        file = task.process.files.get(number)
        if not isinstance(file, pidfd.ProcessFile):
            raise SyscallError(errno.EBADF)
        return lambda child: child is file.process
    raise SyscallError(errno.EINVAL)


def _siginfo(report: Report | None) -> bytes:
    if report is None:
        return bytes(_SIGINFO.size)
    return _SIGINFO.pack(signal.SIGCHLD, 0, report.code, report.pid, report.user, report.status)


# ---------------------------------------------------------------- sessions and groups


def getpgid(task: Task, pid: int) -> int:
    return _process(task, pid).group.id


def getpgrp(task: Task) -> int:
    return task.process.group.id


def getsid(task: Task, pid: int) -> int:
    return _process(task, pid).session.id


def setsid(task: Task) -> int:
    return task.process.start_session()


def setpgid(task: Task, pid: int, group: int) -> int:
    """Of the caller, or of a child of its session that has not executed a program yet."""
    process = task.process
    group = group or pid or process.pid
    if group < 0:
        raise SyscallError(errno.EINVAL)
    target = _process(task, pid)
    if target is not process:
        if target.parent is not process:
            raise SyscallError(errno.ESRCH)
        if target.session is not process.session:
            raise SyscallError(errno.EPERM)
        if target.has_executed:
            raise SyscallError(errno.EACCES)
    target.move_to_group(group)
    return 0


def _process(task: Task, pid: int) -> Process:
    process = task.process.kernel.processes.get(pid) if pid else task.process
    if process is None:
        raise SyscallError(errno.ESRCH)
    return process


def getpid(task: Task) -> int:
    return task.process.pid


def gettid(task: Task) -> int:
    return task.tid


def getppid(task: Task) -> int:
    return task.process.parent_pid


def set_tid_address(task: Task, address: int) -> int:
    task.clear_child_tid = address
    return task.tid
