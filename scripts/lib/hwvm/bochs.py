"""Bochs: an Intel processor with VMX, EPT, VPID and PCID, for kvm_intel.

It has no loader for kernels and no paravirtual devices: the machine boots from a CD and finds its images on IDE disks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwvm import bochs_program, iso
from hwvm.emulator import CYLINDER
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from hwvm.emulator import Machine

# From Debian's packages bochsbios and vgabios.
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/bochs/VGABIOS-lgpl-latest")
# Emulated instructions per emulated second, about ten times what a present core does in a real one: the guest's clock is slow by
# as much as its processor, so deadlines hold and timers strike as often as elsewhere. Idle time is skipped.
INSTRUCTIONS_PER_SECOND = 1_000_000_000
# Where the disks go. The CD is the second channel's first drive.
PLACES = ("ata0-master", "ata0-slave", "ata1-slave")
HEADS, SECTORS, SECTOR_BYTES = 16, 63, 512
# What the configuration's syntax leaves no way to write in a path.
SPECIAL = frozenset(',"=#$\n')

CONFIGURATION = """\
config_interface: textconfig
display_library: nogui
cpu: model={model}, count=1, ips={ips}, reset_on_triple_fault=0
memory: guest={memory}, host={memory}
romimage: file="{bios}"
vgaromimage: file="{vga_bios}"
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path="{cd}", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="{console}"
clock: sync=none, time0=utc
log: "{log}"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


class Bochs:
    """One processor. `cache`: where the program is kept once it is built."""

    drivers: tuple[str, ...] = ("ata_piix", "sd_mod")

    def __init__(self, cache: Path) -> None:
        self._program = bochs_program.build(cache)

    def command(self, machine: Machine) -> list[str]:
        cd = machine.folder / "cd"
        iso.write(cd, machine.kernel.vmlinuz, machine.initrd, machine.command_line)
        file = machine.folder / "bochsrc"
        file.write_text(configuration(machine, cd), encoding="utf-8")
        # Without the quick start it shows a menu.
        return [str(self._program), "-q", "-f", str(file)]


def configuration(machine: Machine, cd: Path) -> str:
    """The text of bochsrc. The guest's disks become links in the machine's folder, where the locks of Bochs bother nobody."""
    text = CONFIGURATION.format(
        model=machine.model,
        ips=INSTRUCTIONS_PER_SECOND,
        memory=machine.memory,
        bios=BIOS,
        vga_bios=VGA_BIOS,
        cd=_checked(cd),
        console=_checked(machine.console),
        log=machine.folder / "bochs.log",
    )
    if len(machine.disks) > len(PLACES):
        raise HarnessError(f"Bochs has room for {len(PLACES)} disks beside the CD, not for {len(machine.disks)}")
    for number, (place, disk) in enumerate(zip(PLACES, machine.disks, strict=False)):
        link = machine.folder / f"disk{number}"
        link.symlink_to(disk.path.absolute())
        cylinders, rest = divmod(disk.path.stat().st_size, CYLINDER)
        if rest or not cylinders:
            raise HarnessError(f"{disk.path} is not a whole number of cylinders long")
        text += f'{place}: type=disk, path="{_checked(link)}", mode=flat, cylinders={cylinders}, heads={HEADS}, spt={SECTORS}\n'
    return text


def _checked(path: Path) -> Path:
    if SPECIAL & set(str(path)):
        raise HarnessError(f"Bochs cannot be told a path like {path}: move the project to one of plain letters")
    return path
