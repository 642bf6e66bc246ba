"""`asynckvm.run.run(main())`: run a coroutine on uvloop, from synchronous code. Nothing else may live here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

__all__ = ["run"]

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T], *, debug: bool = False) -> _T:
    """Run `main` in a new uvloop event loop until it is done, close the loop, and return its result."""
    return uvloop.run(main, debug=debug)
