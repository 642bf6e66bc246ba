"""The initramfs: busybox, the kernel modules in their order, and the first process of the guest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from hwvm.cpio import Archive
from hwvm.errors import HarnessError
from hwvm.kernels import decompress

if TYPE_CHECKING:
    from hwvm.kernels import Kernel

INIT = Path(__file__).with_name("guest") / "init"
BUSYBOX = Path("/bin/busybox")
# Loaded by every guest; the file systems of its images and the part of KVM without parameters.
COMMON = ("squashfs", "overlay", "kvm")
FOLDERS = ("bin", "dev", "layers", "modules", "proc", "root", "sys", "top")


def make(kernel: Kernel, drivers: tuple[str, ...], module: str, cache: Path) -> Path:
    """The initrd for a kernel, the drivers of an emulator, and kvm_amd or kvm_intel; written only when it is another one."""
    files = kernel.modules((*drivers, *COMMON, module))
    archive = Archive()
    for folder in FOLDERS:
        archive.folder(folder)
    # For messages of the kernel's own before devtmpfs is there.
    archive.device("dev/console", 5, 1)
    archive.file("bin/busybox", _busybox(), 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", INIT.read_bytes(), 0o755)
    order = []
    for path in files:
        # Hyphen and underscore mean the same in the name of a module.
        name = path.name.split(".ko")[0].replace("-", "_")
        archive.file(f"modules/{name}.ko", decompress(path.read_bytes()))
        # The last one has parameters; init loads it when it knows them.
        if name != module:
            order.append(name)
    archive.file("modules/order", "".join(f"{name}\n" for name in order).encode())
    data = archive.finished()
    result = cache / f"initrd-{hashlib.sha256(data).hexdigest()[:16]}"
    if not result.exists():
        partial = result.with_suffix(".new")
        partial.write_bytes(data)
        partial.rename(result)
    return result


def _busybox() -> bytes:
    data = BUSYBOX.read_bytes()
    # A program interpreter would be missing in the initramfs.
    if b"/lib64/ld-linux" in data[:4096]:
        raise HarnessError(f"{BUSYBOX} is not static; install busybox-static")
    return data
