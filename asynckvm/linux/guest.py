"""A guest: one program in one machine, from its file to its exit status.

The public face of this package. Puts a process together, drives it, reports how it ended, and gives everything back; what
happens in between is `dispatch`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, InternalError, UsageError
from asynckvm.linux import dispatch, loader, streams
from asynckvm.linux.files import DESCRIPTORS_MAX, DescriptorTable, OpenFile
from asynckvm.linux.identity import Identity
from asynckvm.linux.memory import Memory
from asynckvm.linux.process import Process
from asynckvm.linux.report import Reporter
from asynckvm.linux.stack import Auxiliary
from asynckvm.linux.syscalls.table import CONSTANT, name_of
from asynckvm.linux.task import Task
from asynckvm.linux.vfs import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self, TypeAlias

    from asynckvm.linux.loader import Program
    from asynckvm.linux.status import ExitStatus
    from asynckvm.platform import AddressSpace, Context, Machine

    # A host descriptor, which stays the caller's; bytes to read; an open file; or None for a closed descriptor.
    Stream: TypeAlias = int | bytes | OpenFile | None

# HWCAP2: ring 3 may use the FSGSBASE instructions.
_HWCAP2_FSGSBASE: Final = 2


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a program has cost so far. `exits` reached Python, `native_exits` were resolved on the vCPU's thread.

    `ran_ns`: time on a vCPU. `resident`: 4 KiB pages of private memory. `syscalls`: calls that reached Python, by name.
    """

    exits: int
    native_exits: int
    ran_ns: int
    resident: int
    syscalls: dict[str, int]


class Guest:
    """A loaded program. `await run()` once, then `close()`; or `async with`. Thread: loop."""

    def __init__(
        self,
        machine: Machine,
        program: Program,
        arguments: Sequence[str | bytes],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] = "/",
        stdin: Stream = b"",
        stdout: Stream = 1,
        stderr: Stream = 2,
        trace: bool = False,
    ) -> None:
        """Load `program` into an address space of its own.

        `arguments` include the program's own name. `directory` is the working directory, by default this process's own, a
        path below `root`, which is what the guest sees of the host, read-only. Raises elf.ElfError,
        stack.ArgumentsTooLongError, OutOfMemoryError, OSError for a directory or stream that cannot be used.
        """
        if not arguments:
            raise UsageError("a program is started with at least its own name as argument")
        self._space: AddressSpace | None = None
        self._context: Context | None = None
        self._files = DescriptorTable()
        self._runner: asyncio.Task[ExitStatus] | None = None
        self._statistics: Statistics | None = None
        identity = Identity()
        try:
            for number, stream in enumerate((stdin, stdout, stderr)):
                if stream is not None:
                    self._files.replace(number, _open_stream(stream))
            self._space = machine.create_address_space()
            with contextlib.closing(program.map_file(machine)) as file:
                loaded = loader.load(
                    self._space,
                    program,
                    file,
                    [os.fsencode(argument) for argument in arguments],
                    [os.fsencode(f"{name}={value}") for name, value in (environment or {}).items()],
                    _auxiliary(identity, machine),
                )
            view = View(os.fsencode(root), program.path, program.duplicate)
            start = os.fsencode(directory if directory is not None else Path.cwd())
            process = Process(
                machine,
                Memory(self._space, loaded.heap),
                self._files,
                view,
                view.resolve(view.root, start),
                identity,
                program.name.rpartition(b"/")[2],
            )
            self._context = machine.create_context(self._space)
        except BaseException:
            self.close()
            raise
        self.process = process
        self._task = Task(process, self._context, identity.pid)
        self._context.registers = self._context.registers.replace(rip=loaded.entry, rsp=loaded.stack_pointer)
        self._context.answers = {call.number: _constant(call.handler(self._task)) for call in CONSTANT}
        self._reporter = Reporter(program.name, trace=trace)
        self._driver = dispatch.Runner(self._task, self._reporter)

    async def run(self) -> ExitStatus:
        """Run the program to its end. When this is cancelled, the guest is off its vCPU and dead before CancelledError leaves."""
        if self._runner is not None or self._context is None:
            raise UsageError("a guest runs once")
        self._runner = asyncio.create_task(self._driver.run(), name=f"guest {self.process.identity.pid}")
        try:
            status = await self._runner
        finally:
            self._files.close_range(0, DESCRIPTORS_MAX)
        self._reporter.ended(self._task, status)
        return status

    def kill(self, number: int = signal.SIGKILL, *, reason: str = "") -> None:
        """Send a signal from outside, as kill(2) would; `reason` is reported when it ends the program. Never blocks."""
        process = self.process
        if process.ended is not None:
            return
        process.signals.send(number)
        if process.signals.pending & ~process.signals.blocked:
            process.signal_reasons.setdefault(number, reason)
            self._task.notice()

    @property
    def statistics(self) -> Statistics:
        """A snapshot; the last one once the guest is closed. Raises ClosedError when the machine was closed first."""
        if self._context is None or self._space is None:
            if self._statistics is None:
                raise ClosedError("the machine was closed before the guest")
            return self._statistics
        counters = self._context.counters
        calls = {name_of(number): count for number, count in self.process.calls.most_common()}
        return Statistics(counters.exits, counters.native_exits, counters.ran_ns, self._space.resident, calls)

    def close(self) -> None:
        """Give back the context, the address space and every descriptor. Not while `run()` is under way; twice is once."""
        if self._runner is not None and not self._runner.done():
            raise UsageError("close() while the guest runs: cancel run() or kill() it first")
        if self._context is not None and self._space is not None:
            with contextlib.suppress(ClosedError):
                self._statistics = self.statistics
            self.process.release()
        self._files.close_range(0, DESCRIPTORS_MAX)
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._space is not None:
            self._space.close()
            self._space = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None and not self._runner.done():
            self._runner.cancel()
            await asyncio.wait([self._runner])
        self.close()


def _open_stream(stream: int | bytes | OpenFile) -> OpenFile:
    if isinstance(stream, OpenFile):
        return stream
    return streams.Source(stream) if isinstance(stream, bytes) else streams.host_stream(stream)


def _auxiliary(identity: Identity, machine: Machine) -> dict[Auxiliary, int]:
    """The auxiliary entries that neither the file nor the processor knows."""
    return {
        Auxiliary.UID: identity.user,
        Auxiliary.EUID: identity.effective_user,
        Auxiliary.GID: identity.group,
        Auxiliary.EGID: identity.effective_group,
        Auxiliary.SECURE: int(identity.is_secure),
        Auxiliary.HWCAP2: _HWCAP2_FSGSBASE if machine.capabilities.fsgsbase else 0,
    }


def _constant(answer: object) -> int:
    if not isinstance(answer, int):
        raise InternalError("a constant system call must not wait")
    return answer
