"""What an exit of a hostile guest may look like. Pure: told what was there before and what came back, it names what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fuzz.case import RFLAGS

from asynckvm.platform import Fault, Interrupted, InterruptReason, Syscall
from support import emulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.platform import Exit

# SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: what ring 3 can earn by executing something.
SIGNALS: Final = frozenset({4, 5, 7, 8, 11})
SIGKILL: Final = 9
# The vector of a fault that was found before the entry.
NOT_ENTERED: Final = -1
# IOPL, VM, VIF, VIP and all beyond the defined flags; and IF and the bit that is always set.
_FORBIDDEN: Final = ~0x254FD7 & (1 << 64) - 1
_REQUIRED: Final = 0x202
_BASES: Final = (18, 19)


class BrokenError(Exception):
    """An invariant does not hold. `cases`: (seed, index) of those under suspicion, as far as one knows."""

    def __init__(self, what: str, cases: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.cases = cases


def canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


def legal(exit_: Exit, before: Sequence[int], after: Sequence[int], *, may_starve: bool) -> str:
    """What is wrong with an exit, or nothing. `before`, `after`: the twenty registers; `may_starve`: its memory has a limit."""
    return _kind(exit_, may_starve=may_starve) or _registers(exit_, before, after)


def _kind(exit_: object, *, may_starve: bool) -> str:
    if isinstance(exit_, Fault):
        if exit_.signal not in SIGNALS and not (exit_.signal == SIGKILL and may_starve):
            return f"a fault with signal {exit_.signal}"
    elif isinstance(exit_, Interrupted):
        if exit_.reason not in (InterruptReason.BOUNCED, InterruptReason.PREEMPTED):
            return f"interrupted by {exit_.reason!r}, which nobody asked for"
    elif not isinstance(exit_, Syscall):
        return f"not an exit: {exit_!r}"
    return ""


def _registers(exit_: Exit, before: Sequence[int], after: Sequence[int]) -> str:
    if isinstance(exit_, Fault) and exit_.vector == NOT_ENTERED:
        return "" if after == before else "registers changed though the guest was not entered"
    if after == before and not isinstance(exit_, Syscall):
        return ""  # it was not entered: what is there is what the case set
    flags = after[RFLAGS]
    if flags & _FORBIDDEN or flags & _REQUIRED != _REQUIRED:
        return f"impossible flags {flags:#x}"
    for base in _BASES:
        if not canonical(after[base]) and not emulator.TAKES_ANY_BASE:
            return f"segment base {after[base]:#x} is not canonical"
    return ""
