"""A guest whose program is a Python generator of exits, or a list of them, run by the real kernel code on a fake machine."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from asynckvm.linux import ExitStatus
from asynckvm.linux.report import Reporter
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals import send
from asynckvm.linux.streams import Capture
from asynckvm.sandbox import CompletedProcess, Sandbox
from support.elf_file import Header, R, W, elf
from support.fake_platform import FakeMachine, FakeSpace, Script

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from asynckvm.linux.process import Process
    from asynckvm.model.exits import Exit

SECONDS = 20
# Writable memory of every scripted guest, 64 KiB.
DATA = 0x600000


def program_file(folder: Path) -> Path:
    """A program that has memory at DATA and no code worth running."""
    path = folder / "program"
    path.write_bytes(elf(Header(), Header(flags=R | W, address=DATA, file_bytes=0, memory_bytes=0x10000)))
    path.chmod(0o755)
    return path


class _Reporter(Reporter):
    """Remembers how the program ended."""

    status: ExitStatus | None = None

    def ended(self, process: Process, status: ExitStatus) -> None:
        if process.origin is process:
            self.status = status
        super().ended(process, status)


class Scripted:
    """`results`: what the calls returned, signed. `output`: what it wrote to its standard output and error. `process` and
    `result` are there once it has begun and ended. It sees the folder of the test, to read.
    Options are those of Sandbox.run(), and `trace`."""

    def __init__(self, calls: Script | list[Exit], folder: Path, *, trace: bool = False, **options: Any) -> None:
        self.results: list[int] = []
        self.output = Capture()
        self.machine = FakeMachine(self._script)
        self.result: CompletedProcess
        self.process: Process
        self.sandbox: Sandbox
        self._calls = calls
        self._settings = {"stdout": self.output, "stderr": self.output, **options}
        self._program = program_file(folder)
        self._reporter = _Reporter(trace=trace)

    async def finish(self) -> ExitStatus:
        """Run it to its end, in a sandbox that is closed then."""
        folder = str(self._program.parent)
        binds = [(str(self._program), "/program"), (folder, folder)]
        machine: Any = self.machine
        async with asyncio.timeout(SECONDS), Sandbox(machine=machine, binds=binds, observer=self._reporter) as self.sandbox:
            self.result = await self.sandbox.run(["/program"], **self._settings)
        assert self._reporter.status is not None
        return self._reporter.status

    async def begin(self) -> asyncio.Task[ExitStatus]:
        """Run it as a task; returns when its first call is under way."""
        task = asyncio.create_task(self.finish())
        while not self.machine.contexts or not self.machine.contexts[0].exits:
            assert not task.done(), task
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    def kill(self, number: int = signal.SIGKILL, *, reason: str = "") -> None:
        """A signal from outside."""
        send.send_to_process(self.process, infos.from_user(number, 0, 0, reason=reason))

    def _script(self, space: FakeSpace) -> Generator[Exit, int, None]:
        (self.process,) = self.sandbox.kernel.processes.values()
        if not callable(self._calls):
            for call in self._calls:
                self._keep((yield call))
            return
        script = self._calls(space)
        try:
            exit_ = next(script)
            while True:
                answer = yield exit_
                exit_ = script.send(self._keep(answer))
        except StopIteration:
            return

    def _keep(self, answer: int) -> int:
        answer = answer - (1 << 64) if answer >> 63 else answer
        self.results.append(answer)
        return answer
