"""How a run ended, as a value that answers what `subprocess.CompletedProcess` does, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asynckvm.errors import GuestError
from asynckvm.linux.status import Cause, signal_name

if TYPE_CHECKING:
    from asynckvm.linux.status import ExitStatus
    from asynckvm.model.exits import Fault


class Reason(enum.StrEnum):
    """Why a run ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    MEMORY = "memory limit"
    CPU = "cpu limit"
    OUTPUT = "output limit"
    CANCELLED = "cancelled"
    CLOSED = "closed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class CompletedProcess:
    """`returncode` as `subprocess` has it: the exit status, or -signal. Times in seconds; `peak_memory` in bytes of private
    memory of the largest process; `syscalls` that reached the sandbox, by name, of the first process."""

    args: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    reason: Reason
    signal: int | None = None
    fault: Fault | None = None
    detail: str = ""
    wall_time: float = 0.0
    cpu_time: float = 0.0
    peak_memory: int = 0
    syscalls: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def check_returncode(self) -> None:
        """Raise ProcessError unless the run ended with status 0."""
        if self.returncode or self.reason is not Reason.EXITED:
            raise ProcessError(self)

    def __str__(self) -> str:
        if self.reason is Reason.EXITED:
            return f"exited with {self.returncode}"
        if self.reason is Reason.SIGNALED and self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"stopped: {self.reason}"


class ProcessError(GuestError):
    """A run that was to be checked did not end with status 0; `result` is how it did end."""

    def __init__(self, result: CompletedProcess) -> None:
        super().__init__(f"{result.args[0]} {result}")
        self.result = result


def reason_of(status: ExitStatus) -> Reason:
    if status.cause is not Cause.NONE:
        return Reason(status.cause.value)
    return Reason.EXITED if status.signal is None else Reason.SIGNALED
