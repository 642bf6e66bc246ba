"""Runs a program in a sandbox, as support/native.py runs it on the host: the only module of the tests that knows Sandbox.

It sees the host's programs and libraries as every guest does, and what `binds` adds to that, each at its own path.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from asynckvm import Sandbox
from asynckvm.linux.credentials import Credentials
from asynckvm.linux.report import Observer
from asynckvm.sandbox import Limits
from asynckvm.sandbox.result import Reason
from support.native import Command, Outcome

# A path and how it is bound: "rw" or "ro".
Bind = tuple[str, str]
_LIMITS = Limits(memory=1 << 30, processes=512, output=64 << 20, files=1 << 30)


async def run(command: Command, binds: Sequence[Bind], observer: Observer | None = None) -> Outcome:
    """A sandbox of its own for this one command."""
    mounts = [(path, path, mode) for path, mode in binds]
    user = None if command.user is None else Credentials.of(command.user, command.user, ())
    started = time.monotonic()
    async with Sandbox(
        binds=mounts, env=command.env, cwd=command.cwd, limits=_LIMITS, credentials=user, observer=observer
    ) as sandbox:
        result = await sandbox.run(command.argv, input=command.stdin, timeout=command.seconds)
    ended = result.reason in (Reason.EXITED, Reason.SIGNALED)
    said = b"" if ended else f"the sandbox stopped it: {result.reason} {result.detail}\n".encode()
    return Outcome(
        None if result.reason is Reason.TIMEOUT else result.returncode,
        result.stdout,
        result.stderr + said,
        time.monotonic() - started,
    )
