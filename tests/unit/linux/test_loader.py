"""From files to an address space: what is opened in which order, what is refused, and what is mapped where."""

import errno
import os
from collections.abc import Callable

import pytest

from asynckvm.errors import AsyncKvmError
from asynckvm.linux.attributes import Attributes
from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import OpenFile
from asynckvm.linux.layout import MMAP_WINDOWS, STACK_BYTES
from asynckvm.linux.loader import Executable, Loaded, load, prepare
from asynckvm.linux.stack import ArgumentsTooLongError, Auxiliary
from asynckvm.model.memory import USER_MAX, Access
from support.elf_file import ET_DYN, PT_GNU_STACK, PT_INTERP, Header, R, W, X, elf
from support.fake_platform import FakeFile, FakeMachine, FakeSpace

LINKER = elf(Header(address=0, align=0x10000), kind=ET_DYN, entry=0x180)


class View(FakeFile):
    """What map_file() gives."""

    def __init__(self, data: bytes, number: int) -> None:
        self.data = data
        self.number = number


class File(OpenFile):
    """An open file that is some bytes. Somebody holds it."""

    def __init__(self, data: bytes, number: int = 1) -> None:
        super().__init__(os.O_RDONLY)
        self.data = data
        self.number = number
        self.open = True

    def pread(self, length: int, offset: int) -> bytes:
        return self.data[offset : offset + length]

    def attributes(self) -> Attributes:
        return Attributes(1, 2, 0o100755, size=len(self.data))

    def map_file(self, machine: object, *, writable: bool, length: int) -> View:  # type: ignore[override]
        assert self.open
        assert not writable
        assert length <= len(self.data)
        return View(self.data, self.number)

    def close(self) -> None:
        assert self.open
        self.open = False


class Files:
    """A file system: names to bytes. Remembers what was opened."""

    def __init__(self, **files: bytes) -> None:
        self.files = {f"/{name}".encode(): data for name, data in files.items()}
        self.opened: list[tuple[bytes, File]] = []

    def open(self, name: bytes) -> File:
        if name not in self.files:
            raise SyscallError(errno.ENOENT)
        self.opened.append((name, File(self.files[name], 2 + len(self.opened))))
        return self.opened[-1][1]

    @property
    def names(self) -> list[bytes]:
        return [name for name, _ in self.opened]


def prepared(
    data: bytes, files: Files | None = None, arguments: tuple[bytes, ...] = (b"program",), **options: object
) -> Executable:
    return prepare(File(data), (files or Files()).open, b"/program", arguments, [], **options)  # type: ignore[arg-type]


def load_bytes(
    data: bytes, random: bytes = b"", files: Files | None = None, stack_limit: int = STACK_BYTES
) -> tuple[FakeSpace, Loaded]:
    space = FakeSpace()
    executable = prepared(data, files)
    loaded = load(
        space,  # type: ignore[arg-type]
        FakeMachine(),  # type: ignore[arg-type]
        executable,
        {Auxiliary.UID: 7},
        stack_limit=stack_limit,
        random=lambda count: random.ljust(count, b"\0")[:count],
    )
    executable.close()
    return space, loaded


def dynamic(linker: bytes = b"/ld.so", **options: object) -> bytes:
    """A position-independent program that asks for `linker`."""
    name = linker + b"\0"
    header = Header(kind=PT_INTERP, offset=0x180, file_bytes=len(name), memory_bytes=len(name))
    data = elf(header, Header(address=0), kind=ET_DYN, entry=0x100, **options)  # type: ignore[arg-type]
    return data[:0x180] + name + data[0x180 + len(name) :]


def vector(loaded: Loaded) -> dict[int, int]:
    words = memoryview(loaded.auxiliary).cast("Q")
    return dict(zip(words[::2], words[1::2], strict=True))


def number(action: Callable[[], object]) -> int:
    """The error number with which it fails."""
    with pytest.raises((AsyncKvmError, SyscallError, ArgumentsTooLongError)) as caught:
        action()
    error = caught.value
    assert isinstance(error, SyscallError | ElfError | ArgumentsTooLongError)
    return error.number if isinstance(error, SyscallError) else error.errno


def test_code_data_and_zeroes_lie_where_the_file_says() -> None:
    content = bytearray(
        elf(Header(), Header(flags=R | W, offset=0x1100, address=0x402100, file_bytes=0x80, memory_bytes=0x3000), size=0x2000)
    )
    content[0x1100:0x1180] = b"d" * 0x80
    content[0x1180:0x2000] = b"!" * (0x2000 - 0x1180)
    space, loaded = load_bytes(bytes(content))
    assert space.read(0x400000, 4) == b"\x7fELF"
    assert space.region(0x400000).access == Access.READ | Access.EXECUTE  # type: ignore[union-attr]
    assert space.read(0x402100, 0x80) == b"d" * 0x80
    assert space.read(0x402180, 0x2F80) == bytes(0x2F80)
    assert space.pages[0x403000].file == 0
    assert loaded.entry == 0x400100
    assert loaded.heap == 0x406000


