"""What the start-up probe found out about this platform, as a frozen value. Nothing is decided here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from asynckvm.model.config import PlatformName
    from asynckvm.platform.binding import Binding, Handle

__all__ = ["KVM_ONLY", "Capabilities", "read_capabilities"]

# Says something about KVM only: 0 or "" on other platforms.
KVM_ONLY: Final = frozenset(
    {
        "syscall_as_fault", "int80_as_ud", "host_edits_seen", "pcid", "smep", "smap", "umip", "physical_bits", "kernel_base",
        "slots_max", "kvm_module",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """`struct akvm_capabilities`; what can be was found by running a guest. `KVM_ONLY` names what only KVM has.

    `round_trip_ns`: median ring 3 -> host thread -> ring 3. `xsave_bytes`: size of `Context.xsave`. `kvm_module`: a name
    for people to read, "" when unknown.
    """

    platform: PlatformName
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

    def of_platform(self) -> dict[str, Any]:
        """What means something on this platform, by name: for reports."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if self.platform == "kvm" or name not in KVM_ONLY}


def read_capabilities(binding: Binding, machine: Handle) -> Capabilities:
    """The record of an open machine."""
    native = binding.lib.akvm_machine_capabilities(machine)
    values: dict[str, Any] = {
        field.name: (bool if field.type == "bool" else int)(getattr(native, field.name))
        for field in dataclasses.fields(Capabilities)
        if field.name not in {"kvm_module", "platform"}
    }
    module = binding.ffi.string(native.kvm_module).decode("ascii", "replace")
    return Capabilities(platform=binding.platform_name(native.platform), kvm_module=module, **values)
