"""Who is told of a file's events: whoever was named, and nobody who has that number later."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.owner import Kind, owner_of
from asynckvm.linux.wait import READABLE
from support.fake_tasks import FakeKernel, FakeProcess

SIGIO = 1 << 28


@pytest.mark.parametrize("kind", Kind)
def test_a_number_that_is_somebody_elses_by_now(kind: Kind) -> None:
    kernel = FakeKernel()
    caller: Any = FakeProcess(kernel, 2).tasks[2]
    old: Any = FakeProcess(kernel, 5)
    file = EventFile(0, os.O_ASYNC, semaphore=False)
    owner = owner_of(caller, file)
    owner.name(caller, kind, 5)
    assert owner.named == 5
    file.queue.wake(READABLE)
    assert (old.pending.mask | old.tasks[5].pending.mask) == SIGIO
    for table in (kernel.processes, kernel.tasks, kernel.groups):
        del table[5]  # type: ignore[attr-defined]
    assert owner.named == 0
    new: Any = FakeProcess(kernel, 5)
    assert owner.named == 0
    file.queue.wake(READABLE)
    assert (new.pending.mask | new.tasks[5].pending.mask) == 0
    owner.name(caller, kind, 5)
    del old
    gc.collect()
    file.queue.wake(READABLE)
    assert (new.pending.mask | new.tasks[5].pending.mask) == SIGIO
    assert owner.named == 5