def test_a_read_only_tail_keeps_what_the_file_has_there() -> None:
    content = bytearray(elf(size=0x400))
    content[0x200:] = b"!" * 0x200
    space, _ = load_bytes(bytes(content))
    assert space.read(0x400200, 4) == b"!!!!"


def test_a_segment_of_zeroes_alone() -> None:
    space, _ = load_bytes(elf(Header(), Header(flags=R | W, offset=0x12345, address=0x500000, file_bytes=0, memory_bytes=0x1800)))
    assert space.read(0x500000, 0x2000) == bytes(0x2000)


def test_a_relocatable_program_moves_as_a_whole() -> None:
    data = elf(Header(address=0, align=0x10000), kind=ET_DYN, entry=0x100)
    for random in (b"", b"\x01\x02\x03\x04\x05\x06\x07\x08"):
        space, loaded = load_bytes(data, random)
        base = loaded.entry - 0x100
        assert base % 0x10000 == 0
        assert base >= 0x5555_5554_0000
        assert space.read(base, 4) == b"\x7fELF"


def test_a_relocatable_program_that_fits_nowhere() -> None:
    with pytest.raises(ElfError) as caught:
        load_bytes(elf(Header(address=0, memory_bytes=USER_MAX - 0x1000), kind=ET_DYN))
    assert caught.value.problem is ElfProblem.MALFORMED


@pytest.mark.parametrize(("flags", "executable"), [(R | W, False), (R | W | X, True)])
def test_the_stack_has_its_whole_size_and_the_rights_it_asks_for(flags: int, executable: bool) -> None:
    space, loaded = load_bytes(elf(Header(), Header(kind=PT_GNU_STACK, flags=flags)))
    region = space.region(loaded.stack_pointer)
    assert region is not None
    assert region.end == USER_MAX
    assert region.end - region.start == STACK_BYTES
    assert (Access.EXECUTE in region.access) is executable


# ---------------------------------------------------------------- dynamic programs


def test_a_dynamic_program_starts_in_its_linker() -> None:
    files = Files(**{"ld.so": LINKER})
    space, loaded = load_bytes(dynamic(), files=files)
    found = vector(loaded)
    assert loaded.entry == found[Auxiliary.BASE] + 0x180
    assert space.read(found[Auxiliary.BASE], 4) == b"\x7fELF"
    assert space.region(found[Auxiliary.BASE]).file == 2  # type: ignore[union-attr]
    assert MMAP_WINDOWS[0][0] <= found[Auxiliary.BASE] < MMAP_WINDOWS[0][1]
    assert found[Auxiliary.BASE] % 0x10000 == 0
    base = found[Auxiliary.ENTRY] - 0x100
    assert found[Auxiliary.PHDR] == base + 0x40
    assert found[Auxiliary.PHNUM] == 2
    assert found[Auxiliary.UID] == 7
    assert loaded.heap == base + 0x1000
    assert loaded.code == (base, base + 0x200)
    assert not files.opened[0][1].open, "the linker's file outlives the start"


def test_a_linker_of_fixed_address_goes_there_unless_the_program_does() -> None:
    data = elf(Header(address=0x7000_0000))
    assert vector(load_bytes(dynamic(), files=Files(**{"ld.so": data}))[1])[Auxiliary.BASE] == 0
    fixed = bytearray(dynamic())
    fixed[16] = 2  # ET_EXEC, at the linker's place
    fixed[0x40 + 56 + 16 : 0x40 + 56 + 24] = (0x7000_0000).to_bytes(8, "little")
    with pytest.raises(ElfError) as caught:
        load_bytes(bytes(fixed), files=Files(**{"ld.so": data}))
    assert caught.value.problem is ElfProblem.BAD_INTERPRETER


@pytest.mark.parametrize(
    ("linker", "expected"),
    [
        (None, errno.ENOENT),
        (b"short", errno.EIO),
        (b"x" * 64, errno.ELIBBAD),
        (elf(machine=183), errno.ELIBBAD),
        (elf(kind=4), errno.ELIBBAD),
    ],
)
def test_a_linker_that_cannot_be_used(linker: bytes | None, expected: int) -> None:
    files = Files(**{} if linker is None else {"ld.so": linker})
    assert number(lambda: prepared(dynamic(), files)) == expected
    assert not any(file.open for _, file in files.opened)


def test_a_linker_too_large_for_any_place() -> None:
    data = elf(Header(address=0, memory_bytes=USER_MAX - 0x1000), kind=ET_DYN)
    assert number(lambda: load_bytes(dynamic(), files=Files(**{"ld.so": data}))) == errno.ELIBBAD


# ---------------------------------------------------------------- scripts


def test_a_script_becomes_its_interpreters_argument() -> None:
    files = Files(sh=elf())
    executable = prepared(b"#!/sh -e x\n", files, (b"zero", b"one", b"two"))
    assert executable.arguments == [b"/sh", b"-e x", b"/program", b"one", b"two"]
    assert executable.name == b"/program"
    assert executable.file is files.opened[0][1]
    executable.close()
    assert not files.opened[0][1].open


