"""The platform: a machine, its address spaces and contexts, and `exit = await context.switch()`.

In the order in which an exit meets them: `context` (switch) -> `engine` (one turn) -> `scheduler` (pure
decisions) -> `binding` (the one door to native code) -> vCPU threads -> `doorbell` -> `decode` -> back in `context`. Beside them:
`machine` (open and close), `choice` (KVM or ptrace), `core` (what all objects of a machine share), `address_space`, `host_file`,
`direct_files`, `retry` (ring-0 operations), `watchdog`, `exit_log`, `counters`, `flight`. Nothing here knows a Linux system call
number.
"""

from asynckvm.model.config import EngineConfig, MachineConfig, Priority, SchedulerConfig
from asynckvm.model.exits import Exit, Fault, Instruction, Interrupted, InterruptReason, Syscall
from asynckvm.model.memory import PAGE, USER_MAX, USER_MIN, Access, Region
from asynckvm.model.operations import Flush, Nothing, Operation, ReadMsr, WriteMsr
from asynckvm.model.registers import RegisterIndex, Registers
from asynckvm.platform.address_space import AddressSpace
from asynckvm.platform.capabilities import Capabilities
from asynckvm.platform.context import Context, Restore
from asynckvm.platform.counters import ContextCounters, MachineCounters, MemoryCounters, VcpuCounters, VcpuState
from asynckvm.platform.direct_files import DirectCall, DirectFile, DirectFiles
from asynckvm.platform.exit_log import ExitRecord, ExitStream
from asynckvm.platform.flight import FlightRecord
from asynckvm.platform.host_file import HostFile
from asynckvm.platform.machine import Machine, open_machines
from asynckvm.platform.memory_budget import MemoryBudget
from asynckvm.platform.scheduler import Fairness

__all__ = [
    "PAGE",
    "USER_MAX",
    "USER_MIN",
    "Access",
    "AddressSpace",
    "Capabilities",
    "Context",
    "ContextCounters",
    "DirectCall",
    "DirectFile",
    "DirectFiles",
    "EngineConfig",
    "Exit",
    "ExitRecord",
    "ExitStream",
    "Fairness",
    "Fault",
    "FlightRecord",
    "Flush",
    "HostFile",
    "Instruction",
    "InterruptReason",
    "Interrupted",
    "Machine",
    "MachineConfig",
    "MachineCounters",
    "MemoryBudget",
    "MemoryCounters",
    "Nothing",
    "Operation",
    "Priority",
    "ReadMsr",
    "Region",
    "RegisterIndex",
    "Registers",
    "Restore",
    "SchedulerConfig",
    "Syscall",
    "VcpuCounters",
    "VcpuState",
    "WriteMsr",
    "open_machines",
]
