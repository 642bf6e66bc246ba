"""Runs a program in a sandbox, as support/native.py runs it on the host: the only module of the tests that knows Sandbox.

It sees the host's programs and libraries as every guest does, and what `binds` adds to that, each at its own path.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from support.native import Command, Outcome

# A path and how it is bound: "rw" or "ro".
Bind = tuple[str, str]


async def run(command: Command, binds: Sequence[Bind]) -> Outcome:
    """A sandbox of its own for this one command."""
    from asynckvm import Sandbox

    mounts = [(path, path, mode) for path, mode in binds]
    started = time.monotonic()
    async with Sandbox(binds=mounts, env=dict(command.env), cwd=command.cwd) as sandbox:
        result = await sandbox.run(list(command.argv), input=command.stdin, timeout=command.seconds)
    late = str(result.reason) == "timeout"
    return Outcome(None if late else result.returncode, result.stdout, result.stderr, time.monotonic() - started)
