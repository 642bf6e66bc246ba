"""A CD that boots a kernel with isolinux, for emulators that boot as a PC does."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from hwvm.errors import HarnessError

# From Debian's packages isolinux and syslinux-common.
LOADER = (Path("/usr/lib/ISOLINUX/isolinux.bin"), Path("/usr/lib/syslinux/modules/bios/ldlinux.c32"))
# isolinux refuses a longer command line than the boot protocol's 2,048 bytes, of which it needs a few.
COMMAND_LINE_BYTES = 2000
SECONDS = 60
MENU = """\
default linux
prompt 0
timeout 0
label linux
 kernel linux
 append initrd=initrd {command_line}
"""


def write(path: Path, kernel: Path, initrd: Path, command_line: str) -> None:
    """Make the image of a CD that starts the kernel at once, without a menu."""
    if len(command_line.encode()) > COMMAND_LINE_BYTES or "\n" in command_line:
        raise HarnessError(f"not a kernel's command line: {command_line}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="cd-") as scratch:
        folder = Path(scratch, "isolinux")
        folder.mkdir()
        for file in LOADER:
            if not file.exists():
                raise HarnessError(f"{file} is missing: install isolinux and syslinux-common")
            shutil.copy(file, folder)
        shutil.copy(kernel, folder / "linux")
        shutil.copy(initrd, folder / "initrd")
        (folder / "isolinux.cfg").write_text(MENU.format(command_line=command_line), encoding="utf-8")
        command = [
            "xorriso",
            "-as",
            "mkisofs",
            "-quiet",
            "-o",
            str(path),
            "-b",
            "isolinux/isolinux.bin",
            "-c",
            "isolinux/boot.cat",
        ]
        command += ["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", scratch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode != 0:
        raise HarnessError(f"xorriso could not write {path}: {done.stderr.strip()}")
