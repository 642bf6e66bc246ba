"""A sandbox: a file system, limits and processes of its own, in which commands are run.

    async with Sandbox() as sandbox:
        result = await sandbox.run(["python3", "-c", code], timeout=5)

Puts a kernel of `asynckvm.linux` together, starts programs in it and reports how they ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, OutOfMemoryError, UsageError
from asynckvm.linux.files import DescriptorTable
from asynckvm.linux.kernel import Kernel
from asynckvm.linux.report import Reporter
from asynckvm.linux.start import Start, find_in_path, start
from asynckvm.linux.status import Cause, ExitStatus
from asynckvm.linux.streams import Capture, Source, host_stream
from asynckvm.linux.syscalls.table import name_of
from asynckvm.linux.tty import HostTerminal
from asynckvm.model.memory import PAGE
from asynckvm.platform import Machine
from asynckvm.sandbox import root
from asynckvm.sandbox.binds import Bind, BindLike, bind_of
from asynckvm.sandbox.limits import Limits
from asynckvm.sandbox.result import CompletedProcess, reason_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence
    from typing import Self, TypeAlias

    from asynckvm.linux.credentials import Credentials
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.process import Process
    from asynckvm.linux.report import Observer
    from asynckvm.linux.sockets.policy import Policy
    from asynckvm.model.config import PlatformChoice

    # Bytes to read; a host descriptor, which stays the caller's; an open file; None for /dev/null.
    Input: TypeAlias = bytes | int | OpenFile | None
    # A host descriptor or an open file; None to capture it.
    Output: TypeAlias = int | OpenFile | None

ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
WORK: Final = "/work"
CLOSED: Final = -1
_RECLAIM_SECONDS: Final = 1.0
_RECLAIM_LOOK_SECONDS: Final = 0.005


class Sandbox:
    """Open it with `async with`. Runs may overlap: they share files and see each other's processes. Thread: loop.

    `machine`: one that several sandboxes share; without, the sandbox opens its own. `binds`: what it sees of the host beside
    the read-only default root. `env`: in place of ENVIRONMENT. `cwd`: where runs begin. `credentials`: who its programs are,
    by default root of the sandbox when the host's user is, else a user of the same numbers. `network`: a function or coroutine
    function that is asked before anything leaves the sandbox, as `linux.sockets.policy` and `AllowConnect` say; without, nothing
    does. Loopback addresses always stay inside. `platform`: what the machine that it opens runs on, as `Machine.open` takes it.
    """

    def __init__(
        self,
        *,
        machine: Machine | None = None,
        binds: Iterable[BindLike] = (),
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        limits: Limits | None = None,
        credentials: Credentials | None = None,
        observer: Observer | None = None,
        network: Policy | None = None,
        platform: PlatformChoice = "auto",
    ) -> None:
        if machine is not None and platform != "auto":
            raise UsageError("the platform is that of the machine: give one of the two")
        self.limits = limits if limits is not None else Limits()
        self.env = dict(ENVIRONMENT if env is None else env)
        self.cwd = cwd
        self._binds: list[Bind] = [bind_of(bind) for bind in binds]
        self._given = machine
        self._machine: Machine | None = None
        self._kernel: Kernel | None = None
        self._credentials = credentials if credentials is not None else root.default_credentials()
        self._observer = observer if observer is not None else Reporter()
        self._network = network
        self._platform = platform

    async def __aenter__(self) -> Self:
        if self._kernel is not None:
            raise UsageError("a sandbox is entered once")
        self._machine = self._given if self._given is not None else await Machine.open(platform=self._platform)
        try:
            self._kernel = Kernel(
                self._machine,
                self._observer,
                threads=self.limits.processes,
                memory_pages=self.limits.memory // PAGE,
                open_files=self.limits.open_files,
                policy=self._network,
                host_sockets=self.limits.host_sockets,
            )
            self._kernel.open()
            root.build(self._kernel, self._binds, self.limits, self._credentials)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every process and give everything back. Idempotent."""
        kernel, self._kernel = self._kernel, None
        machine, self._machine = self._machine, None
        try:
            if kernel is not None:
                await kernel.close()
        finally:
            if machine is not None and self._given is None:
                await machine.close()

    def terminal(self, keyboard: int, screen: int) -> HostTerminal:
        """A terminal for runs, shown on and typed into host descriptors; enter it with `async with`. OSError for bad ones.

        A host terminal must be in raw mode meanwhile (`tty.setraw`), and `resize()` is to be called for its SIGWINCH.
        """
        return HostTerminal(self.kernel.terminals, keyboard, screen)

    def bind(self, bind: BindLike) -> None:
        """Let its programs see more of the host, from now on. OSError when the source is not there."""
        root.bind(self.kernel, bind_of(bind))

    def has(self, path: str) -> bool:
        """Whether there is a file by this absolute path."""
        return root.has(self.kernel, path)

    @property
    def kernel(self) -> Kernel:
        """The kernel its programs see. Raises ClosedError."""
        if self._kernel is None:
            raise ClosedError("the sandbox is not open")
        return self._kernel

    async def run(
        self,
        args: Sequence[str | bytes],
        *,
        input: Input = b"",  # noqa: A002  as subprocess.run has it
        stdout: Output = None,
        stderr: Output = None,
        timeout: float | None = None,  # noqa: ASYNC109  a result, not an exception
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = False,
        terminal: HostTerminal | None = None,
    ) -> CompletedProcess:
        """Run a command to its end; how it ended is the result, also for a timeout (seconds) or another limit.

        `stdout` and `stderr` are captured, unless a host descriptor or open file is given; CLOSED in place of a descriptor leaves
        a stream closed. Descriptors are read and written while the program runs. A `terminal` controls the program, and is every
        stream that is not given (`input`: that is b""). UsageError when it controls another run.

        The run has ended when its first process has; what other processes that one left behind are killed then.
        When this call is cancelled, they all are, before CancelledError leaves it. Raises FileNotFoundError, PermissionError and
        other OSErrors as execve(2) fails, elf.ElfError, and ProcessError with `check`.
        """
        began = time.monotonic()
        files = DescriptorTable(account=self.kernel.open_files)
        try:
            captures = _connect(files, (input, stdout, stderr), terminal, self.limits.output)
            process = await self._started(self._start(args, files, env, cwd, terminal))
        except BaseException:
            files.drop()
            raise
        for capture in captures:
            capture.on_overflow = lambda: _end(process, Cause.OUTPUT)
        await self._wait(process, timeout)
        result = _result(args, process, captures, time.monotonic() - began)
        if check:
            result.check_returncode()
        return result

    def _start(
        self,
        args: Sequence[str | bytes],
        files: DescriptorTable,
        env: Mapping[str, str] | None,
        cwd: str | None,
        terminal: HostTerminal | None,
    ) -> Start:
        if not args:
            raise UsageError("a command is at least the name of a program")
        environment = self.env if env is None else env
        return Start(
            arguments=[os.fsencode(argument) for argument in args],
            environment=[os.fsencode(f"{name}={value}") for name, value in environment.items()],
            directory=os.fsencode(cwd if cwd is not None else self.cwd),
            credentials=self._credentials,
            files=files,
            terminal=terminal.terminal if terminal is not None else None,
        )

    async def _started(self, settings: Start) -> Process:
        """Start it. Memory of a run that has just ended may be on its way back to the machine still: that is waited for."""
        until = time.monotonic() + _RECLAIM_SECONDS
        search = next((value[5:] for value in settings.environment if value.startswith(b"PATH=")), os.fsencode(os.defpath))
        while True:
            if settings.terminal is not None and settings.terminal.session is not None:
                raise UsageError("the terminal is that of another run")
            try:
                return start(self.kernel, find_in_path(self.kernel, settings, search), settings)
            except OutOfMemoryError:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(_RECLAIM_LOOK_SECONDS)

    async def _wait(self, process: Process, timeout: float | None) -> None:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await process.until_exited()
        except TimeoutError:
            _end(process, Cause.TIMEOUT)
        except asyncio.CancelledError:
            _end(process, Cause.CANCELLED)
            raise
        finally:
            await _to_its_end(process.kernel.end_run(process))
        process.kernel.check()


