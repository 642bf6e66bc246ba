"""What the start-up probe found out about this KVM, as a frozen value. Nothing is decided here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynckvm.platform.binding import Binding, Handle

__all__ = ["Capabilities", "read_capabilities"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """`struct akvm_capabilities`; each field was found by running a guest.

    `round_trip_ns`: median ring 3 -> host thread -> ring 3. `xsave_bytes`: size of `Context.xsave`. `kvm_module`: a name
    for people to read, "" when unknown.
    """

    syscall_as_fault: bool
    int80_as_ud: bool
    host_edits_seen: bool
    cpuid_faulting: bool
    pcid: bool
    smep: bool
    smap: bool
    umip: bool
    fsgsbase: bool
    tsc_offset_exact: bool
    xsave_bytes: int
    physical_bits: int
    xcr0: int
    round_trip_ns: int
    kernel_base: int
    vcpus_max: int
    slots_max: int
    kvm_module: str


def read_capabilities(binding: Binding, machine: Handle) -> Capabilities:
    """The record of an open machine."""
    native = binding.lib.akvm_machine_capabilities(machine)
    values: dict[str, Any] = {
        field.name: (bool if field.type == "bool" else int)(getattr(native, field.name))
        for field in dataclasses.fields(Capabilities)
        if field.name != "kvm_module"
    }
    module = binding.ffi.string(native.kvm_module).decode("ascii", "replace")
    return Capabilities(kvm_module=module, **values)
