"""The platform's one door to native code: calls, handles and the translation of -errno into typed errors.

Calls that are made for each exit are plain attributes that return the core's number uninterpreted; everything else is a method
that raises. `ffi` and `lib` come in as arguments, so that tests put a scripted core behind the whole platform.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from asynckvm.errors import (
    CapabilityError,
    DeviceMissingError,
    DevicePermissionError,
    HostError,
    OutOfMemoryError,
    OverloadedError,
    SlotsExhaustedError,
    TraceDeniedError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.errors import AsyncKvmError
    from asynckvm.model.config import MachineConfig, PlatformName

__all__ = ["HINT_PROCESSES", "KVM_CALLS", "SHORT", "Binding", "Handle", "benchmark_programs", "load", "vdso_image"]

# A pointer into the core.
Handle: TypeAlias = Any

# How operations begin that the host kernel refused, whatever its errno: not a mistake of the caller's. Those of KVM, those of
# ptrace, and all.
KVM_CALLS: Final = ("KVM_", "open the KVM device", "mmap kvm_run")
_PTRACE_CALLS: Final = ("ptrace", "stub", "seccomp", "wait for", "clone")
_HOST_CALLS: Final = (
    *KVM_CALLS, *_PTRACE_CALLS, "memfd ", "mmap ", "start vCPU", "kick vCPU", "sigaction", "eventfd", "dup file", "fstat file",
    "fcntl file",
)  # fmt: skip
# In every operation of the guests that opening a machine runs to see what the platform does.
_PROBE: Final = "start-up probe"

# Numbers that say what a stub was refused even where the operation is only a guest that could not run.
_OF_STUBS: Final = frozenset({errno.EPERM, errno.EACCES, errno.EAGAIN})

_PLATFORMS: Final[dict[PlatformName, int]] = {"kvm": 0, "ptrace": 1}

# Bytes of buffers that are used again and again.
SHORT: Final = 256
_NO_PCID: Final = 1
_GUEST_EDITS: Final = 2

_HINT_MISSING: Final = (
    "load the kvm_intel or kvm_amd module, or switch on nested virtualization for this virtual machine; in a container, pass "
    "--device /dev/kvm"
)
_HINT_PERMISSION: Final = "add this user to the group that owns /dev/kvm (usually: usermod -aG kvm USER, then log in again)"
_HINT_MEMORY: Final = "give the machine less memory=, close unused address spaces, or raise the host's limit (ulimit -v, cgroup)"
_HINT_SLOTS: Final = "close files that are no longer mapped, or spread the guests over several machines"
_HINT_CAPABILITY: Final = "this KVM cannot run asynckvm: `asynckvm doctor` tells what is missing"
_HINT_PTRACE: Final = "guests cannot run on ptrace on this host: `asynckvm doctor` tells what is missing"
_HINT_TRACING: Final = (
    "a container's seccomp profile may forbid ptrace (docker: --cap-add SYS_PTRACE), or kernel.yama.ptrace_scope is 2, which "
    "needs CAP_SYS_PTRACE, or 3, which forbids it until the next boot"
)
HINT_PROCESSES: Final = "raise the limit of processes (ulimit -u, the cgroup's pids.max), or run fewer guests at a time"


def load() -> Binding:
    """The binding to the compiled core; imported here so that the pure parts need no build."""
    from asynckvm._native import ffi, lib  # noqa: PLC0415

    return Binding(ffi, lib)


def benchmark_programs() -> Path:
    """The folder of the benchmark programs in plain C that are installed beside the compiled core."""
    from asynckvm._native import PROGRAMS  # noqa: PLC0415

    return PROGRAMS


def vdso_image() -> Path:
    """The shared object for guests that is installed beside the compiled core."""
    from asynckvm._native import VDSO  # noqa: PLC0415

    return VDSO


class Binding:
    """The C API as Python sees it. Thread rules are those of akvm.h."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi: Final = ffi
        self.lib: Final = lib
        # Uninterpreted, for each exit.
        self.drain: Final = lib.akvm_machine_drain
        self.arm: Final = lib.akvm_machine_arm
        self.poll: Final = lib.akvm_machine_poll
        self.submit: Final = lib.akvm_context_submit
        self.interrupt: Final = lib.akvm_context_interrupt
        self.operate: Final = lib.akvm_context_operate
        # Of SHORT bytes each; one for each thread that copies at the same time.
        self._buffers: list[Handle] = []
        self.give_back: Final = self._buffers.append

    def borrow(self) -> Handle:
        """A buffer of SHORT bytes, for a short copy: to be given back. Thread: any."""
        try:
            return self._buffers.pop()
        except IndexError:
            return self.ffi.new("char[]", SHORT)

    def error(self, result: int) -> AsyncKvmError:
        """The typed error of a negative result of the calling thread's last native call."""
        code = -int(result)
        operation = self._operation()
        if code == errno.ENOMEM:
            return OutOfMemoryError(operation, code, _HINT_MEMORY)
        by_host = operation.startswith(_HOST_CALLS)
        if operation.startswith(_PTRACE_CALLS):
            return _ptrace_error(operation, code)
        if code in {errno.EINVAL, errno.EBUSY, errno.EACCES} and not by_host:
            return UsageError(f"{operation}: {errno.errorcode[code]}")
        if code == errno.EAGAIN and not by_host:
            return OverloadedError(f"{operation}: raise contexts= of Machine.open, or close contexts")
        if code == errno.ENOSPC:
            return SlotsExhaustedError(operation, code, _HINT_SLOTS)
        if code in {errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY}:
            return CapabilityError(operation, code, _HINT_CAPABILITY)
        return HostError(operation, code)

    def check(self, result: int) -> int:
        """`result` itself when it is not negative; raises its typed error otherwise."""
        if result < 0:
            raise self.error(result)
        return result

    def platform_name(self, number: int) -> PlatformName:
        """How Python calls one of enum akvm_platform."""
        return next(name for name, value in _PLATFORMS.items() if value == number)

    def open_machine(self, config: MachineConfig, platform: PlatformName) -> Handle:
        """Open the platform and start the vCPUs; blocks for milliseconds. Thread: any."""
        ffi = self.ffi
        native = ffi.new("struct akvm_machine_config *")
        native.memory_bytes = config.memory
        native.vcpus = config.vcpus
        native.contexts_max = config.contexts + 1  # ring-0 operations have one of their own
        native.flags = (0 if config.pcid else _NO_PCID) | (_GUEST_EDITS if config.guest_edits else 0)
        native.vcpu_spin_ns = config.vcpu_spin_ns
        native.kick_signal = config.kick_signal
        native.fault_around_pages = config.fault_around
        native.platform = _PLATFORMS[platform]
        device = ffi.new("char[]", config.device.encode()) if config.device else ffi.NULL
        native.device = device
        out = ffi.new("struct akvm_machine **")
        result = self.lib.akvm_machine_open(native, out)
        if result < 0:
            raise self._open_error(result, config, platform)
        return out[0]

    def _open_error(self, result: int, config: MachineConfig, platform: PlatformName) -> AsyncKvmError:
        """What the platform lacks, in its own words; the rest is as in any call."""
        code = -int(result)
        operation = self._operation()
        if code == errno.ENOMEM:
            return self.error(result)
        hint = _HINT_CAPABILITY if platform == "kvm" else _HINT_PTRACE
        if platform == "ptrace" and _PROBE in operation and code in _OF_STUBS:
            return _ptrace_error(operation, code)
        refused = operation.startswith("memfd ") and code == errno.EPERM  # by a seccomp filter: the call itself needs no right
        if refused or _PROBE in operation or code in {errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY}:
            return CapabilityError(operation, code, hint)
        if operation.startswith(KVM_CALLS):
            named = f"{operation} ({config.device or '/dev/kvm'})"
            if code in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
                return DeviceMissingError(named, code, _HINT_MISSING)
            if code in {errno.EACCES, errno.EPERM}:
                return DevicePermissionError(named, code, _HINT_PERMISSION)
        return self.error(result)

    def create_space(self, machine: Handle) -> Handle:
        """A new, empty address space."""
        out = self.ffi.new("struct akvm_space **")
        self.check(self.lib.akvm_space_create(machine, out))
        return out[0]

    def fork_space(self, space: Handle) -> Handle:
        """A copy-on-write copy."""
        out = self.ffi.new("struct akvm_space **")
        self.check(self.lib.akvm_space_fork(space, out))
        return out[0]

    def create_budget(self, machine: Handle, pages: int) -> Handle:
        """A bound of memory for several spaces."""
        out = self.ffi.new("struct akvm_budget **")
        self.check(self.lib.akvm_budget_create(machine, pages, out))
        return out[0]

    def open_file(self, machine: Handle, fd: int, length: int, *, writable: bool) -> Handle:
        """Map a regular host file once for the whole machine; at least `length` bytes of it."""
        out = self.ffi.new("struct akvm_file **")
        self.check(self.lib.akvm_file_open(machine, fd, writable, length, out))
        return out[0]

    def create_context(self, machine: Handle) -> Handle:
        """A new context without address space."""
        out = self.ffi.new("struct akvm_context **")
        self.check(self.lib.akvm_context_create(machine, out))
        return out[0]

    def context_views(self, context: Handle) -> tuple[memoryview, memoryview]:
        """The context's memory as 64-bit words and as 32-bit fields, shared with the core."""
        raw = memoryview(self.ffi.buffer(context)).cast("B")
        return raw.cast("Q"), raw.cast("I")

    def create_answers(self, values: dict[int, int]) -> Handle:
        """Native table of constant system-call answers."""
        out = self.ffi.new("struct akvm_answers **")
        self.check(self.lib.akvm_answers_create(out))
        answers = out[0]
        for number, value in values.items():
            result = self.lib.akvm_answers_set(answers, number, value)
            if result < 0:
                error = self.error(result)
                self.lib.akvm_answers_destroy(answers)
                raise error
        return answers

    def create_direct_file(self, fd: int) -> Handle:
        """A direct file, which owns `fd`."""
        out = self.ffi.new("struct akvm_direct_file **")
        self.check(self.lib.akvm_direct_file_create(fd, out))
        return out[0]

    def create_direct_files(self, numbers: list[int]) -> Handle:
        """A table of direct files, empty."""
        out = self.ffi.new("struct akvm_direct_files **")
        self.check(self.lib.akvm_direct_files_create(self.ffi.new("uint64_t[]", numbers), out))
        return out[0]

    def drain_buffer(self, size: int) -> tuple[Handle, memoryview]:
        """Room for `size` indices: the pointer for `drain`, and a view to read them."""
        buffer = self.ffi.new("uint32_t[]", size)
        return buffer, memoryview(self.ffi.buffer(buffer)).cast("B").cast("I")

    def _operation(self) -> str:
        text = self.lib.akvm_last_error()
        return self.ffi.string(text).decode("ascii", "replace") if text != self.ffi.NULL else "native call"


def _ptrace_error(operation: str, code: int) -> HostError:
    """The host's refusal of what stub processes need."""
    if code in {errno.EPERM, errno.EACCES}:
        return TraceDeniedError(operation, code, _HINT_TRACING)
    if code in {errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EIO}:
        return CapabilityError(operation, code, _HINT_PTRACE)
    return HostError(operation, code, HINT_PROCESSES if code == errno.EAGAIN else "")
