"""Events that the scheduler is told and commands that it answers with: plain tuples whose first item is one of these kinds.

Tuples and small ints because several of them are made for each exit; everybody who builds or reads one names the kind from here.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

__all__ = [
    "ARM_TICK",
    "DONE",
    "INTERRUPT",
    "JOIN",
    "LEAVE",
    "READY",
    "REFUSE",
    "SUBMIT",
    "TICK",
    "TUNE",
    "WITHDRAW",
    "Command",
    "Event",
    "Running",
]

# What one vCPU runs: (vcpu, context, generation of the run, when it started).
Running: TypeAlias = tuple[int, int, int, int]

# Events.
READY: Final = 0  # (READY, context): switch() was called
DONE: Final = 1  # (DONE, context, ran_ns, vcpu): drained; it ran for ran_ns on vcpu
JOIN: Final = 2  # (JOIN, context, weight, priority): a context was created
LEAVE: Final = 3  # (LEAVE, context): it was closed; it must be neither queued nor submitted
TUNE: Final = 4  # (TUNE, context, weight, priority): from its next pick on
WITHDRAW: Final = 5  # (WITHDRAW, context): take it out of the ready queue, if it is there
TICK: Final = 6  # (TICK, [Running, ...]): the armed time has come; vCPUs that run nothing are left out

Event: TypeAlias = tuple[Any, ...]

# Commands, always three items.
SUBMIT: Final = 0  # (SUBMIT, context, vcpu)
INTERRUPT: Final = 1  # (INTERRUPT, context, generation): its slice is over and somebody waits
ARM_TICK: Final = 2  # (ARM_TICK, when_ns, 0): send one TICK at that time. It is never disarmed: a tick that finds
#                       fewer than two submitted is not armed again, which costs less than to cancel timers all the time
REFUSE: Final = 3  # (REFUSE, context, 0): the ready queue is full

Command: TypeAlias = tuple[int, int, int]
