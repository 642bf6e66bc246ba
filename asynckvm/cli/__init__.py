"""The `asynckvm` command: `run`, `doctor`, `bench`, and the demonstration behind scripts/demo.

Modules are imported when their command is asked for: the start-up time of `asynckvm run` is part of every program it runs.
"""

from asynckvm.cli.main import main

__all__ = ["main"]
