"""Which platform a machine is opened on, over the scripted core: by name, by the environment, and by what KVM says."""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from unit.platform.fake_core import FakeCore, interface

from asynckvm.errors import (
    AsyncKvmError,
    CapabilityError,
    ClosedError,
    DeviceMissingError,
    DevicePermissionError,
    GuestOperationError,
    HostError,
    InternalError,
    NoPlatformError,
    OutOfMemoryError,
    OverloadedError,
    SlotsExhaustedError,
    TraceDeniedError,
    UsageError,
)
from asynckvm.model.exits import ExitKind
from asynckvm.platform import Capabilities, Machine, MachineConfig, choice, open_machines
from asynckvm.platform.capabilities import KVM_ONLY

if TYPE_CHECKING:
    from typing import Any

KVM, PTRACE = 0, 1
DEVICE = "open the KVM device"
GUEST = "a guest of the start-up probe"
FAR = "a guest of the start-up probe did not come back"

# What the core says of KVM; the error of somebody who asked for KVM by name; a word of it; whether "auto" goes on to ptrace.
OF_KVM = [
    (DEVICE, errno.ENOENT, DeviceMissingError, "module", True),
    (DEVICE, errno.ENODEV, DeviceMissingError, "nested", True),
    (DEVICE, errno.ENXIO, DeviceMissingError, "/dev/kvm", True),
    (DEVICE, errno.EACCES, DevicePermissionError, "group", True),
    (DEVICE, errno.EPERM, DevicePermissionError, "group", True),
    (DEVICE, errno.EBUSY, HostError, "busy", True),
    (DEVICE, errno.EMFILE, HostError, "open files", False),
    (DEVICE, errno.ENFILE, HostError, "open files", False),
    ("KVM_GET_API_VERSION", errno.ENOTTY, CapabilityError, "doctor", True),
    ("KVM_CAP_SYNC_REGS", errno.ENOTSUP, CapabilityError, "doctor", True),
    ("KVM_CREATE_VM", errno.EBUSY, HostError, "busy", True),
    ("KVM_CREATE_VM", errno.EIO, HostError, "Input/output", True),
    ("KVM_CREATE_VM", errno.EINTR, HostError, "Interrupted", False),
    ("KVM_CREATE_VM", errno.ENOMEM, OutOfMemoryError, "memory=", False),
    ("KVM_CREATE_VCPU", errno.EINVAL, HostError, "Invalid", True),
    ("KVM_CREATE_VCPU", errno.EAGAIN, HostError, "unavailable", False),
    ("KVM_SET_USER_MEMORY_REGION", errno.ENOSPC, SlotsExhaustedError, "files", True),
    ("mmap kvm_run", errno.EINVAL, HostError, "Invalid", True),
    ("SYSCALL in ring 3", errno.ENOTSUP, CapabilityError, "doctor", True),
    (GUEST, errno.EIO, CapabilityError, "doctor", True),
    (GUEST, errno.EINVAL, CapabilityError, "doctor", True),
    (GUEST, errno.EFAULT, CapabilityError, "doctor", True),
    (GUEST, errno.EACCES, CapabilityError, "doctor", True),
    (GUEST, errno.ENOMEM, OutOfMemoryError, "memory=", False),
    (FAR, errno.ETIMEDOUT, CapabilityError, "doctor", True),
    ("a ring-0 operation of the start-up probe", errno.EINTR, CapabilityError, "doctor", True),
    ("machine configuration", errno.EINVAL, UsageError, "EINVAL", False),
    ("more vCPUs than the platform offers", errno.EINVAL, UsageError, "EINVAL", False),
    ("kick signal already in use", errno.EBUSY, UsageError, "EBUSY", False),
    ("mmap guest memory", errno.ENOMEM, OutOfMemoryError, "memory=", False),
    ("mmap guest memory", errno.EPERM, HostError, "not permitted", False),
    ("start vCPU thread", errno.EAGAIN, HostError, "unavailable", False),
    ("start vCPU thread", errno.EPERM, HostError, "not permitted", False),
    ("eventfd", errno.EMFILE, HostError, "open files", False),
]

