"""What an emulator is to the harness, and how one is run so that nothing it does can hang the harness.

An emulator turns a machine into a command line; here that command is started, its console followed, and its end enforced.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwvm.kernels import Kernel

# Disk images are multiples of this: 16 heads of 63 sectors of 512 bytes, for emulators that want a disk's geometry.
CYLINDER = 16 * 63 * 512
# Lines that the guest writes to its console; see guest/init.
READY_MARK = b"hwvm: ready"
DONE_MARK = b"hwvm: done"
# How long a machine that is done may take to switch itself off.
POWEROFF_SECONDS = 5
STOP_SECONDS = 5  # for the emulator to obey SIGTERM
MOST_CONSOLE = 64 << 20
POLL_SECONDS = 0.1


class Disk(NamedTuple):
    """A raw image. Read-only ones are squashfs; the size is a multiple of CYLINDER."""

    path: Path
    writable: bool = False


class Machine(NamedTuple):
    """What is to be booted. The order of disks is not promised to the guest, which knows them by their content."""

    model: str  # of the CPU, as the emulator calls it
    kernel: Kernel
    initrd: Path
    disks: tuple[Disk, ...]  # at most three
    command_line: str  # of the kernel, complete: console=ttyS0 and so on
    memory: int  # MiB
    folder: Path  # for whatever the emulator needs to write; the harness removes it

    @property
    def console(self) -> Path:
        """Where the first serial port's output must go, from the first byte and unbuffered."""
        return self.folder / "console"


class Emulator(Protocol):
    """QEMU or Bochs."""

    # Kernel modules for its disks and its console, which go into the initrd with what they depend on.
    drivers: tuple[str, ...]

    def command(self, machine: Machine) -> list[str]:
        """The program to start, having written what it needs (configuration, boot medium) into machine.folder.

        It runs in the foreground with its own standard output kept in machine.folder/log; it ends when the machine is switched
        off, or is ended by the harness POWEROFF_SECONDS after the guest wrote DONE_MARK. SIGTERM must end it.
        """


class End(Enum):
    """How a machine ended."""

    DONE = "done"  # the guest said so; results may be read
    DIED = "the machine died"
    NO_BOOT = "the machine did not come up in time"
    LIMIT = "the machine ran out of its time"
    FLOOD = "the machine flooded its console"
    CANCELLED = "the run was cancelled"


class Limits(NamedTuple):
    """Seconds from the start: until the guest is ready, and until it is done. cancelled ends a run sooner."""

    boot: float
    total: float
    cancelled: threading.Event


class Outcome(NamedTuple):
    end: End
    ready: bool  # whether the guest came as far as starting the job
    seconds: float


class Console:
    """The console file as it grows; complete lines go to a listener."""

    def __init__(self, path: Path, listener: Callable[[bytes], None]) -> None:
        self.ready = False
        self.done = False
        self._path = path
        self._listener = listener
        self.length = 0
        self._rest = b""

    def follow(self) -> None:
        """Read what is new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.length)
                new = file.read(MOST_CONSOLE)
        except FileNotFoundError:
            return
        self.length += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            # The line may begin with what the firmware left there.
            self.ready = self.ready or READY_MARK in line
            self.done = self.done or DONE_MARK in line
            self._listener(line.rstrip(b"\r"))


def run(emulator: Emulator, machine: Machine, limits: Limits, listener: Callable[[bytes], None]) -> Outcome:
    """Boot the machine and wait for its end, at most limits.total and a few seconds; no process is left behind."""
    # timeout ends the emulator even if this process is killed and can't.
    bound = ["timeout", f"--kill-after={STOP_SECONDS}", str(int(limits.total + POWEROFF_SECONDS + STOP_SECONDS + 10))]
    command = emulator.command(machine)
    console = Console(machine.console, listener)
    started = time.monotonic()
    with (machine.folder / "log").open("wb") as log:
        process = subprocess.Popen([*bound, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = _wait(process, console, limits, started)
        finally:
            _stop(process)
    console.follow()
    return Outcome(End.DONE if console.done else end, console.ready, time.monotonic() - started)


def _wait(process: subprocess.Popen[bytes], console: Console, limits: Limits, started: float) -> End:
    done_at = None
    while True:
        ended = process.poll() is not None
        console.follow()
        now = time.monotonic()
        if console.done and done_at is None:
            done_at = now
        if ended:
            return End.DONE if console.done else End.DIED
        if done_at is not None and now - done_at > POWEROFF_SECONDS:
            return End.DONE
        if done_at is None and (reason := _exceeded(console, limits, now - started)):
            return reason
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)


def _exceeded(console: Console, limits: Limits, seconds: float) -> End | None:
    """Why a machine that is not done has to end, if it has."""
    if limits.cancelled.is_set():
        return End.CANCELLED
    if seconds > limits.total:
        return End.LIMIT
    if seconds > limits.boot and not console.ready:
        return End.NO_BOOT
    return End.FLOOD if console.length >= MOST_CONSOLE else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM reaches the emulator through timeout, which then insists with SIGKILL."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(2 * STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