def test_scripts_may_lead_to_scripts_but_not_for_ever() -> None:
    files = Files(**{f"s{level}": b"#!/s%d\n" % (level + 1) for level in range(1, 5)}, s5=dynamic(), **{"ld.so": LINKER})
    executable = prepared(b"#!/s1\n", files)
    assert executable.arguments == [b"/s5", b"/s4", b"/s3", b"/s2", b"/s1", b"/program"]
    assert files.names == [b"/s1", b"/s2", b"/s3", b"/s4", b"/s5", b"/ld.so"]
    executable.close()
    files = Files(**{f"s{level}": b"#!/s%d\n" % (level + 1) for level in range(1, 6)}, s6=elf())
    assert number(lambda: prepared(b"#!/s1\n", files)) == errno.ELOOP
    assert not any(file.open for _, file in files.opened)


def test_no_arguments_are_one_empty_one() -> None:
    assert prepared(elf(), arguments=()).arguments == [b""]
    assert prepared(b"#!/sh\n", Files(sh=elf()), ()).arguments == [b"/sh", b"/program"]


def test_what_execve_refuses() -> None:
    assert number(lambda: prepared(b"#!/nowhere\n")) == errno.ENOENT
    assert number(lambda: prepared(b"#!\n")) == errno.ENOEXEC
    assert number(lambda: prepared(b"#!\0\n")) == errno.EACCES
    assert number(lambda: prepared(dynamic(b""))) == errno.ENOEXEC
    assert number(lambda: prepared(dynamic(b"\0"))) == errno.EACCES
    assert number(lambda: prepared(b"text")) == errno.ENOEXEC
    assert number(lambda: prepared(b"#!/sh\n", Files(sh=b"text"))) == errno.ENOEXEC
    assert number(lambda: prepared(b"#!/sh\n", Files(sh=elf()), reachable=False)) == errno.ENOENT
    assert number(lambda: prepared(b"text", arguments=(b"x" * 131072,))) == errno.E2BIG
    # The line of a script counts too: without it, these just fit.
    arguments = (b"", *[b"x" * 1000] * 128, b"y" * 1893)
    prepared(elf(), arguments=arguments, stack_limit=0).close()
    assert number(lambda: prepared(b"#!/sh -e\n", Files(sh=elf()), arguments, stack_limit=0)) == errno.E2BIG


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(("limit", "size"), [(1 << 20, 1 << 20), (8 << 20, 8 << 20), (1 << 40, 8 << 20), (0, 0x21000)])
def test_the_stack_follows_its_limit(limit: int, size: int) -> None:
    _, loaded = load_bytes(elf(), stack_limit=limit)
    assert loaded.stack == (USER_MAX - size, USER_MAX)


def test_a_program_where_the_stack_belongs() -> None:
    data = elf(Header(address=USER_MAX - 0x1000), entry=USER_MAX - 0x1000)
    assert number(lambda: load_bytes(data)) == errno.ENOEXEC


def test_the_signal_stack_covers_the_processors_state() -> None:
    assert vector(load_bytes(elf())[1])[Auxiliary.MINSIGSTKSZ] == 1376


def test_a_file_that_was_changed_in_place_is_another_program() -> None:
    """Nothing of a file is believed but its bytes: neither its number, nor its size, nor its times need tell of a change."""
    first, second = elf(entry=0x400100, size=0x2000), elf(entry=0x400108, size=0x2000)
    assert [load_bytes(data)[1].entry for data in (first, second, first)] == [0x400100, 0x400108, 0x400100]
    with_linker = dynamic(size=0x2000)
    assert prepared(with_linker, Files(**{"ld.so": LINKER})).image.interpreter == b"/ld.so"
    assert prepared(with_linker.replace(b"/ld.so", b"/LD.so"), Files(**{"LD.so": LINKER})).image.interpreter == b"/LD.so"
    # Shorter by now than its headers say, which are the same.
    assert number(lambda: prepared(elf(Header(file_bytes=0x1800), size=0x1700))) == errno.ENOEXEC
    assert prepared(elf(Header(file_bytes=0x1800, memory_bytes=0x1800), size=0x1800)).image.segments[0].file_bytes == 0x1800
    assert number(lambda: prepared(elf(Header(file_bytes=0x1800, memory_bytes=0x1800), size=0x1700))) == errno.ENOEXEC


@pytest.mark.parametrize("offset", [64, 900, 1000, 1024, 0x1800])
def test_headers_may_lie_anywhere_in_a_file(offset: int) -> None:
    plain = elf(entry=0x400108, size=0x2000)
    table, head = plain[64:120], bytearray(plain[:64])
    head[32:40] = offset.to_bytes(8, "little")
    data = bytearray(plain)
    data[:120] = head + bytes(56)
    data[offset : offset + 56] = table
    assert load_bytes(bytes(data))[1].entry == 0x400108
