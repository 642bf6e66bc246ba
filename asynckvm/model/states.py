"""Life cycles as data: every legal transition of a context and of a machine, and nothing else.

The engine, on its hot path, assigns states directly; a test runs it with `advance` in between and compares.
"""

from __future__ import annotations

import enum
from typing import Final

from asynckvm.errors import InternalError

__all__ = [
    "CONTEXT_TRANSITIONS",
    "MACHINE_TRANSITIONS",
    "ContextEvent",
    "ContextState",
    "MachineEvent",
    "MachineState",
    "advance",
]


class ContextState(enum.IntEnum):
    """Where a context is."""

    IDLE = 0  # no switch() is running; the caller may change everything
    QUEUED = 1  # switch() waits, in the ready queue, for room on a vCPU
    RUNNING = 2  # submitted to a vCPU; registers belong to the core
    RETURNING = 3  # the exit is here, switch() has not returned yet
    CLOSED = 4


class ContextEvent(enum.IntEnum):
    """What happens to a context."""

    SWITCH = 0  # switch() accepted by the scheduler
    SUBMIT = 1  # handed to a vCPU
    WITHDRAW = 2  # cancelled, interrupted or closed while queued
    COMPLETE = 3  # drained
    RESUME = 4  # switch() returned or raised
    ABANDON = 5  # drained, and the coroutine that waited is gone
    CLOSE = 6


CONTEXT_TRANSITIONS: Final[dict[tuple[enum.IntEnum, enum.IntEnum], enum.IntEnum]] = {
    (ContextState.IDLE, ContextEvent.SWITCH): ContextState.QUEUED,
    (ContextState.IDLE, ContextEvent.CLOSE): ContextState.CLOSED,
    (ContextState.QUEUED, ContextEvent.SUBMIT): ContextState.RUNNING,
    (ContextState.QUEUED, ContextEvent.WITHDRAW): ContextState.RETURNING,
    (ContextState.RUNNING, ContextEvent.COMPLETE): ContextState.RETURNING,
    (ContextState.RETURNING, ContextEvent.RESUME): ContextState.IDLE,
    (ContextState.RETURNING, ContextEvent.ABANDON): ContextState.IDLE,
    (ContextState.CLOSED, ContextEvent.CLOSE): ContextState.CLOSED,
}


class MachineState(enum.IntEnum):
    """Where a machine is."""

    OPEN = 0
    CLOSING = 1  # no switch() is accepted; runs are coming back
    CLOSED = 2
    FORKED = 3  # in a child process: the machine belongs to the parent


class MachineEvent(enum.IntEnum):
    """What happens to a machine."""

    CLOSE = 0  # close() called
    CLOSED = 1  # every thread joined, or given up
    FORK = 2  # seen by the child of os.fork()


MACHINE_TRANSITIONS: Final[dict[tuple[enum.IntEnum, enum.IntEnum], enum.IntEnum]] = {
    (MachineState.OPEN, MachineEvent.CLOSE): MachineState.CLOSING,
    (MachineState.CLOSING, MachineEvent.CLOSE): MachineState.CLOSING,
    (MachineState.CLOSING, MachineEvent.CLOSED): MachineState.CLOSED,
    (MachineState.CLOSED, MachineEvent.CLOSE): MachineState.CLOSED,
    (MachineState.OPEN, MachineEvent.FORK): MachineState.FORKED,
    (MachineState.CLOSING, MachineEvent.FORK): MachineState.FORKED,
    (MachineState.CLOSED, MachineEvent.FORK): MachineState.CLOSED,
    (MachineState.FORKED, MachineEvent.FORK): MachineState.FORKED,
    (MachineState.FORKED, MachineEvent.CLOSE): MachineState.FORKED,
}


def advance(
    table: dict[tuple[enum.IntEnum, enum.IntEnum], enum.IntEnum], state: enum.IntEnum, event: enum.IntEnum
) -> enum.IntEnum:
    """The state after `event`; InternalError when the table has no such transition."""
    following = table.get((state, event))
    if following is None:
        raise InternalError(f"no transition from {state!r} on {event!r}")
    return following
