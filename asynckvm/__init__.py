"""asynckvm runs untrusted x86-64 code in KVM guest ring 3, inside one ordinary asyncio process.

The life of one exit: ring 3 makes a system call, faults or is kicked; its vCPU's own thread leaves `KVM_RUN`, resolves
what native code can (a page fault, a constant answer, a read of a file) and publishes the rest; one eventfd wakes the event loop,
which drains the batch, feeds the vCPUs first, and then resumes the coroutines that wait in `await context.switch()`.
They answer, and switch again.

Each layer is useful alone, and imports only what stands below it in this list:

- `asynckvm.cli`: the `asynckvm` command.
- `asynckvm.run`: runs a coroutine on uvloop.
- `asynckvm.sandbox`: run a command with files, limits and processes of its own, and learn exactly how it ended.
- `asynckvm.linux`: a Linux personality made of coroutines: loads ELF programs and answers their system calls.
- `asynckvm.platform`: machine, address spaces, contexts, scheduler, exit log.
- `asynckvm._native`: the one door to the C core in `native/`.
- `asynckvm.model`: exits, registers, vectors, commands: pure values without I/O.
- `asynckvm.errors`: every exception, sorted by who must act.

This module imports none of them, so that a program pays only for the layer it uses; the names of the sandbox API are here as
well, and imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynckvm.sandbox import AllowConnect, Bind, CompletedProcess, Limits, NetworkRequest, ProcessError, Reason, Sandbox

__all__ = [
    "AllowConnect",
    "Bind",
    "CompletedProcess",
    "Limits",
    "NetworkRequest",
    "ProcessError",
    "Reason",
    "Sandbox",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("asynckvm.sandbox"), name)
