"""How a program ended, as a value. Pure: what is logged or printed about it is decided elsewhere."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asynckvm.model.exits import Fault


class Cause(enum.Enum):
    """Which limit, or whose wish, ended a program that did not end by itself. The values are what results say."""

    NONE = ""
    MEMORY = "memory limit"
    TIMEOUT = "timeout"
    CPU = "cpu limit"
    OUTPUT = "output limit"
    CANCELLED = "cancelled"
    CLOSED = "closed"
    INTERNAL = "internal"  # nobody's wish: a defect of asynckvm


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """Either `code` (0..255, it called exit) or `signal` (it was killed) is set.

    fault: the exception behind the signal, when it was one; rip: where the program was then (0 when it exited);
    reason: why the signal was sent when the program itself did not cause it, such as "interrupted by the user";
    cause: the limit or wish behind it.
    """

    code: int | None = None
    signal: int | None = None
    fault: Fault | None = None
    rip: int = 0
    reason: str = ""
    cause: Cause = Cause.NONE

    @property
    def returncode(self) -> int:
        """As `subprocess` counts: the exit code, or -signal."""
        if self.signal is not None:
            return -self.signal
        return self.code or 0

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with {self.code}"
        return f"killed by {signal_name(self.signal)}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11; SIG34 for a real-time signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
