"""Resource limits of a process, as values. What each one bounds is enforced where the resource is used. Source: getrlimit(2)."""

from __future__ import annotations

import enum
from typing import Final

from asynckvm.linux.files import DESCRIPTORS, DESCRIPTORS_MAX
from asynckvm.linux.layout import STACK_BYTES

INFINITY: Final = (1 << 64) - 1
SIGNALS_MAX: Final = 1024


class Limit(enum.IntEnum):
    """RLIMIT_*, <asm-generic/resource.h>."""

    CPU = 0
    FSIZE = 1
    DATA = 2
    STACK = 3
    CORE = 4
    RSS = 5
    NPROC = 6
    NOFILE = 7
    MEMLOCK = 8
    AS = 9
    LOCKS = 10
    SIGPENDING = 11
    MSGQUEUE = 12
    NICE = 13
    RTPRIO = 14
    RTTIME = 15


class Limits:
    """Soft and hard limit of each resource."""

    def __init__(self, values: dict[int, tuple[int, int]]) -> None:
        self._values = values

    @classmethod
    def default(cls, processes: int) -> Limits:
        """Those of a new sandbox, which has room for `processes`."""
        values = dict.fromkeys(range(len(Limit)), (INFINITY, INFINITY))
        values[Limit.STACK] = (STACK_BYTES, INFINITY)
        values[Limit.CORE] = (0, INFINITY)
        values[Limit.NPROC] = (processes, processes)
        values[Limit.NOFILE] = (DESCRIPTORS, DESCRIPTORS_MAX)
        values[Limit.MEMLOCK] = (8 << 20, 8 << 20)
        values[Limit.SIGPENDING] = (SIGNALS_MAX, SIGNALS_MAX)
        values[Limit.MSGQUEUE] = (819200, 819200)
        values[Limit.NICE] = values[Limit.RTPRIO] = (0, 0)
        return cls(values)

    def __getitem__(self, resource: int) -> tuple[int, int]:
        """(soft, hard). KeyError for a number that is none."""
        return self._values[resource]

    def __setitem__(self, resource: int, limit: tuple[int, int]) -> None:
        self._values[resource] = limit

    def soft(self, resource: Limit) -> int:
        return self._values[resource][0]

    def copy(self) -> Limits:
        return Limits(dict(self._values))
