"""QEMU without KVM: an AMD processor with SVM and nested paging, for kvm_amd."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwvm.emulator import Machine

PROGRAM = "qemu-system-x86_64"


class Qemu:
    """One processor only: with more, the emulator's threads now and then lose a kernel's change to its own code."""

    drivers: tuple[str, ...] = ("virtio_pci", "virtio_blk")

    def command(self, machine: Machine) -> list[str]:
        command = [PROGRAM, "-accel", "tcg", "-machine", "q35", "-cpu", machine.model, "-smp", "1", "-m", str(machine.memory)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{machine.console}"]
        for number, disk in enumerate(machine.disks):
            only = "off" if disk.writable else "on"
            # Commas in a value are doubled.
            path = str(disk.path).replace(",", ",,")
            command += ["-drive", f"if=none,id=disk{number},format=raw,read-only={only},cache=unsafe,file={path}"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        return [*command, "-kernel", str(machine.kernel.vmlinux), "-initrd", str(machine.initrd), "-append", machine.command_line]
