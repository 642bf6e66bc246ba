"""The flight recorder: the last exits of each vCPU, and the text that shows them after a hang or an internal error.

Reads what the core records anyway. `describe` never raises: it runs when something has already gone wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.model.exits import ExitKind, InterruptReason
from asynckvm.platform.counters import VcpuState, read_memory, read_vcpu

if TYPE_CHECKING:
    from asynckvm.platform.binding import Binding, Handle

__all__ = ["FlightRecord", "describe", "read_flight"]

_RECORDS: Final = 64


class FlightRecord(NamedTuple):
    """`struct akvm_flight_record`. `context` is the native index; `when_ns` CLOCK_MONOTONIC."""

    when_ns: int
    rip: int
    address: int
    context: int
    generation: int
    kvm_exit_reason: int
    kind: int
    vector: int
    error_code: int
    host_errno: int
    interrupts: int


def read_flight(binding: Binding, machine: Handle, vcpu: int) -> tuple[FlightRecord, ...]:
    """The last exits of a vCPU, oldest first. Thread: any."""
    records = binding.ffi.new("struct akvm_flight_record[]", _RECORDS)
    count = binding.check(binding.lib.akvm_vcpu_flight(machine, vcpu, records, _RECORDS))
    return tuple(FlightRecord(*(getattr(records[position], name) for name in FlightRecord._fields)) for position in range(count))


def describe(binding: Binding, machine: Handle, vcpus: int, heading: str) -> str:
    """All vCPUs with their last exits, as text. Never raises."""
    lines = [heading]
    for vcpu in range(vcpus):
        try:
            lines += _describe_vcpu(binding, machine, vcpu)
        except Exception as error:  # noqa: BLE001  (half a dump is better than none)
            lines.append(f"vCPU {vcpu}: unreadable: {error!r}")
    try:
        lines.append(f"memory: {read_memory(binding, machine)}")
    except Exception as error:  # noqa: BLE001
        lines.append(f"memory: unreadable: {error!r}")
    return "\n".join(lines)


def _describe_vcpu(binding: Binding, machine: Handle, vcpu: int) -> list[str]:
    status = read_vcpu(binding, machine, vcpu)
    running = "nothing" if status.state is VcpuState.IDLE else f"context #{status.context} run {status.generation}"
    first = (
        f"vCPU {vcpu}: {status.state.name} {running} since {status.started_ns}, {status.queued} queued, {status.runs} runs, "
        f"{status.exits} exits, {status.native_exits} native, {status.kicks} kicks ({status.stale_kicks} stale), "
        f"{status.steals} steals, {status.sleeps} sleeps"
    )
    lines = [first]
    for record in read_flight(binding, machine, vcpu):
        kind = ExitKind(record.kind).name if record.kind in ExitKind.__members__.values() else str(record.kind)
        interrupts = f" {InterruptReason(record.interrupts & 63)!s}" if record.interrupts else ""
        where = f"rip {record.rip:#x} vector {record.vector} error {record.error_code:#x} address {record.address:#x}"
        run = f"#{record.context}/{record.generation} {kind} kvm {record.kvm_exit_reason}"
        lines.append(f"  {record.when_ns} {run} {where} errno {record.host_errno}{interrupts}")
    return lines
