"""The Intel machine: its configuration, its CD, and where the program comes from."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from unit.hwvm.machines import machine

from hwvm import bochs, bochs_program, iso
from hwvm.emulator import CYLINDER, Disk, Emulator
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from pathlib import Path

TOLD = """\
NOTICE: 'bochs' packaging is maintained in the 'Git' version control system at:
'http://archive.example/debian/pool/main/b/bochs/bochs_3.0%2bdfsg-1.dsc' bochs_3.0+dfsg-1.dsc 2554 SHA256:6a4e
'http://archive.example/debian/pool/main/b/bochs/bochs_3.0%2bdfsg.orig.tar.xz' bochs_3.0+dfsg.orig.tar.xz 3896488 SHA256:{digest}
"""


def disk(folder: Path, name: str, cylinders: int) -> Disk:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(cylinders * CYLINDER)
    return Disk(path)


def built(cache: Path) -> Path:
    """A cache with a program in it, so that nothing is downloaded."""
    program = cache / f"bochs-{bochs_program.recipe()}" / "bochs"
    program.parent.mkdir(parents=True)
    program.touch()
    return program


def test_a_program_in_the_cache_is_used(tmp_path: Path) -> None:
    program = built(tmp_path / "cache")
    emulator: Emulator = bochs.Bochs(tmp_path / "cache")
    assert bochs_program.build(tmp_path / "cache") == program
    assert {"ata_piix", "sd_mod"} <= set(emulator.drivers)


def test_every_disk_has_its_place_and_its_geometry(tmp_path: Path) -> None:
    images = [disk(tmp_path, "one", 3), disk(tmp_path, "two", 5), disk(tmp_path, "three", 1)]
    run = tmp_path / "run"
    run.mkdir()
    text = bochs.configuration(machine(run, images), run / "cd")
    places = re.findall(
        r'^(ata\d-\w+): type=disk, path="(\S+)", mode=flat, cylinders=(\d+), heads=16, spt=63$', text, re.MULTILINE
    )
    assert [place[0] for place in places] == ["ata0-master", "ata0-slave", "ata1-slave"]
    assert [int(place[2]) for place in places] == [3, 5, 1]
    links = [run / f"disk{number}" for number in range(3)]
    assert [place[1] for place in places] == [str(link) for link in links], "locks are put beside these"
    assert [link.resolve() for link in links] == [image.path for image in images]
    assert "cpu: model=some, count=1," in text
    assert "memory: guest=512, host=512" in text
    assert f'com1: enabled=1, mode=file, dev="{run / "console"}"' in text


@pytest.mark.parametrize("size", [0, CYLINDER - 1, CYLINDER + 512])
def test_a_disk_without_a_geometry_is_refused(tmp_path: Path, size: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(size))
    with pytest.raises(HarnessError, match="cylinders"):
        bochs.configuration(machine(tmp_path, [Disk(image)]), tmp_path / "cd")


def test_more_disks_than_places_are_refused(tmp_path: Path) -> None:
    images = [disk(tmp_path, f"image{number}", 1) for number in range(len(bochs.PLACES) + 1)]
    with pytest.raises(HarnessError, match="disks"):
        bochs.configuration(machine(tmp_path, images), tmp_path / "cd")


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a#b", "a$b"])
def test_a_path_that_bochs_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(HarnessError, match="Bochs cannot"):
        bochs.configuration(machine(folder), folder / "cd")


@pytest.mark.skipif(
    not (shutil.which("xorriso") and all(file.exists() for file in iso.LOADER)), reason="no xorriso or isolinux here"
)
def test_the_cd_boots_the_kernel_with_its_command_line(tmp_path: Path) -> None:
    kernel, initrd, cd = tmp_path / "k", tmp_path / "i", tmp_path / "cd"
    kernel.write_bytes(b"kernel" * 1000)
    initrd.write_bytes(b"initrd" * 1000)
    iso.write(cd, kernel, initrd, "console=ttyS0 quiet")
    extract = ["xorriso", "-indev", str(cd), "-osirrox", "on", "-extract", "/isolinux", str(tmp_path / "out")]
    subprocess.run(extract, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out" / "linux").read_bytes() == kernel.read_bytes()
    assert (tmp_path / "out" / "initrd").read_bytes() == initrd.read_bytes()
    assert " append initrd=initrd console=ttyS0 quiet\n" in (tmp_path / "out" / "isolinux.cfg").read_text()
    report = subprocess.run(
        ["xorriso", "-indev", str(cd), "-report_el_torito", "plain"], check=True, capture_output=True, text=True, timeout=60
    )
    assert re.search(r"El Torito boot img\s*:\s*1\s+BIOS\s+y\s+none", report.stdout), report.stdout


@pytest.mark.parametrize("line", ["x" * 2001, "two\nlines"])
def test_a_command_line_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(HarnessError, match="command line"):
        iso.write(tmp_path / "cd", tmp_path / "k", tmp_path / "i", line)


def test_the_source_is_found_in_what_apt_tells() -> None:
    found = bochs_program.source(TOLD.format(digest="7" * 64))
    assert found.address.endswith("bochs_3.0%2bdfsg.orig.tar.xz")
    assert (found.name, found.digest) == ("bochs_3.0+dfsg.orig.tar.xz", "SHA256:" + "7" * 64)


@pytest.mark.parametrize("told", ["", TOLD.format(digest="short"), "E: Unable to find a source package for bochs"])
def test_without_a_digest_there_is_no_source(told: str) -> None:
    with pytest.raises(HarnessError, match="source of bochs"):
        bochs_program.source(told)
