"""What a sandbox may use: every bound with its unit, and what happens at it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asynckvm.errors import UsageError
from asynckvm.linux.files.account import OPEN_FILES
from asynckvm.linux.sockets.outside import SOCKETS

MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one sandbox. Bytes and numbers.

    `memory`: of all processes together, with their page tables and what they share without a file; what forks share counts
    once. The process whose touch goes beyond is killed (reason "memory limit"). `processes`: threads of all
    processes; more are refused with EAGAIN. `output`: bytes of stdout and of stderr that one run may write; the run is ended at
    more (reason "output limit"). `files`: bytes in the sandbox's own file systems; more are refused with ENOSPC.
    `open_files`: files, pipes, sockets and the like that all processes have open; more are refused with ENFILE.
    `host_sockets`: of what a network policy grants, at a time; more are refused with ENOBUFS.
    """

    memory: int = 512 * MEBIBYTE
    processes: int = 256
    output: int = 16 * MEBIBYTE
    files: int = 256 * MEBIBYTE
    open_files: int = OPEN_FILES
    host_sockets: int = SOCKETS

    def __post_init__(self) -> None:
        if self.memory < MEBIBYTE or self.processes < 1 or min(self.output, self.files, self.open_files, self.host_sockets) < 0:
            raise UsageError("limits: memory of at least 1 MiB, at least one process, nothing negative")
