"""The numbers of signals: what each does by default, codes of siginfo_t, flags of sigaction(2), masks.

Pure. A mask is an int whose bit `number - 1` stands for a signal, as in the kernel's sigset_t. Names of signals are those of
Python's `signal` module. Source: signal(7), include/linux/signal.h, include/uapi/asm-generic/siginfo.h.
"""

from __future__ import annotations

import enum
import signal
from typing import Final

SIGNALS: Final = 64
# The first real-time signal of the kernel; C libraries keep some for themselves and tell programs a higher one.
SIGRTMIN: Final = 32
MASK_ALL: Final = (1 << SIGNALS) - 1
MASK_BYTES: Final = 8

SIG_DFL: Final = 0
SIG_IGN: Final = 1
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2

SA_NOCLDSTOP: Final = 1
SA_NOCLDWAIT: Final = 2
SA_SIGINFO: Final = 4
SA_EXPOSE_TAGBITS: Final = 0x800
SA_RESTORER: Final = 0x0400_0000
SA_ONSTACK: Final = 0x0800_0000
SA_RESTART: Final = 0x1000_0000
SA_NODEFER: Final = 0x4000_0000
SA_RESETHAND: Final = 0x8000_0000
SA_KNOWN: Final = (
    SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_EXPOSE_TAGBITS
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
)

SI_USER: Final = 0
SI_KERNEL: Final = 0x80
SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL = -1, -2, -3, -4, -5, -6
CLD_EXITED, CLD_KILLED, CLD_DUMPED, CLD_TRAPPED, CLD_STOPPED, CLD_CONTINUED = 1, 2, 3, 4, 5, 6


class Default(enum.Enum):
    """What a signal does to a process that has not said otherwise."""

    TERMINATE = "terminate"
    # Terminate with a core file, which is never written here; the status says so all the same.
    CORE = "core"
    STOP = "stop"
    CONTINUE = "continue"
    IGNORE = "ignore"


_DEFAULTS: Final[dict[int, Default]] = {
    **dict.fromkeys(
        (
            signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV,
            signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS,
        ),
        Default.CORE,
    ),
    **dict.fromkeys((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU), Default.STOP),
    **dict.fromkeys((signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH), Default.IGNORE),
    signal.SIGCONT: Default.CONTINUE,
}  # fmt: skip


def default_of(number: int) -> Default:
    return _DEFAULTS.get(number, Default.TERMINATE)


def bit(number: int) -> int:
    return 1 << (number - 1)


def mask_of(*numbers: int) -> int:
    mask = 0
    for number in numbers:
        mask |= bit(number)
    return mask


def lowest(mask: int) -> int:
    """The lowest signal of a mask; 0 for none."""
    return (mask & -mask).bit_length()


UNBLOCKABLE: Final = mask_of(signal.SIGKILL, signal.SIGSTOP)
STOPPING: Final = mask_of(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
# Raised by what a thread itself did: delivered before all others, so that a handler sees the fault where it happened.
SYNCHRONOUS: Final = mask_of(signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE, signal.SIGSYS)
