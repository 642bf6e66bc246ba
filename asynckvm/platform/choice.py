"""Which platform a machine runs on: the one asked for by name, else KVM where it is usable, else ptrace, which is said once.

"auto" becomes what ASYNCKVM_PLATFORM names, if it is set: as if that had been asked for by name, so that nothing is tried in its
place. Otherwise a refusal of KVM's own lets the machine go on to ptrace, and nothing else does: a wrong setting or a defect would
only be hidden, and what comes and goes with the load of the host (memory, descriptors, threads) must not decide which wall there
is.

Event: `platform_fallback`, a warning, once a process, when a machine is open on ptrace in KVM's place. Fields:

    platform      what was taken: ptrace           instead_of   kvm
    operation     of KVM, that failed              errno        the host's number
    error         class of the typed error         hint         what usually helps
    wall          what is weaker now
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import structlog

from asynckvm.errors import (
    GuestOperationError,
    HostError,
    NoPlatformError,
    OutOfMemoryError,
    PlatformError,
    UsageError,
)
from asynckvm.model.config import PLATFORM_CHOICES
from asynckvm.platform.binding import KVM_CALLS

if TYPE_CHECKING:
    from typing import Any

    from asynckvm.errors import AsyncKvmError
    from asynckvm.model.config import PlatformChoice

__all__ = ["FALLBACK", "VARIABLE", "WEAKER", "chosen", "neither", "unusable", "warn"]

VARIABLE: Final = "ASYNCKVM_PLATFORM"
FALLBACK: Final = "platform_fallback"
WEAKER: Final = "the weaker wall: guests run as traced processes on the host's own kernel"

# Refusals for want of something that others use meanwhile, or for a moment.
_PASSING: Final = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR})

_warned = False


def chosen(asked: PlatformChoice) -> PlatformChoice:
    """What is really asked for: a name, or "auto". UsageError when the environment has something else."""
    named = os.environ.get(VARIABLE, "")
    if asked != "auto" or not named:
        return asked
    for choice in PLATFORM_CHOICES:
        if choice == named:
            return choice
    raise UsageError(f"{VARIABLE} must be one of {', '.join(PLATFORM_CHOICES)}: {named!r}")


def unusable(error: AsyncKvmError) -> bool:
    """Whether this error of opening a machine says that its platform is not usable here.

    KVM may also refuse a call of its own with another number, as KVM_CREATE_VM does with EBUSY beside another hypervisor, or be
    so broken that its vCPUs do not even run an empty operation.
    """
    match error:
        case OutOfMemoryError():
            return False
        case PlatformError() | GuestOperationError():
            return True
        case HostError():
            return error.operation.startswith(KVM_CALLS) and error.errno not in _PASSING
        case _:
            return False


def neither(kvm: AsyncKvmError, ptrace: AsyncKvmError) -> AsyncKvmError:
    """The error to raise when ptrace could not be opened in the place of KVM."""
    return NoPlatformError(kvm, ptrace) if unusable(ptrace) else ptrace


def warn(error: AsyncKvmError) -> None:
    """Say, once a process, that KVM was not to be had. Thread: loop."""
    global _warned  # noqa: PLW0603  once a process is what was promised
    if _warned:
        return
    _warned = True
    fields: dict[str, Any] = {"platform": "ptrace", "instead_of": "kvm", "error": type(error).__name__}
    if isinstance(error, HostError):
        fields |= {"operation": error.operation, "errno": error.errno, "hint": error.hint}
    else:
        fields["operation"] = str(error)
    structlog.get_logger("asynckvm").warning(FALLBACK, **fields, wall=WEAKER)
