"""One variant from boot to results, whatever the machine does on the way."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hwvm import exchange, results
from hwvm.emulator import Disk, End, Limits, Machine, run
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwvm.emulator import Emulator
    from hwvm.exchange import Job
    from hwvm.kernels import Kernel
    from hwvm.results import Results
    from hwvm.variants import Variant

# mitigations=off and norandmaps make emulated code faster, nokaslr its addresses readable; after an oops nothing counts.
COMMAND_LINE = "console=ttyS0,115200 quiet panic=-1 oops=panic mitigations=off nokaslr norandmaps"
# A machine that never got as far as the job says nothing about the project: it is booted once more.
BOOTS = 2
TAIL_LINES = 40


class Parts(NamedTuple):
    """What the machines of one processor are put together from."""

    emulator: Emulator
    kernel: Kernel
    initrd: Path
    images: tuple[Path, ...]
    memory: int
    limits: Limits


class Session(NamedTuple):
    """How it went: results, or why there are none."""

    variant: Variant
    results: Results | None
    trouble: str
    seconds: float

    @property
    def status(self) -> int:
        return results.NO_VERDICT if self.results is None else self.results.status


def hold(variant: Variant, parts: Parts, job: Job, cache: Path, listener: Callable[[str], None]) -> Session:
    """Boot the variant, have it do the job, and judge what it brings back. The console is kept as cache/VARIANT.console."""
    spent = 0.0
    for _ in range(BOOTS):
        with tempfile.TemporaryDirectory(prefix=f"run-{variant.name}-", dir=cache) as scratch:
            machine = _machine(variant, parts, Path(scratch))
            exchange.write(machine.disks[-1].path, job, variant)
            try:
                outcome = run(parts.emulator, machine, parts.limits, lambda line: listener(line.decode(errors="replace")))
            finally:
                for name in ("console", "log"):
                    if (machine.folder / name).exists():
                        shutil.copy(machine.folder / name, cache / f"{variant.name}.{name}")
            spent += outcome.seconds
            if outcome.end is End.DONE:
                return _judge(variant, job, machine.disks[-1].path, spent)
        if outcome.ready or outcome.end is End.CANCELLED:
            break
        listener(f"{outcome.end.value} before the job began")
    return Session(variant, None, f"{outcome.end.value} after {outcome.seconds:.0f} s\n{_tail(cache, variant)}", spent)


def _machine(variant: Variant, parts: Parts, folder: Path) -> Machine:
    disks = (*(Disk(image) for image in parts.images), Disk(folder / "exchange", writable=True))
    command_line = f"{COMMAND_LINE} hwvm.disks={len(disks)} {variant.command_line}".strip()
    return Machine(variant.model, parts.kernel, parts.initrd, disks, command_line, parts.memory, folder)


def _judge(variant: Variant, job: Job, disk: Path, seconds: float) -> Session:
    try:
        found = results.read(exchange.read(disk), job)
        return Session(variant, found, found.missing, seconds)
    except (HarnessError, ValueError) as error:
        return Session(variant, None, str(error), seconds)


def _tail(cache: Path, variant: Variant) -> str:
    text = ""
    for name in ("log", "console"):
        path = cache / f"{variant.name}.{name}"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        text += f"the end of {path}:\n" + "".join(f"    {line}\n" for line in lines[-TAIL_LINES:])
    return text
