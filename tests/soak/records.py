"""Listens to the exit log and to how late the loop is: what an operator would see."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import structlog
from stress.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# What programs that are killed, and operations that are interrupted, leave in the log on an ordinary day.
ORDINARY: Final = {"program_killed", "records_left_out", "retry"}
_KEPT: Final = 20


class Records:
    """Counts log records by event and keeps the first of those nobody expects."""

    def __init__(self) -> None:
        self.events: collections.Counter[str] = collections.Counter()
        self.unexpected: list[str] = []

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        name = str(event["event"])
        self.events[name] += 1
        if name not in ORDINARY and len(self.unexpected) < _KEPT:
            self.unexpected.append(str(dict(event)))
        raise structlog.DropEvent

    def __enter__(self) -> Self:
        self._before = structlog.get_config()
        structlog.configure(processors=[self], cache_logger_on_first_use=False)
        return self

    def __exit__(self, *_: object) -> None:
        structlog.configure(**self._before)


class Ticker:
    """How late the loop serves a timer of 5 ms, all the time."""

    PERIOD: Final = 0.005

    def __init__(self) -> None:
        self.lag = Histogram()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.PERIOD
            await asyncio.sleep(self.PERIOD)
            self.lag.add(max(0.0, loop.time() - due))
