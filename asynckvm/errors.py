"""Every exception of asynckvm, sorted by who must act.

One place, so that callers can choose by class and never by text: the caller's own mistake (`UsageError`), the host
(`HostError` and its kinds), a bound that was set on purpose (`OverloadedError`), an object at the end of its life (`ClosedError`,
`HostForkedError`), the guest (`GuestError` and its kinds), or this project (`InternalError`). No logic may live here beyond
putting a message together.
"""

from __future__ import annotations

import errno
import os
from typing import Final

__all__ = [
    "AsyncKvmError",
    "CapabilityError",
    "ClosedError",
    "DeviceMissingError",
    "DevicePermissionError",
    "GuestError",
    "GuestMemoryError",
    "GuestOperationError",
    "GuestStringError",
    "GuestTrapError",
    "HostError",
    "HostForkedError",
    "InternalError",
    "NoPlatformError",
    "OutOfMemoryError",
    "OverloadedError",
    "PlatformError",
    "SlotsExhaustedError",
    "TraceDeniedError",
    "UsageError",
]


class AsyncKvmError(Exception):
    """Base of all errors raised by asynckvm."""


class UsageError(AsyncKvmError, ValueError):
    """The caller broke a documented rule: fix the calling code."""


class ClosedError(AsyncKvmError):
    """The machine, space, context or file was closed."""


class HostForkedError(ClosedError):
    """This process is a fork of the one that opened the machine, which belongs to the parent alone."""


class OverloadedError(AsyncKvmError):
    """An admission limit is reached: try again later, or raise the limit."""


class HostError(AsyncKvmError):
    """The host kernel refused an operation: whoever runs the host must act.

    `operation` names the refused call, `errno` is the host's number (positive), `hint` says what usually helps.
    """

    def __init__(self, operation: str, errno: int, hint: str = "") -> None:
        self.operation: Final = operation
        self.errno: Final = errno
        self.hint: Final = hint
        text = f"{operation}: {os.strerror(errno)} (errno {errno})"
        super().__init__(f"{text}; {hint}" if hint else text)


class PlatformError(HostError):
    """What guests were to run on is not usable here: `asynckvm doctor` explains."""


class DeviceMissingError(PlatformError):
    """There is no usable /dev/kvm."""


class DevicePermissionError(PlatformError):
    """This user may not open /dev/kvm."""


class TraceDeniedError(PlatformError):
    """This process may not trace the processes it starts, which the ptrace platform is made of."""


class SlotsExhaustedError(HostError):
    """KVM has no memory slot left: too many distinct host files are mapped in one machine."""


class OutOfMemoryError(HostError):
    """The machine's guest memory or tables, or the host's memory, are exhausted."""


class CapabilityError(PlatformError):
    """This host's KVM, or its ptrace, lacks something that asynckvm needs; `capability` names it."""

    def __init__(self, capability: str, errno: int, hint: str = "") -> None:
        self.capability: Final = capability
        super().__init__(capability, errno, hint)


class NoPlatformError(PlatformError):
    """A machine was to take any platform, and none is usable here; `kvm` and `ptrace` are the errors of the two."""

    def __init__(self, kvm: AsyncKvmError, ptrace: AsyncKvmError) -> None:
        self.kvm: Final = kvm
        self.ptrace: Final = ptrace
        super().__init__("open any platform", errno.ENODEV, f"KVM: {kvm}; ptrace: {ptrace}")


class GuestError(AsyncKvmError):
    """The guest did something that ends it, or handed over something unusable. The host is unharmed."""


class GuestMemoryError(GuestError):
    """A guest address could not be used. `address` is the first bad byte, `done` the bytes copied before it."""

    def __init__(self, address: int, done: int = 0) -> None:
        self.address: Final = address
        self.done: Final = done
        super().__init__(f"bad guest address {address:#x} after {done} bytes")


class GuestStringError(GuestError):
    """No NUL byte within `limit` bytes of the guest string at `address` (Linux: ENAMETOOLONG)."""

    def __init__(self, address: int, limit: int) -> None:
        self.address: Final = address
        self.limit: Final = limit
        super().__init__(f"guest string at {address:#x} is longer than {limit} bytes")


class GuestTrapError(GuestError):
    """An exception vector that no program in ring 3 can raise on its own: the guest cannot be continued."""

    def __init__(self, vector: int, error_code: int, rip: int) -> None:
        self.vector: Final = vector
        self.error_code: Final = error_code
        self.rip: Final = rip
        super().__init__(f"unexpected exception vector {vector} (error code {error_code:#x}) at rip {rip:#x}")


class GuestOperationError(AsyncKvmError):
    """A ring-0 operation failed for good: its retry bound was hit, or it raised exception `vector`."""

    def __init__(self, operation: object, vcpu: int, attempts: int, vector: int | None = None) -> None:
        self.operation: Final = operation
        self.vcpu: Final = vcpu
        self.attempts: Final = attempts
        self.vector: Final = vector
        why = f"raised exception vector {vector}" if vector is not None else f"did not end within {attempts} attempts"
        super().__init__(f"{operation} on vCPU {vcpu} {why}")


class InternalError(AsyncKvmError):
    """A defect of asynckvm or of the host's KVM. `dump` holds the flight recorder at that moment: report it."""

    def __init__(self, message: str, dump: str = "") -> None:
        self.dump: Final = dump
        super().__init__(message)