# The same for ptrace; the last column is whether it says that ptrace is not usable here.
OF_PTRACE = [
    ("ptrace", errno.EPERM, TraceDeniedError, "yama", True),
    ("ptrace PTRACE_TRACEME", errno.EACCES, TraceDeniedError, "seccomp", True),
    ("seccomp", errno.EINVAL, CapabilityError, "doctor", True),
    ("ptrace PTRACE_SYSEMU", errno.EIO, CapabilityError, "doctor", True),
    ("clone", errno.EPERM, TraceDeniedError, "SYS_PTRACE", True),
    ("clone of a stub", errno.EAGAIN, HostError, "pids.max", False),
    ("clone", errno.ENOMEM, OutOfMemoryError, "memory=", False),
    ("stub", errno.ENOSYS, CapabilityError, "doctor", True),
    ("wait for a stub", errno.ESRCH, HostError, "No such process", False),
    (FAR, errno.ETIMEDOUT, CapabilityError, "ptrace", True),
    (GUEST, errno.EPERM, TraceDeniedError, "yama", True),
    (GUEST, errno.EAGAIN, HostError, "pids.max", False),
    (GUEST, errno.ESRCH, CapabilityError, "ptrace", True),
    ("platform", errno.ENOTSUP, CapabilityError, "ptrace", True),
    ("memfd_create", errno.ENOSYS, CapabilityError, "ptrace", True),
    ("memfd stubs", errno.EPERM, CapabilityError, "ptrace", True),
    ("memfd stubs", errno.EINVAL, HostError, "Invalid", False),
    ("more vCPUs than the platform offers", errno.EINVAL, UsageError, "EINVAL", False),
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wish of the environment's, and nothing said yet."""
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setattr(choice, "_warned", False)


async def opened(core: FakeCore, **settings: Any) -> Machine:
    return await Machine.open(memory=2 << 20, vcpus=2, binding=core.binding(), **settings)


@pytest.mark.parametrize("platform", ["kvm", "ptrace"])
async def test_a_name_is_what_is_opened(core: FakeCore, platform: str) -> None:
    with capture_logs() as logs:
        machine = await opened(core, platform=platform)
    assert core.platforms == [{"kvm": KVM, "ptrace": PTRACE}[platform]]
    assert machine.platform == machine.capabilities.platform == machine.config.platform == platform
    assert logs == []
    await machine.close()


async def test_a_core_that_opens_something_else_is_an_error(core: FakeCore) -> None:
    core.only = KVM
    with pytest.raises(InternalError, match="opened kvm where ptrace"):
        await opened(core, platform="ptrace")
    assert core.closes == 1


async def test_auto_is_kvm_where_that_opens(core: FakeCore) -> None:
    with capture_logs() as logs:
        machine = await opened(core)
    assert (core.platforms, machine.platform, machine.config.platform, logs) == ([KVM], "kvm", "kvm", [])
    await machine.close()


def test_the_numbers_are_those_of_the_header() -> None:
    library = interface().dlopen(None)
    assert (library.AKVM_PLATFORM_KVM, library.AKVM_PLATFORM_PTRACE) == (KVM, PTRACE)


@pytest.mark.parametrize(("operation", "code", "kind", "word", "falls_back"), OF_KVM)
async def test_what_kvm_refuses(
    core: FakeCore, operation: str, code: int, kind: type[AsyncKvmError], word: str, falls_back: bool
) -> None:
    core.operation = operation.encode()
    core.open_errors[KVM] = code
    with capture_logs() as logs, pytest.raises(kind, match=word) as caught:
        await opened(core, platform="kvm")
    assert type(caught.value) is kind
    assert core.platforms == [KVM]
    if falls_back:
        with capture_logs() as logs:
            machine = await opened(core)
        assert machine.platform == "ptrace"
        assert [entry["event"] for entry in logs] == [choice.FALLBACK]
        assert logs[0]["error"] == kind.__name__
        await machine.close()
    else:
        with pytest.raises(kind) as caught:
            await opened(core)
        assert type(caught.value) is kind
        assert logs == []
        assert PTRACE not in core.platforms
    assert open_machines() == []


@pytest.mark.parametrize(("operation", "code", "kind", "word", "unusable"), OF_PTRACE)
async def test_what_ptrace_is_refused(
    core: FakeCore, operation: str, code: int, kind: type[AsyncKvmError], word: str, unusable: bool
) -> None:
    core.operation = operation.encode()
    core.open_errors[PTRACE] = code
    with pytest.raises(kind, match=word) as caught:
        await opened(core, platform="ptrace")
    assert type(caught.value) is kind
    assert core.platforms == [PTRACE]
    assert "/dev/kvm" not in str(caught.value)
    assert choice.unusable(caught.value) is unusable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InternalError("a defect"), False),
        (UsageError("a mistake"), False),
        (OverloadedError("full"), False),
        (ClosedError("closed"), False),
        (GuestOperationError("Nothing()", 1, 8), True),
    ],
)
def test_errors_of_other_kinds(error: AsyncKvmError, expected: bool) -> None:
    assert choice.unusable(error) is expected


