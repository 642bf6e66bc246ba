"""The other side of each comparison: programs in plain C that do the same without asynckvm, one sample at a time.

They are installed beside the compiled module (sources: native/bench). Nothing here uses the platform.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import select
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.errors import InternalError, UsageError
from asynckvm.platform.binding import benchmark_programs

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Floor", "WakeupFloor", "floors_folder"]

ANSWER_SECONDS: Final = 60
WORD_BYTES: Final = 8


def floors_folder(given: str | None = None) -> Path:
    """The folder of the floor programs; `given` replaces the installed one. UsageError when they are not there."""
    folder = Path(given) if given else benchmark_programs()
    if not os.access(folder / "floor_exit", os.X_OK):
        raise UsageError(f"no benchmark programs in {folder}: build with AKVM_BENCH=ON, or name their folder with --floors")
    return folder


class _Program:
    """A floor program that answers each line with a line. Waits are bounded; its death is an InternalError with its message."""

    def __init__(self, path: Path, *arguments: str, inherit: tuple[int, ...] = ()) -> None:
        self._name = path.name
        self._process = subprocess.Popen(
            [str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherit,
            bufsize=0,
        )
        self._rest = b""

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            self._died()

    def receive(self) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise InternalError(f"{self._name} did not answer within {ANSWER_SECONDS} s")
            received = os.read(descriptor, 65536)
            if not received:
                self._died()
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def _died(self) -> None:
        _, message = self._process.communicate(timeout=ANSWER_SECONDS)
        raise InternalError(f"{self._name} ended with status {self._process.returncode}: {message.decode().strip()}")

    def close(self) -> bytes:
        """End its input, and return what it still had to say. Its own checks failing is an InternalError."""
        if self._process.returncode is not None:
            return b""
        try:
            output, message = self._process.communicate(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise InternalError(f"{self._name} did not end within {ANSWER_SECONDS} s") from None
        if self._process.returncode:
            raise InternalError(f"{self._name} ended with status {self._process.returncode}: {message.decode().strip()}")
        return self._rest + bytes(output)


class Floor:
    """A floor program that is done in one process, kept alive so that product and floor can take turns.

    `with Floor(folder, "exit", operations) as floor: floor.sample()`; `summary` holds its own account after the block.
    """

    def __init__(self, folder: Path, name: str, operations: int) -> None:
        self._program = _Program(folder / f"floor_{name}", "-", str(operations))
        self.summary: dict[str, object] = {}

    def sample(self) -> dict[str, float]:
        """Nanoseconds for one operation, for each of the program's series. Blocks."""
        self._program.send("")
        answer: dict[str, float] = json.loads(self._program.receive())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.summary = json.loads(self._program.close() or b"{}")
        except InternalError:
            if error is None:
                raise


class WakeupFloor:
    """A bare wake-up: another process writes an eventfd, the running loop's reader is called.

    The reader stamps its time first thing and compares it with the writer's stamp; both clocks are CLOCK_MONOTONIC.
    """

    def __init__(self, folder: Path) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        shared = os.memfd_create("wakeup")
        try:
            os.ftruncate(shared, mmap.PAGESIZE)
            self._page = mmap.mmap(shared, mmap.PAGESIZE)
            self._words = memoryview(self._page).cast("Q")
            self._program = _Program(folder / "floor_wakeup", str(self._bell), str(shared), inherit=(self._bell, shared))
        finally:
            os.close(shared)
        self._seen = 0

    async def sample(self, count: int, busy_ns: float) -> float:
        """Median nanoseconds from write to reader over `count` wake-ups, each `busy_ns` after the loop went to wait."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        latencies: list[int] = []

        def reader() -> None:
            now_ns = time.monotonic_ns()
            os.read(self._bell, WORD_BYTES)
            latencies.append(now_ns - self._words[0])
            self._seen += 1
            if len(latencies) == count and not done.done():
                done.set_result(None)
            # Last: from here on the other side may write again.
            self._words[1] = self._seen

        loop.add_reader(self._bell, reader)
        try:
            self._program.send(f"{count} {round(busy_ns)}")
            async with asyncio.timeout(ANSWER_SECONDS):
                await done
        finally:
            loop.remove_reader(self._bell)
        written = int(self._program.receive())
        if written != self._seen:
            raise InternalError(f"{written} wake-ups were written, {self._seen} arrived")
        return float(sorted(latencies)[count // 2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self._program.close()
        except InternalError:
            if error is None:
                raise
        finally:
            self._words.release()
            self._page.close()
            os.close(self._bell)
