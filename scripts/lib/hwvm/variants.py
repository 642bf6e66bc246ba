"""The machines that the tests run in: which processor, and how its KVM is set up. The only table of them."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """One machine."""

    name: str
    cpu: str  # amd: under QEMU; intel: under Bochs
    model: str  # as the emulator calls it
    parameters: str  # of the module kvm_amd or kvm_intel
    command_line: str  # added to the kernel's
    meaning: str

    @property
    def module(self) -> str:
        return f"kvm_{self.cpu}"


# The first of each processor is what `--cpu` alone means.
VARIANTS = (
    Variant("amd-npt", "amd", "max", "npt=1", "", "SVM with nested paging"),
    Variant("amd-shadow", "amd", "max", "npt=0", "", "SVM with shadow paging"),
    Variant("amd-nofsgsbase", "amd", "max,-fsgsbase", "npt=1", "", "no FSGSBASE instructions"),
    Variant("amd-nosmap", "amd", "max,-smap,-smep,-umip", "npt=1", "", "neither SMEP, SMAP nor UMIP"),
    Variant("intel-ept", "intel", "corei7_haswell_4770", "ept=1", "", "VMX with EPT, PCID"),
    Variant("intel-nopcid", "intel", "corei7_haswell_4770", "ept=1", "nopcid", "VMX with EPT, no PCID"),
    Variant("intel-shadow", "intel", "corei7_haswell_4770", "ept=0", "", "VMX with shadow paging"),
)
CPUS = tuple(dict.fromkeys(variant.cpu for variant in VARIANTS))


def chosen(cpu: str | None, name: str | None) -> list[Variant]:
    """What --cpu and --variant ask for: the first one of a processor, one by name, or all of them.

    A name works with or without its processor: "npt", "amd-npt".
    """
    of_cpu = [variant for variant in VARIANTS if cpu in (None, variant.cpu)]
    if name == "all":
        return of_cpu
    if name is None:
        return [variant for variant in of_cpu if variant.cpu == (cpu or CPUS[0])][:1]
    found = [variant for variant in of_cpu if name in (variant.name, variant.name.removeprefix(f"{variant.cpu}-"))]
    if not found:
        names = ", ".join(variant.name for variant in of_cpu)
        raise ValueError(f"no variant {name!r}; there are {names}, and all")
    if len(found) > 1:
        names = " or ".join(variant.name for variant in found)
        raise ValueError(f"{name!r} is {names}: say which, or give --cpu")
    return found
