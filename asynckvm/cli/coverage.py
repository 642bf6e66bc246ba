"""`asynckvm syscalls`: which of Linux's system calls exist here, and where each is answered.

A call that always refuses, because nothing in a sandbox is there to be mounted, loaded or traced, is told from one that works.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

from asynckvm.cli.syscall_names import NAMES
from asynckvm.linux.syscalls import system
from asynckvm.linux.syscalls.table import BY_NUMBER

if TYPE_CHECKING:
    from asynckvm.linux.syscalls.call import Call, Handler

_PACKAGE: Final = "asynckvm.linux."
# What the refusing handlers answer, to every caller.
_REFUSALS: Final[dict[Handler, int]] = {system.forbidden: errno.EPERM, system.absent: errno.ENOSYS}


def main(*, missing: bool) -> int:
    """Print the table, or what is not in it, on standard output."""
    lines = [f"{number:>3}  {name}" for number, name in NAMES.items() if number not in BY_NUMBER] if missing else _table()
    try:
        sys.stdout.write("\n".join([*lines, *([""] if lines else []), summary()]) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on: as a program that SIGPIPE ends, but without a word, and nothing left for the interpreter to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _table() -> list[str]:
    width = max(len(call.name) for call in BY_NUMBER.values())
    return [f"{call.number:>3}  {call.name:<{width}}  {_where(call)}" for _, call in sorted(BY_NUMBER.items())]


def _where(call: Call) -> str:
    refusal = _REFUSALS.get(call.handler)
    if refusal is not None:
        return f"refused: {errno.errorcode[refusal]}"
    return call.handler.__module__.removeprefix(_PACKAGE) + (", constant" if call.constant else "")


def summary() -> str:
    """One line with the numbers."""
    known = [call for number, call in BY_NUMBER.items() if number in NAMES]
    refused = sum(call.handler in _REFUSALS for call in known)
    return (
        f"{len(known)} of the {len(NAMES)} x86-64 system calls of Linux 6.10 exist: {len(known) - refused} work, "
        f"{refused} are refused; the other {len(NAMES) - len(known)} answer ENOSYS"
    )
