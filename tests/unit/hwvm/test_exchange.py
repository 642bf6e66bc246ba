"""The disk between host and guest, and the scripts that run in the guest."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from unit.hwvm.machines import job

from hwvm import exchange
from hwvm.errors import HarnessError
from hwvm.initrd import INIT
from hwvm.variants import VARIANTS

if TYPE_CHECKING:
    from pathlib import Path


def test_bash_reads_the_job_as_it_was_meant() -> None:
    awkward = ("-k", "a and not 'b'", "", '$HOME `ls` \\ "\n*', "--x=y z")
    show = 'printf "%s\\0" "$root" "$budget" "$c_builds" "$ASYNCKVM_PACE" "${#instead[@]}" "${pytest[@]}"'
    done = subprocess.run(
        ["bash", "-c", exchange.script(job(awkward, ("plain", "asan"))) + show], capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[:-1] == ["/project", "600", "plain asan", "20", "0", *awkward]


@pytest.mark.parametrize(("shell", "script"), [("sh", INIT), ("bash", exchange.RUN)])
def test_the_guest_s_scripts_are_scripts(shell: str, script: Path) -> None:
    subprocess.run([shell, "-n", script], check=True)


def test_a_disk_that_the_guest_did_not_touch_holds_no_results(tmp_path: Path) -> None:
    exchange.write(tmp_path / "disk", job(), VARIANTS[0])
    assert (tmp_path / "disk").stat().st_size == exchange.SIZE
    with pytest.raises(HarnessError, match="no results"):
        exchange.read(tmp_path / "disk")


def answer(disk: Path, **files: bytes) -> None:
    """As the guest does: over what is there."""
    with disk.open("r+b") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_results_over_the_job(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    exchange.write(disk, job(), VARIANTS[0])
    answer(disk, status=b"0\n", text=b"x" * 100_000)
    assert exchange.read(disk) == {"status": b"0\n", "text": b"x" * 100_000}


def test_files_that_are_longer_than_the_disk_are_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    entry = tarfile.TarInfo("huge")
    entry.size = 1 << 40
    disk.write_bytes(entry.tobuf() + bytes(4096))
    with pytest.raises(HarnessError):
        exchange.read(disk)
