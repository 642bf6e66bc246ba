"""Lets a test have the machine to itself when several processes run tests (pytest-xdist): those that judge how long things take.

A readers-writer lock over the test processes: a test marked `alone` waits until no other one runs, and no other one begins
meanwhile. Locks are flock(2)'s, so they end with the process that holds them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Room:
    """A folder names it: all processes that are given the same one share the room."""

    def __init__(self, folder: str) -> None:
        # Who waits to be alone stands in the door, so that those who come later cannot keep the room full for ever.
        self._door, self._room = (os.open(Path(folder, name), os.O_RDWR | os.O_CREAT, 0o600) for name in ("door", "room"))

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """For one test; waiting is not bounded here, each test that is waited for is."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._door)
        os.close(self._room)
