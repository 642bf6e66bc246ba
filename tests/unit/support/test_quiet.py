"""The room that test processes share: any number of tests in it, or one that is alone."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from support.pace import paced
from support.quiet import Room

SECONDS = paced(20)


class Visitor:
    """Another test process, which is another opening of the same locks."""

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._visit, args=(folder, alone), daemon=True)
        self._thread.start()

    def _visit(self, folder: Path, alone: bool) -> None:
        room = Room(str(folder))
        with room.entered(alone=alone):
            self.inside.set()
            self.may_leave.wait(SECONDS)
        room.close()

    def leave(self) -> None:
        self.may_leave.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def somebody_is_in_the_door(folder: Path) -> bool:
    with (folder / "door").open() as door:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_any_number_are_inside_together(tmp_path: Path) -> None:
    visitors = [Visitor(tmp_path, alone=False) for _ in range(3)]
    assert all(visitor.inside.wait(SECONDS) for visitor in visitors)
    for visitor in visitors:
        visitor.leave()


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_enters_beside_one_that_is_alone(tmp_path: Path, alone: bool) -> None:
    first = Visitor(tmp_path, alone=True)
    assert first.inside.wait(SECONDS)
    second = Visitor(tmp_path, alone=alone)
    assert not second.inside.wait(0.1)
    first.leave()
    assert second.inside.wait(SECONDS)
    second.leave()


def test_one_that_waits_to_be_alone_is_not_passed_by(tmp_path: Path) -> None:
    first = Visitor(tmp_path, alone=False)
    assert first.inside.wait(SECONDS)
    alone = Visitor(tmp_path, alone=True)
    until = time.monotonic() + SECONDS
    while not somebody_is_in_the_door(tmp_path):
        assert time.monotonic() < until
    late = Visitor(tmp_path, alone=False)
    assert not late.inside.wait(0.1)
    first.leave()
    assert alone.inside.wait(SECONDS)
    assert not late.inside.is_set()
    alone.leave()
    assert late.inside.wait(SECONDS)
    late.leave()
