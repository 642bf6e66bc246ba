"""The public names, pinned: adding or losing one is a decision, taken here."""

import importlib

import pytest

PUBLIC = {
    "asynckvm": "AllowConnect Bind CompletedProcess Limits NetworkRequest ProcessError Reason Sandbox __version__",
    "asynckvm.linux": "ArgumentsTooLongError Cause ElfError ElfProblem ExitStatus signal_name",
    "asynckvm.sandbox": "AllowConnect Bind CompletedProcess Limits NetworkRequest ProcessError Reason Sandbox",
    "asynckvm.errors": """
        AsyncKvmError CapabilityError ClosedError DeviceMissingError DevicePermissionError GuestError GuestMemoryError
        GuestOperationError GuestStringError GuestTrapError HostError HostForkedError InternalError NoPlatformError
        OutOfMemoryError OverloadedError PlatformError SlotsExhaustedError TraceDeniedError UsageError
    """,
    "asynckvm.platform": """
        Access AddressSpace Capabilities Context ContextCounters DirectCall DirectFile DirectFiles EngineConfig Exit ExitRecord
        ExitStream Fairness
        Fault FlightRecord Flush HostFile Instruction InterruptReason Interrupted Machine MachineConfig
        MachineCounters MemoryBudget MemoryCounters Nothing Operation PAGE Priority ReadMsr Region RegisterIndex Registers Restore
        SchedulerConfig Syscall USER_MAX USER_MIN VcpuCounters VcpuState WriteMsr open_machines
    """,
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module].split())
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
