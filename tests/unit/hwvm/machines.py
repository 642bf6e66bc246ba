"""A machine without an emulator: bash plays the guest, and writes to the console what a guest would."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hwvm.emulator import Limits, Machine
from hwvm.exchange import Job
from hwvm.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwvm.emulator import Disk


class Bash:
    """An emulator whose guest is a script: $console is where it writes, $exchange the last disk."""

    drivers: tuple[str, ...] = ()

    def __init__(self, script: str) -> None:
        self.script = script
        self.booted: list[Machine] = []

    def command(self, machine: Machine) -> list[str]:
        self.booted.append(machine)
        exchange = machine.disks[-1].path if machine.disks else ""
        return ["bash", "-c", f"console={machine.console} exchange={exchange}\ncd {machine.folder}\n{self.script}"]


def limits(boot: float = 20, total: float = 20, *, cancelled: bool = False) -> Limits:
    event = threading.Event()
    if cancelled:
        event.set()
    return Limits(boot, total, event)


def machine(folder: Path, disks: Iterable[Disk] = ()) -> Machine:
    return Machine("some", Kernel("1.2", folder), folder / "initrd", tuple(disks), "console=ttyS0", 512, folder)


def job(
    pytest: tuple[str, ...] = ("-v", "tests/kvm"), c_builds: tuple[str, ...] = ("plain",), instead: tuple[str, ...] = ()
) -> Job:
    return Job(Path("/project"), pytest, c_builds, instead, {"ASYNCKVM_PACE": "20"}, 600, 60)
