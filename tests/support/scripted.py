"""A guest whose program is a Python generator of exits, or a list of them, run by the real kernel code on a fake machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asynckvm.linux import Capture, ExitStatus, Guest, Program
from support.elf_file import Header, R, W, elf
from support.fake_platform import FakeMachine, FakeSpace, Script

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

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


class Scripted:
    """`results`: what the calls returned, signed. `output`: what it wrote to its standard output and error."""

    def __init__(self, calls: Script | list[Exit], folder: Path, **options: Any) -> None:
        self.results: list[int] = []
        self.output = Capture()
        self._calls = calls
        self.machine = FakeMachine(self._script)
        settings = {"stdin": b"", "stdout": self.output, "stderr": self.output, **options}
        with Program(program_file(folder)) as program:
            self.guest = Guest(self.machine, program, ["program"], **settings)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        return self.guest.process.identity.pid

    async def finish(self) -> ExitStatus:
        """Run it to its end and close it."""
        try:
            async with asyncio.timeout(SECONDS):
                return await self.guest.run()
        finally:
            self.guest.close()

    async def begin(self) -> asyncio.Task[ExitStatus]:
        """Run it as a task; returns when its first call is under way."""
        task = asyncio.create_task(self.finish())
        while not self.machine.contexts[0].exits:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    def _script(self, space: FakeSpace) -> Generator[Exit, int, None]:
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
