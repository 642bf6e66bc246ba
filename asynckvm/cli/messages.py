"""What the command says about itself: lines on standard error, which is never the guest's business to parse.

Standard output belongs to the guest (`run`) or to the report that was asked for (`doctor --json`).
"""

from __future__ import annotations

import sys
from typing import Any


def say(text: str) -> None:
    """One line, marked as ours."""
    _write(f"asynckvm: {text}\n")


def say_json(value: dict[str, Any]) -> None:
    """One JSON object on a line of its own."""
    import json  # noqa: PLC0415

    _write(json.dumps(value, separators=(",", ":")) + "\n")


def configure(*, trace: bool = False, quiet: bool = False) -> None:
    """Log events go to standard error, one line of key=value each: warnings and worse, everything with `trace`, or with `quiet`
    only what is worse than a warning, and on what platform guests run instead of KVM."""
    import logging  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            *([_drop_warnings] if quiet else []),
            _first_fields,
            structlog.processors.LogfmtRenderer(drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if trace else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _drop_warnings(_: Any, method: str, event: Any) -> Any:
    """Those about guests, that is: which wall there is concerns the user."""
    import structlog  # noqa: PLC0415

    from asynckvm.platform.choice import FALLBACK  # noqa: PLC0415

    if method == "warning" and event["event"] != FALLBACK:
        raise structlog.DropEvent
    return event


def _first_fields(_: Any, __: str, event: Any) -> Any:
    """What kind of line it is comes first."""
    return {"level": event.pop("level"), "event": event.pop("event"), **event}


def _write(text: str) -> None:
    # Somebody who closed our standard error wants to hear nothing.
    if sys.stderr is not None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            sys.stderr = None
