"""The vDSO as a file: what ld.so, musl and debuggers look for in it, and nothing that somebody would have to relocate."""

import re
import subprocess

import pytest

from asynckvm.linux import elf
from asynckvm.linux.clock_page import ClockPage
from asynckvm.linux.vdso import Vdso
from asynckvm.model.memory import PAGE, Access
from asynckvm.platform.binding import vdso_image
from support.fake_platform import FakeFile, FakeSpace

NAMES = ("clock_gettime", "gettimeofday", "clock_getres", "time", "getcpu")


def readelf(*options: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *options, vdso_image()], capture_output=True, text=True, check=True, timeout=30
    ).stdout


def test_it_is_one_segment_that_is_the_file() -> None:
    data = vdso_image().read_bytes()
    image = elf.parse(lambda offset, length: data[offset : offset + length], len(data))
    (segment,) = image.segments
    assert (segment.address, segment.offset, segment.access) == (0, 0, Access.READ | Access.EXECUTE)
    assert segment.file_bytes == segment.memory_bytes
    assert image.headers == 64
    # The C library writes into a dynamic section that is writable.
    assert re.search(r"DYNAMIC .* R  +0x", readelf("-l"))


def test_its_names_have_linux_s_version() -> None:
    symbols = readelf("--dyn-syms")
    found = re.findall(r"FUNC +(GLOBAL|WEAK) +DEFAULT +\d+ (\S+)", symbols)
    expected = [("WEAK", f"{name}@@LINUX_2.6") for name in NAMES] + [("GLOBAL", f"__vdso_{name}@@LINUX_2.6") for name in NAMES]
    assert sorted(found) == sorted(expected)
    # The first symbol is the null one; nothing else may be left for others to define.
    assert symbols.count(" UND ") == 1


def test_it_has_both_hashes_a_name_and_no_relocation() -> None:
    dynamic = readelf("-d")
    for entry in ("(HASH)", "(GNU_HASH)", "[linux-vdso.so.1]", "(VERDEF)"):
        assert entry in dynamic
    for entry in ("REL", "NEEDED", "INIT", "TEXTREL", "PLTGOT"):
        assert f"({entry}" not in dynamic
    assert "There are no relocations" in readelf("-r")


def test_every_function_can_be_unwound() -> None:
    """Each is covered by a frame description, found through the header that unwinders look for."""
    assert "GNU_EH_FRAME" in readelf("-l")
    frames = [
        (int(start, 16), int(end, 16)) for start, end in re.findall(r"FDE .* pc=(\w+)\.\.(\w+)", readelf("--debug-dump=frames"))
    ]
    symbols = [(int(value, 16), int(size)) for value, size in re.findall(r": (\w+) +(\d+) FUNC", readelf("--dyn-syms"))]
    assert symbols
    for value, size in symbols:
        assert any(start <= value and value + size <= end for start, end in frames)


@pytest.fixture
def machine() -> object:
    class Files:
        opened: list[FakeFile] = []  # noqa: RUF012

        def open_file(self, file: object) -> FakeFile:
            if isinstance(file, int):
                self.opened.append(FakeFile(file))
            else:
                with open(str(file), "rb") as opened:
                    self.opened.append(FakeFile(opened.fileno()))
            return self.opened[-1]

    return Files()


def test_the_page_lies_in_front_of_the_object(machine: object) -> None:
    page, space = ClockPage(counter_exact=False), FakeSpace()
    vdso = Vdso(machine, page)  # type: ignore[arg-type]
    assert vdso.map(space, 0x10000) == 0x10000 + PAGE  # type: ignore[arg-type]
    assert space.read(0x10000 + PAGE, 4) == b"\x7fELF"
    assert space.region(0x10000).access == Access.READ  # type: ignore[union-attr]
    assert len(space.pages) * PAGE == vdso.size
    vdso.close()
    page.close()
    assert all(file.closed for file in machine.opened)  # type: ignore[attr-defined]
