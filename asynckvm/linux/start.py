"""Starting a program from outside: the first process of a session of its own, with no process of the sandbox as its parent."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asynckvm.linux import execve, loader
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.groups import ProcessGroup, Session
from asynckvm.linux.limits import Limit, Limits
from asynckvm.linux.process import Process
from asynckvm.linux.signals.action import ActionTable
from asynckvm.linux.task import Task
from asynckvm.linux.vfs import Caller, FileSystemContext, opening, resolve

if TYPE_CHECKING:
    from asynckvm.linux.credentials import Credentials
    from asynckvm.linux.files import DescriptorTable, OpenFile
    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.tty import Terminal


@dataclass(frozen=True, slots=True)
class Start:
    """What the process begins with. `files` becomes its own, `terminal` its controlling one, which nobody else may have."""

    arguments: list[bytes]
    environment: list[bytes]
    directory: bytes
    credentials: Credentials
    files: DescriptorTable
    terminal: Terminal | None = None

    def caller(self, kernel: Kernel) -> Caller:
        """Paths are walked as the new process would. OSError when its directory cannot be entered."""
        top = kernel.mounts.root
        outside = Caller(FileSystemContext(kernel.mounts, top), self.credentials)
        try:
            directory = resolve(outside, top, self.directory)
            outside.check(directory.node.attributes(), os.X_OK)
            if not directory.node.is_directory:
                raise SyscallError(errno.ENOTDIR)
        except SyscallError as error:
            raise OSError(error.number, os.strerror(error.number), os.fsdecode(self.directory)) from None
        return Caller(FileSystemContext(kernel.mounts, top, directory), self.credentials)


def find_in_path(kernel: Kernel, start: Start, search: bytes) -> bytes:
    """The path execvp(3) would execute for the first argument; `search` is a PATH. FileNotFoundError, PermissionError."""
    name = start.arguments[0]
    if b"/" in name:
        return name
    caller = start.caller(kernel)
    problem = errno.ENOENT
    for folder in search.split(b":"):
        path = (folder or b".") + b"/" + name
        try:
            attributes = resolve(caller, caller.fs.directory, path).node.attributes()
            if stat.S_ISREG(attributes.mode) and caller.may(attributes, os.X_OK):
                return path
            problem = errno.EACCES
        except (SyscallError, OSError) as error:
            number = error.number if isinstance(error, SyscallError) else error.errno
            if number not in (errno.ENOENT, errno.ENOTDIR):
                problem = errno.EACCES
    raise OSError(problem, os.strerror(problem), os.fsdecode(name))


def start(kernel: Kernel, name: bytes, settings: Start) -> Process:
    """Load the program `name` into a new process and let it run. OSError as execve(2) fails, ElfError."""
    caller = settings.caller(kernel)

    def open_file(path: bytes) -> OpenFile:
        return opening.find_program(caller, caller.fs.directory, path)

    limits = Limits.default(kernel.threads_max)
    try:
        pid = kernel.take_number()
        file = open_file(name)
        with file.held():
            stack = limits.soft(Limit.STACK)
            prepared = loader.prepare(file, open_file, name, settings.arguments, settings.environment, stack_limit=stack)
            try:
                memory, context, program = execve.load(kernel, prepared, settings.credentials, stack)
            finally:
                prepared.close()
    except SyscallError as error:
        raise OSError(error.number, os.strerror(error.number), os.fsdecode(name)) from None
    session = Session(pid, None)
    group = ProcessGroup(pid, session)
    process = Process(kernel, pid, group, memory, settings.files, caller.fs, settings.credentials, ActionTable(), limits, program)
    session.leader = process
    group.processes[pid] = process
    if settings.terminal is not None:
        settings.terminal.become_controlling(process)
    kernel.groups[pid] = group
    kernel.processes[pid] = process
    process.origin = process
    task = Task(process, context, pid, name.rpartition(b"/")[2])
    process.tasks[pid] = task
    kernel.start(task)
    return process
