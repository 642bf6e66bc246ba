"""`asynckvm bench --programs`: whole programs in sandboxes on each platform and on the host itself, taking turns in one run.

Times mean little from one minute to the next on a shared machine; the ratio of two runs in a row does. Each row says what it
does so often, how often, and counts that it was done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.cli.bench_conditions import platforms
from asynckvm.errors import InternalError
from asynckvm.platform import Machine
from asynckvm.sandbox import Limits, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from asynckvm.model.config import PlatformChoice, PlatformName

SECONDS: Final = 300
MEBIBYTE: Final = 1 << 20
ROUNDS: Final = 5
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_HASHED: Final = 256 * MEBIBYTE
_PIPED: Final = 64 * MEBIBYTE
_SPAWNED: Final = 200

_HELLO: Final = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
# What one kind of work costs in a loop: calls that a vCPU's thread answers, calls that reach the kernel in Python, first touches.
_LOOPS: Final = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count = atol(argv[2]), done = 0;
	char *memory = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec begin, end;

	(void)argc;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (!strcmp(argv[1], "getpid"))
		for (; done < count; done++)
			syscall(SYS_getpid);
	else if (!strcmp(argv[1], "getppid"))
		for (; done < count; done++)
			syscall(SYS_getppid);
	else
		for (; done < count; done++)
			memory[done * 4096] = 1;
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%ld %lld\\n", done, (end.tv_sec - begin.tv_sec) * 1000000000ll + end.tv_nsec - begin.tv_nsec);
	return 0;
}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A command that is timed. `aim`: what the ratio is to stay below, if anything was promised. `loop`: its own time counts.

    `check` raises unless the output shows that the work was done.
    """

    name: str
    argv: tuple[str, ...]
    what: str
    check: Callable[[bytes], bool]
    aim: float | None = None
    loop: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of each round, natively and on each platform."""

    row: Row
    native: list[float]
    inside: dict[PlatformName, list[float]]

    def ratios(self, platform: PlatformName) -> list[float]:
        """Inside / natively, of each round, in rising order."""
        return sorted(inside / native for inside, native in zip(self.inside[platform], self.native, strict=True))

    def line(self) -> str:
        cells = [f"{self.row.name:10} {statistics.median(self.native) * 1e3:10.2f}"]
        for platform, inside in self.inside.items():
            ratios = self.ratios(platform)
            middle = statistics.median(ratios)
            met = "" if self.row.aim is None else "yes" if middle <= self.row.aim else "NO"
            cells.append(f"{statistics.median(inside) * 1e3:11.2f} {middle:8.2f} {met:3} {ratios[0]:8.2f} {ratios[-1]:8.2f}")
        aim = "" if self.row.aim is None else f"<= {self.row.aim:.2f}"
        return f"{' '.join(cells)} {aim:>8}  {self.row.what}"


def heading(platforms: Iterable[PlatformName]) -> str:
    """Above the lines of outcomes."""
    cells = [f"{platform + ' ms':>11} {'ratio':>8} {'met':3} {'min':>8} {'max':>8}" for platform in platforms]
    return f"{'program':10} {'native ms':>10} {' '.join(cells)} {'aim':>8}  what"


def rows(folder: Path) -> Iterator[Row]:
    """Those that can run here, with their files in `folder`."""
    with (folder / "hashed").open("wb") as file:
        for _ in range(_HASHED // MEBIBYTE):
            file.write(os.urandom(MEBIBYTE))
    yield Row("python", ("python3", "-c", "pass"), "cold python3 -c pass", lambda out: out == b"", 4.0)
    if shutil.which("gcc") is not None:
        (folder / "hello.c").write_text(_HELLO)
        (folder / "loops.c").write_text(_LOOPS)
        subprocess.run(["gcc", "-O2", "-static", "-o", folder / "loops", folder / "loops.c"], check=True, timeout=SECONDS)
        build = ("gcc", "-o", "hello", f"{folder}/hello.c")
        yield Row("gcc", build, "gcc hello.c: compiler, assembler, linker", lambda out: out == b"", 5.0)
    digest = ("sha256sum", f"{folder}/hashed")
    yield Row("sha256sum", digest, f"of {_HASHED // MEBIBYTE} MiB", lambda out: out.endswith(b"hashed\n"), 1.05)
    if (busybox := shutil.which("busybox")) is not None:
        loop = f"i=0; while [ $i -lt {_SPAWNED} ]; do {busybox} true; i=$((i+1)); done; echo $i"
        yield Row("spawn", ("sh", "-c", loop), f"{_SPAWNED} times fork, exec, wait", lambda out: out == b"%d\n" % _SPAWNED)
    piping = f"head -c {_PIPED} /dev/zero | wc -c"
    yield Row("pipe", ("sh", "-c", piping), f"{_PIPED // MEBIBYTE} MiB through a pipe", lambda out: int(out) == _PIPED)
    if (folder / "loops").exists():
        for name, count in (("getpid", 20_000), ("getppid", 5_000), ("touch", 16_384)):
            argv = (f"{folder}/loops", name, str(count))
            what = "first touches of pages" if name == "touch" else f"{name}() in a loop"
            yield Row(name, argv, f"{count} {what}", _counts(count), loop=True)


def _counts(count: int) -> Callable[[bytes], bool]:
    return lambda out: int(out.split()[0]) == count


async def measure(rounds: int = ROUNDS, wanted: str = "", asked: Sequence[PlatformChoice] = ()) -> list[Outcome]:
    """Every row `rounds` times natively and on each platform in turn: those asked for, or all that work.

    `wanted` names some of the rows, separated by commas.
    """
    names = tuple(await platforms(asked))
    print(heading(names), flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="asynckvm-bench-") as name:
        folder = Path(name)
        async with contextlib.AsyncExitStack() as stack:
            sandboxes = {platform: await _open_sandbox(stack, platform, name) for platform in names}
            for row in rows(folder):
                if wanted and row.name not in wanted.split(","):
                    continue
                outcome = Outcome(row, [], {platform: [] for platform in names})
                for _ in range(rounds):
                    outcome.native.append(_run_natively(row, folder))
                    for platform, sandbox in sandboxes.items():
                        outcome.inside[platform].append(await _run_inside(sandbox, row))
                outcomes.append(outcome)
                print(outcome.line(), flush=True)
    return outcomes


async def _open_sandbox(stack: contextlib.AsyncExitStack, platform: PlatformName, folder: str) -> Sandbox:
    machine = await stack.enter_async_context(Machine.open(platform=platform))
    limits = Limits(memory=1 << 30)
    sandbox = Sandbox(machine=machine, binds=[folder], env=ENVIRONMENT, cwd="/tmp", limits=limits)  # noqa: S108
    return await stack.enter_async_context(sandbox)


def _run_natively(row: Row, folder: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(row.argv, capture_output=True, env=ENVIRONMENT, timeout=SECONDS, check=True, cwd=folder)
    return _seconds(row, done.stdout, time.perf_counter() - began)


async def _run_inside(sandbox: Sandbox, row: Row) -> float:
    result = await sandbox.run(row.argv, timeout=SECONDS)
    if result.returncode:
        raise InternalError(f"{row.name} {result}: {result.stderr[-500:]!r}", "")
    return _seconds(row, result.stdout, result.wall_time)


def _seconds(row: Row, output: bytes, wall_time: float) -> float:
    if not row.check(output):
        raise InternalError(f"{row.name} did not do its work: {output[-200:]!r}", "")
    return int(output.split()[1]) / 1e9 if row.loop else wall_time