async def test_the_warning_says_what_and_why_once(core: FakeCore) -> None:
    core.operation = DEVICE.encode()
    core.open_errors[KVM] = errno.EACCES
    with capture_logs() as logs:
        for _ in range(2):
            machine = await opened(core)
            assert machine.platform == "ptrace"
            await machine.close()
    (entry,) = logs
    assert "group" in entry.pop("hint")
    assert "weaker wall" in entry.pop("wall")
    assert entry == {
        "event": "platform_fallback",
        "log_level": "warning",
        "platform": "ptrace",
        "instead_of": "kvm",
        "operation": "open the KVM device (/dev/kvm)",
        "errno": errno.EACCES,
        "error": "DevicePermissionError",
    }


async def test_a_vcpu_that_does_not_answer(core: FakeCore) -> None:
    """KVM opened, and is given back before ptrace is tried."""

    def broken(context: Any) -> None:
        vector = 13 if core.platforms[-1] == KVM else 0
        core.end(context.index, ExitKind.OPERATION, vector=vector)

    core.program = broken
    with pytest.raises(GuestOperationError):
        await opened(core, platform="kvm")
    assert core.closes == 1
    with capture_logs() as logs:
        machine = await opened(core)
    assert core.platforms == [KVM, KVM, PTRACE]
    assert core.closes == 2
    assert (machine.platform, logs[0]["error"]) == ("ptrace", "GuestOperationError")
    await machine.close()


async def test_no_platform_at_all_tells_of_both(core: FakeCore) -> None:
    core.operation = DEVICE.encode()
    core.open_errors = {KVM: errno.ENOENT, PTRACE: errno.ENOTSUP}
    with capture_logs() as logs, pytest.raises(NoPlatformError, match=r"KVM: open .*module.*; ptrace: .*doctor") as caught:
        await opened(core)
    error = caught.value
    assert (type(error.kvm), type(error.ptrace)) == (DeviceMissingError, CapabilityError)
    assert error.__cause__ is error.kvm
    assert logs == []
    core.open_errors[PTRACE] = errno.ENOMEM
    with pytest.raises(OutOfMemoryError) as other:
        await opened(core)
    assert isinstance(other.value.__cause__, DeviceMissingError)


@pytest.mark.parametrize(
    ("named", "platforms"), [("kvm", [KVM]), ("ptrace", [PTRACE]), ("auto", [KVM, PTRACE]), ("", [KVM, PTRACE])]
)
async def test_the_environment_names_what_auto_is(
    core: FakeCore, monkeypatch: pytest.MonkeyPatch, named: str, platforms: list[int]
) -> None:
    core.operation = DEVICE.encode()
    core.open_errors[KVM] = errno.ENOENT
    monkeypatch.setenv(choice.VARIABLE, named)
    if named == "kvm":
        with pytest.raises(DeviceMissingError):
            await opened(core)
    else:
        await (await opened(core)).close()
    assert core.platforms == platforms


async def test_the_environment_changes_no_name(core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "ptrace")
    await (await opened(core, platform="kvm")).close()
    assert core.platforms == [KVM]
    with pytest.raises(UsageError, match="device"):
        await opened(core, device="/dev/other")
    monkeypatch.setenv(choice.VARIABLE, "xen")
    with pytest.raises(UsageError, match=r"ASYNCKVM_PLATFORM.*auto, kvm, ptrace.*'xen'"):
        await opened(core)
    assert core.platforms == [KVM]


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match=r"auto, kvm, ptrace.*'xen'"):
        Machine.open(platform="xen")
    with pytest.raises(UsageError, match="device"):
        MachineConfig(platform="ptrace", device="/dev/kvm")


async def test_a_device_is_only_kvm_s(core: FakeCore) -> None:
    """With "auto", a device that is not there is as good a reason as any."""
    core.operation = DEVICE.encode()
    core.open_errors[KVM] = errno.ENOENT
    with capture_logs() as logs:
        machine = await opened(core, device="/nowhere/kvm")
    assert (machine.platform, machine.config.device) == ("ptrace", "")
    assert "/nowhere/kvm" in logs[0]["operation"]
    await machine.close()


@pytest.mark.parametrize("platform", ["kvm", "ptrace"])
async def test_only_what_means_something_is_reported(core: FakeCore, platform: str) -> None:
    async with Machine.open(platform=platform, memory=2 << 20, binding=core.binding()) as machine:
        shown = machine.capabilities.of_platform()
    assert shown["platform"] == platform
    assert shown.keys() >= {"round_trip_ns", "xsave_bytes", "vcpus_max"}
    assert KVM_ONLY <= {field.name for field in dataclasses.fields(Capabilities)}
    assert shown.keys() & KVM_ONLY == (KVM_ONLY if platform == "kvm" else set())
