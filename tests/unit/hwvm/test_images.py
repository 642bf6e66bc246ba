"""What goes into the guest: the initramfs, kernels however compressed, packages with what they need, files and their parents."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from hwvm import image, kernels, packages
from hwvm.cpio import Archive
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ELF = b"\x7fELF" + bytes(range(256)) * 40


def boot_image(payload: bytes, setup_sectors: int = 4) -> bytes:
    """The parts of a kernel image that its header leads to."""
    image = bytearray((setup_sectors + 1) * 512)
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image) + bytes(64) + payload + b"rest"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bytes])
def test_the_elf_image_in_a_kernel(compress: Callable[[bytes], bytes]) -> None:
    # Linux appends the length.
    assert kernels.elf_image(boot_image(compress(ELF) + struct.pack("<I", len(ELF)))).startswith(ELF)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(HarnessError, match="not a Linux kernel"):
        kernels.elf_image(bytes(4096))
    with pytest.raises(HarnessError, match="unknown way: 00112233"):
        kernels.elf_image(boot_image(bytes.fromhex("0011223344556677")))


def test_the_initramfs_is_an_archive(tmp_path: Path) -> None:
    archive = Archive()
    archive.folder("bin")
    archive.file("bin/odd", b"abc", 0o755)
    archive.link("bin/sh", "odd")
    archive.device("console", 5, 1)
    data = archive.finished()
    told = subprocess.run(["busybox", "cpio", "-itv"], input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in told] == [
        ("drwxr-xr-x", "bin"), ("-rwxr-xr-x", "bin/odd"), ("lrwxrwxrwx", "odd"), ("crw-------", "console"),
    ]  # fmt: skip
    only = subprocess.run(
        ["busybox", "cpio", "-i", "--to-stdout", "bin/odd"], input=data, capture_output=True, cwd=tmp_path, check=True
    )
    assert only.stdout == b"abc"


STATUS = """\
bash\tlibc6 (>= 2.36), base-files (>= 2.1)\t\tinstalled
libc6:amd64\t, libgcc-s1\t\tinstalled
libgcc-s1:amd64\t, libc6 (>= 2.35)\t\tinstalled
mawk\tlibc6, \tawk\tinstalled
gawk\tlibc6, \tawk\tconfig-files
base-files\tawk, libold | libc6:any\t\tinstalled
other\tlibc6, \t\tinstalled
"""


def test_packages_come_with_what_they_need() -> None:
    assert packages.closure(["bash"], STATUS) == ["base-files", "bash", "libc6:amd64", "libgcc-s1:amd64", "mawk"]


def test_packages_that_are_missing_are_named() -> None:
    with pytest.raises(HarnessError, match=r"not installed: gawk gcc$"):
        packages.closure(["bash", "gawk", "gcc"], STATUS)


def test_members_have_their_parents_and_true_names(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/deep").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/deep/file").write_text("")
    paths = [f"{tmp_path}/lib", f"{tmp_path}/lib/deep/file", f"{tmp_path}/usr/lib/deep/file", f"{tmp_path}/gone", "/."]
    found = [f"/{name}" for name in image.members(paths)]
    assert [name for name in found if name.startswith(f"{tmp_path}/")] == [
        f"{tmp_path}/{name}" for name in ("lib", "usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/file")
    ]
    assert [name for name in found if not name.startswith(f"{tmp_path}/")] == [
        str(path) for path in [*tmp_path.parents][-2::-1]
    ] + [str(tmp_path)]


def test_trees_are_walked_without_the_unwanted(tmp_path: Path) -> None:
    for name in ("keep/a.py", "mypy/b.py", "bin/ruff", "bin/python"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("keep")
    assert sorted(path.removeprefix(f"{tmp_path}") for path in image.tree(tmp_path, {"mypy"})) == [
        "", "/bin", "/bin/python", "/keep", "/keep/a.py", "/link",
    ]  # fmt: skip
    assert list(image.tree(tmp_path / "nothing")) == []


def test_a_chain_of_links_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "middle").symlink_to("real")
    (tmp_path / "first").symlink_to(tmp_path / "middle")
    assert [path.name for path in image.chain(tmp_path / "first")] == ["first", "middle", "real"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HarnessError, match="too many"):
        list(image.chain(tmp_path / "loop"))


def test_the_state_of_files_changes_with_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    before = image.state([str(path), f"{tmp_path}/gone"])
    assert image.state([str(path)]) == before
    os.utime(path, (1, 1))
    assert image.state([str(path)]) != before
