"""A stock Debian kernel, downloaded and unpacked, never installed; and the uncompressed image that boots fastest."""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import NamedTuple

from hwvm import program
from hwvm.errors import HarnessError

# Depends on the newest kernel of the flavour that is meant to run in virtual machines.
META_PACKAGE = "linux-image-cloud-amd64"
DOWNLOAD_SECONDS = 600
SECONDS = 120
# Signatures of compressed data, and the program that unpacks what Python's library does not.
XZ, GZIP, ZSTD, LZ4 = b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"
PROGRAMS = {ZSTD: "zstd", LZ4: "lz4"}


class Kernel(NamedTuple):
    """An unpacked kernel."""

    release: str
    folder: Path  # with boot/ and lib/modules/ as in the package

    @property
    def vmlinuz(self) -> Path:
        """The compressed image, for emulators with a boot loader."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def vmlinux(self) -> Path:
        """The ELF image within, for emulators that load it themselves."""
        return self.folder / "vmlinux"

    def modules(self, names: tuple[str, ...]) -> list[Path]:
        """Files of these modules and of what they need, in the order of loading; those built in have none."""
        found: dict[Path, None] = {}
        for name in names:
            command = ["modprobe", "-d", str(self.folder), "-S", self.release, "--show-depends", name]
            steps = [line.split() for line in program.output(command).splitlines()]
            found |= dict.fromkeys(Path(step[1]) for step in steps if step[0] == "insmod")
        return list(found)


def decompress(data: bytes) -> bytes:
    """Any of the ways kernels and modules are compressed; what follows the compressed data is ignored."""
    if data.startswith(XZ):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(GZIP):
        return zlib.decompressobj(31).decompress(data)
    for magic, unpacker in PROGRAMS.items():
        if data.startswith(magic):
            # The length that Linux appends makes these programs complain, after all the data has been written.
            done = subprocess.run([unpacker, "-dcq"], input=data, capture_output=True, timeout=SECONDS, check=False)
            if not done.stdout:
                raise HarnessError(f"{unpacker} could not unpack: {done.stderr.decode(errors='replace').strip()}")
            return done.stdout
    return data


def elf_image(image: bytes) -> bytes:
    """The ELF file inside a compressed kernel, found by the boot protocol's header (Documentation/arch/x86/boot.rst)."""
    if image[0x202:0x206] != b"HdrS":
        raise HarnessError("not a Linux kernel image for x86: no boot header")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    elf = decompress(image[start : start + length])
    if not elf.startswith(b"\x7fELF"):
        raise HarnessError(f"the kernel image is compressed in an unknown way: {elf[:8].hex()}")
    return elf


def newest_package() -> tuple[str, str]:
    """Name and version of the kernel package that apt would install."""
    names = re.findall(r"Depends: (linux-image-\S+)", program.output(["apt-cache", "depends", "--important", META_PACKAGE]))
    if not names:
        raise HarnessError(f"apt knows no {META_PACKAGE}; this needs Debian 12 or 13 and its main archive (apt-get update)")
    version = re.search(r"Candidate: (\S+)", program.output(["apt-cache", "policy", names[0]]))
    if version is None or version[1] == "(none)":
        raise HarnessError(f"apt has no candidate for {names[0]}; apt-get update may help")
    return names[0], version[1]


def _unpack(package: str, version: str, folder: Path) -> None:
    work = folder.with_suffix(".new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", f"{package}={version}"]
    program.output(command, seconds=DOWNLOAD_SECONDS, cwd=work)
    archive = next(work.glob("*.deb"))
    program.output(["dpkg", "-x", str(archive), str(work)])
    archive.unlink()
    kernel = _inside(work)
    # Debian 13 ships modules under usr/lib; depmod and modprobe look under lib.
    program.output(["depmod", "-b", str(work), kernel.release])
    kernel.vmlinux.write_bytes(elf_image(kernel.vmlinuz.read_bytes()))
    work.rename(folder)


def _inside(folder: Path) -> Kernel:
    images = list(folder.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise HarnessError(f"{folder} holds {len(images)} kernels instead of one; remove it")
    if not (folder / "lib/modules").exists() and (folder / "usr/lib/modules").exists():
        (folder / "lib").symlink_to("usr/lib")
    return Kernel(images[0].name.removeprefix("vmlinuz-"), folder)


def newest(cache: Path) -> Kernel:
    """The newest stock kernel, kept under cache until there is a newer one; without apt's lists, the one kept there."""
    try:
        package, version = newest_package()
    except HarnessError:
        kept = [path for path in cache.glob("linux-image-*") if (path / "vmlinux").exists()]
        if len(kept) != 1:
            raise
        return _inside(kept[0])
    folder = cache / f"{package}_{version.replace(':', '%3a')}"
    if not folder.exists():
        _unpack(package, version, folder)
        for old in cache.glob("linux-image-*"):
            if old != folder:
                shutil.rmtree(old)
    return _inside(folder)
