"""The ELF parser: what it takes, what it refuses and why, and that no bytes make it do anything else."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynckvm.linux.elf import ElfError, ElfProblem, Image, parse
from asynckvm.model.memory import USER_MAX, Access
from support.elf_file import ET_DYN, PT_GNU_STACK, PT_INTERP, PT_PHDR, Header, R, W, X, elf


def parse_bytes(data: bytes) -> Image:
    return parse(lambda offset, length: data[offset : offset + length], len(data))


def problem(data: bytes) -> ElfProblem:
    with pytest.raises(ElfError) as caught:
        parse_bytes(data)
    assert caught.value.detail
    return caught.value.problem


def test_a_program_with_code_and_data() -> None:
    data = Header(flags=R | W, offset=0x100, address=0x402100, file_bytes=0x80, memory_bytes=0x3000)
    image = parse_bytes(elf(Header(), data))
    assert not image.relocatable
    assert image.entry == 0x400100
    assert [segment.access for segment in image.segments] == [Access.READ | Access.EXECUTE, Access.READ | Access.WRITE]
    assert (image.start, image.end) == (0x400000, 0x406000)
    assert (image.headers, image.header_count) == (0x400040, 2)
    assert not image.executable_stack


def test_a_relocatable_program_starts_at_zero_and_keeps_its_alignment() -> None:
    image = parse_bytes(elf(Header(address=0, align=0x200000), kind=ET_DYN))
    assert image.relocatable
    assert image.alignment == 0x200000


def test_the_header_segment_says_where_the_headers_are() -> None:
    assert parse_bytes(elf(Header(kind=PT_PHDR, address=0x401040), Header())).headers == 0x401040


def test_headers_that_no_segment_loads_have_no_address() -> None:
    assert parse_bytes(elf(Header(offset=0x1000, file_bytes=0x100, memory_bytes=0x100), size=0x1100)).headers == 0


def test_only_an_explicit_wish_makes_the_stack_executable() -> None:
    assert parse_bytes(elf(Header(), Header(kind=PT_GNU_STACK, flags=R | W | X))).executable_stack
    assert not parse_bytes(elf(Header(), Header(kind=PT_GNU_STACK, flags=R | W))).executable_stack


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fEL", b"MZ" * 64])
def test_what_is_no_elf_file(data: bytes) -> None:
    assert problem(data) is ElfProblem.NOT_ELF


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"machine": 183}, "aarch64"),
        ({"machine": 3, "ident": b"\x7fELF\x01\x01\x01"}, "i386"),
        ({"machine": 243}, "riscv"),
        ({"machine": 0x1600, "ident": b"\x7fELF\x02\x02\x01"}, "s390x, big-endian"),
        ({"machine": 4711}, "machine 4711"),
        ({"machine": 62, "ident": b"\x7fELF\x01\x01\x01"}, "x32"),
    ],
)
def test_another_architecture_is_named(options: dict[str, object], name: str) -> None:
    with pytest.raises(ElfError, match=name) as caught:
        parse_bytes(elf(**options))  # type: ignore[arg-type]
    assert caught.value.problem is ElfProblem.WRONG_ARCHITECTURE


def test_zeroes_need_no_place_in_the_file() -> None:
    image = parse_bytes(elf(Header(), Header(flags=R | W, offset=0x12345, address=0x500000, file_bytes=0)))
    assert image.segments[1].memory_bytes == 0x200


@pytest.mark.parametrize("length", [4, 63, 64, 100, 0x1FF])
def test_every_cut_is_noticed(length: int) -> None:
    assert problem(elf()[:length]) is ElfProblem.TRUNCATED


def interpreted(name: bytes, *more: Header) -> bytes:
    """A program whose dynamic linker's name lies at 0x180."""
    header = Header(kind=PT_INTERP, offset=0x180, file_bytes=len(name), memory_bytes=len(name))
    data = elf(header, *more, Header())
    return data[:0x180] + name + data[0x180 + len(name) :]


