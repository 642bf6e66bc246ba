"""What the core and the engine count, as frozen values: always on, read only when somebody asks."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asynckvm.platform.binding import Binding, Handle
    from asynckvm.platform.scheduler import Fairness

__all__ = ["ContextCounters", "MachineCounters", "MemoryCounters", "VcpuCounters", "VcpuState", "read_memory", "read_vcpu"]


class ContextCounters(NamedTuple):
    """Of one context. `exits` reached Python, `native_exits` were resolved on the vCPU thread; `ran_ns`: all runs."""

    exits: int
    native_exits: int
    ran_ns: int


class VcpuState(enum.IntEnum):
    """enum akvm_vcpu_state."""

    IDLE = 0
    ENTERING = 1
    GUEST = 2
    EXITING = 3
    DEAD = 4


class VcpuCounters(NamedTuple):
    """`struct akvm_vcpu_status`: a racy snapshot of one vCPU. `context` -1 when idle."""

    vcpu: int
    state: VcpuState
    context: int
    generation: int
    queued: int
    started_ns: int
    busy_ns: int
    runs: int
    exits: int
    native_exits: int
    kicks: int
    stale_kicks: int
    steals: int
    fp_switches: int
    operations: int
    shootdowns: int
    sleeps: int
    space_switches: int
    space_flushes: int


class MemoryCounters(NamedTuple):
    """`struct akvm_memory_status`; frames of 4 KiB."""

    frames_total: int
    frames_used: int
    huge_mapped: int
    small_mapped: int
    faults: int
    cow_copies: int
    huge_splits: int
    edits: int
    tables_used: int
    tables_total: int
    spaces: int
    limbo_frames: int
    file_slots: int


class MachineCounters(NamedTuple):
    """Everything. `turns` of the engine, `completions` it drained, `rings` of the doorbell, `polls` and how many hit."""

    vcpus: tuple[VcpuCounters, ...]
    memory: MemoryCounters
    fairness: Fairness
    contexts: int
    waiting: int
    in_flight: int
    turns: int
    completions: int
    rings: int
    polls: int
    poll_hits: int


_NO_CONTEXT = 0xFFFF_FFFF


def read_vcpu(binding: Binding, machine: Handle, vcpu: int) -> VcpuCounters:
    """Snapshot of one vCPU. Thread: any."""
    status = binding.ffi.new("struct akvm_vcpu_status *")
    binding.check(binding.lib.akvm_vcpu_status(machine, vcpu, status))
    values = {name: getattr(status, name) for name in VcpuCounters._fields if name != "vcpu"}
    values["state"] = VcpuState(values["state"])
    if values["context"] == _NO_CONTEXT:
        values["context"] = -1
    return VcpuCounters(vcpu=vcpu, **values)


def read_memory(binding: Binding, machine: Handle) -> MemoryCounters:
    """Snapshot of guest memory. Thread: any."""
    status = binding.ffi.new("struct akvm_memory_status *")
    binding.check(binding.lib.akvm_memory_status(machine, status))
    return MemoryCounters(*(getattr(status, name) for name in MemoryCounters._fields))