async def _to_its_end(call: Coroutine[None, None, None]) -> None:
    """Await what must not be left half done; cancellations meanwhile are passed on afterwards."""
    running = asyncio.ensure_future(call)
    cancelled = False
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            cancelled = True
    running.result()
    if cancelled:
        raise asyncio.CancelledError


def _end(process: Process, cause: Cause) -> None:
    process.end(ExitStatus(signal=signal.SIGKILL, reason=cause.value, cause=cause))


def _connect(
    files: DescriptorTable, streams: tuple[Input, Output, Output], terminal: HostTerminal | None, limit: int
) -> list[Capture]:
    """Make the standard streams; returns the buffers of stdout and stderr, unused for what is not captured."""
    captures = [Capture(limit), Capture(limit)]
    default = (Source(b""), *captures) if terminal is None else (terminal.slave,) * 3
    for number, given in enumerate(streams):
        is_given = given is not None if number else given != b""
        stream = _stream(given) if is_given else default[number]
        if stream is not None:
            files.replace(number, stream)
    return captures


def _stream(given: Input) -> OpenFile | None:
    if given is None:
        return Source(b"")
    if isinstance(given, (bytes, bytearray, memoryview)):
        return Source(bytes(given))
    if isinstance(given, int):
        return host_stream(given) if given != CLOSED else None
    return given


def _result(args: Sequence[str | bytes], process: Process, captures: Sequence[Capture], wall_time: float) -> CompletedProcess:
    status = process.ended or ExitStatus(code=0)
    stdout, stderr = (bytes(capture.data) for capture in captures)
    return CompletedProcess(
        args=tuple(os.fsdecode(argument) for argument in args),
        returncode=status.returncode,
        stdout=stdout,
        stderr=stderr,
        reason=reason_of(status),
        signal=status.signal,
        fault=status.fault,
        detail=status.reason,
        wall_time=wall_time,
        cpu_time=(process.cpu_ns + process.children_ns) / 1e9,
        peak_memory=max(process.resident_max, process.resident_max_children) * PAGE,
        syscalls={name_of(number): count for number, count in process.all_calls.most_common()},
    )
