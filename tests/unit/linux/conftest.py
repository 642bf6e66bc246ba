"""`start`: guests written in Python, see support/scripted.py; `worlds` and `serve`: see support/outside_worlds.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.outside_worlds import nothing_left, serve, worlds
from support.scripted import Scripted

__all__ = ["nothing_left", "serve", "start", "worlds"]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Scripted]:
    """start(calls, stdin=...) makes a guest; its methods run it."""

    def starting(calls: Any, **options: Any) -> Scripted:
        return Scripted(calls, tmp_path, **options)

    return starting
