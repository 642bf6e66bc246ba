"""How threads are told that there is something to see to, also under a machine that is closed meanwhile."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.errors import ClosedError
from asynckvm.linux.process import Process
from asynckvm.linux.status import ExitStatus
from asynckvm.linux.task import Task
from support.fake_tasks import FakeKernel, FakeProcess

if TYPE_CHECKING:
    from asynckvm.model.exits import InterruptReason


class ClosedContext:
    """That of a thread which is in ring 3 yet, as far as its coroutine knows."""

    def interrupt(self, reason: InterruptReason) -> None:
        raise ClosedError(f"machine 1 is closed: {reason}")


def test_a_closed_machine_does_not_keep_others_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    process: Any = FakeProcess(FakeKernel(), 100, threads=2)
    inside, other = process.tasks.values()
    inside.context, inside.in_guest = ClosedContext(), True
    told: list[Task] = []
    monkeypatch.setattr(inside, "notice", lambda: Task.notice(inside))
    monkeypatch.setattr(other, "notice", lambda: told.append(other))
    Process.end(process, ExitStatus(signal=signal.SIGKILL))
    assert told == [other]
    assert inside.dying
