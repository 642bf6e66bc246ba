"""`start`: guests written in Python, see support/scripted.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.scripted import Scripted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Scripted]:
    """start(calls, stdin=...) makes a guest; its methods run it."""

    def starting(calls: Any, **options: Any) -> Scripted:
        return Scripted(calls, tmp_path, **options)

    return starting