def test_a_dynamic_program_names_its_linker() -> None:
    assert parse_bytes(interpreted(b"/lib/ld.so\0")).interpreter == b"/lib/ld.so"
    assert parse_bytes(interpreted(b"/a\0b\0")).interpreter == b"/a"
    assert parse_bytes(elf()).interpreter is None


@pytest.mark.parametrize("name", [b"", b"\0", b"/lib/ld.so", b"/" * 4096 + b"\0"])
def test_a_linker_without_a_usable_name(name: bytes) -> None:
    assert problem(interpreted(name)) is ElfProblem.MALFORMED


def test_the_linkers_name_beyond_the_end_and_a_second_one() -> None:
    assert problem(elf(Header(kind=PT_INTERP, offset=0x1F8, file_bytes=9), Header())) is ElfProblem.TRUNCATED
    second = Header(kind=PT_INTERP, offset=0x180, file_bytes=2)
    assert problem(interpreted(b"a\0", second)) is ElfProblem.TWO_INTERPRETERS


def test_every_problem_has_its_error_number() -> None:
    others = {
        ElfProblem.TWO_INTERPRETERS: errno.EINVAL,
        ElfProblem.BAD_INTERPRETER: errno.ELIBBAD,
        ElfProblem.SCRIPT_LOOP: errno.ELOOP,
    }
    for kind in ElfProblem:
        assert ElfError(kind, "x").errno == others.get(kind, errno.ENOEXEC)


def test_where_code_and_data_lie() -> None:
    code = Header(address=0x401000, offset=0x1000, file_bytes=0x234, memory_bytes=0x234)
    data = Header(flags=R | W, address=0x403000, offset=0x2000, file_bytes=0x100, memory_bytes=0x5000)
    image = parse_bytes(elf(Header(flags=R), code, data, size=0x2100))
    assert image.code == (0x400000, 0x401234)
    assert image.data == (0x403000, 0x403100)


@pytest.mark.parametrize(
    "data",
    [
        elf(kind=1),
        elf(kind=4),
        elf(count=0),
        elf(entry_bytes=32),
        elf(Header(kind=PT_GNU_STACK)),
        elf(Header(file_bytes=0x200, memory_bytes=0x100)),
        elf(Header(address=0x1000)),
        elf(Header(address=0x400010)),
        elf(Header(address=USER_MAX, memory_bytes=0x1000)),
        elf(Header(address=0xFFFF_FFFF_FFFF_F000, memory_bytes=0x2000)),
        elf(Header(memory_bytes=(1 << 64) - 1)),
        elf(Header(), Header()),
        elf(Header(address=0x500000), Header()),
        elf(Header(memory_bytes=0x2000), Header(address=0x401000)),
    ],
)
def test_what_is_malformed(data: bytes) -> None:
    assert problem(data) is ElfProblem.MALFORMED


def test_a_file_that_shrinks_while_it_is_read() -> None:
    data = elf()
    with pytest.raises(ElfError) as caught:
        parse(lambda offset, length: data[offset : offset + length] if offset == 0 else b"", len(data))
    assert caught.value.problem is ElfProblem.TRUNCATED


@given(st.data())
def test_no_bytes_make_it_fail_otherwise(data: st.DataObject) -> None:
    """Whatever is parsed lies in user space, in order, and within the file."""
    raw = bytearray(elf(Header(), Header(flags=R | W, offset=0x1000, address=0x402000), size=0x1200))
    for position in data.draw(st.lists(st.integers(0, 0xB0), max_size=12)):
        raw[position] = data.draw(st.integers(0, 255))
    raw[:4] = b"\x7fELF"
    try:
        image = parse_bytes(bytes(raw))
    except ElfError:
        return
    end = 0
    for segment in image.segments:
        assert end <= segment.address < segment.end <= USER_MAX
        assert segment.offset + segment.file_bytes <= len(raw) or not segment.file_bytes
        assert segment.file_bytes <= segment.memory_bytes
        end = segment.end
