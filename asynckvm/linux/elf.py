"""ELF program files: from the bytes of a file to a checked `Image` that says what to map where.

Pure, because the bytes come from a stranger: everything is bounded and checked here, so that the loader can trust every
number in an `Image`. What it does not do: touch a file, an address space, or choose an address.
Source: System V ABI, chapter 4 and 5; the x86-64 supplement; elf(5); the error numbers: execve(2), fs/binfmt_elf.c.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.errors import AsyncKvmError
from asynckvm.linux.layout import page_down, page_up
from asynckvm.model.memory import PAGE, USER_MAX, USER_MIN, Access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC: Final = b"\x7fELF"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
HEADER_BYTES: Final = _HEADER.size
PROGRAM_HEADER_BYTES: Final = _PROGRAM_HEADER.size
# Linux's own bound: the table of program headers fits in 64 KiB.
_PROGRAM_HEADERS_MAX: Final = 65536 // PROGRAM_HEADER_BYTES
# Linux has no such bound; ours keeps the largest alignment within what the choice of a base can honour.
_ALIGNMENT_MAX: Final = 1 << 30
# A dynamic linker's name with its NUL, as Linux bounds it.
_PATH_MAX: Final = 4096

_CLASS_64, _DATA_LITTLE = 2, 1
_ET_EXEC, _ET_DYN = 2, 3
_EM_X86_64: Final = 62
_PT_LOAD, _PT_INTERP, _PT_PHDR, _PT_GNU_STACK = 1, 3, 6, 0x6474E551
_PF_X, _PF_W = 1, 2

_MACHINES: Final = {
    2: "sparc", 3: "i386", 8: "mips", 20: "powerpc", 21: "powerpc64", 22: "s390x", 40: "arm", 42: "sh", 43: "sparc64", 50: "ia64",
    62: "x86-64", 183: "aarch64", 243: "riscv", 247: "bpf", 258: "loongarch",
}  # fmt: skip


class ElfProblem(enum.Enum):
    """Why a file is not a program for us; the value reads on after the file's name."""

    NOT_ELF = "not an ELF file"
    WRONG_ARCHITECTURE = "a program for another architecture"
    TRUNCATED = "a truncated ELF file"
    MALFORMED = "a malformed ELF file"
    TWO_INTERPRETERS = "an ELF file with two dynamic linkers"
    BAD_INTERPRETER = "a program whose dynamic linker cannot be used"
    BAD_SCRIPT = "a script without a usable interpreter line"
    SCRIPT_LOOP = "a script whose interpreters are scripts too often"

    @property
    def errno(self) -> int:
        """What execve(2) answers."""
        return _ERRNOS.get(self, errno.ENOEXEC)


_ERRNOS: Final = {
    ElfProblem.TWO_INTERPRETERS: errno.EINVAL,
    ElfProblem.BAD_INTERPRETER: errno.ELIBBAD,
    ElfProblem.SCRIPT_LOOP: errno.ELOOP,
}


class ElfError(AsyncKvmError):
    """The program file cannot be run; who gave it must act. `problem` says why, `detail` what was found."""

    def __init__(self, problem: ElfProblem, detail: str) -> None:
        super().__init__(f"{problem.value}: {detail}")
        self.problem = problem
        self.detail = detail

    @property
    def errno(self) -> int:
        return self.problem.errno


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: `file_bytes` at `offset` of the file appear at `address`, then zeroes up to `memory_bytes`."""

    address: int
    offset: int
    file_bytes: int
    memory_bytes: int
    access: Access

    @property
    def end(self) -> int:
        return self.address + self.memory_bytes


@dataclass(frozen=True, slots=True)
class Image:
    """What a program file asks for. Addresses are final, or relative to a base the loader chooses, when `relocatable`.

    `headers` is where the program headers will be in memory (AT_PHDR), 0 when no segment holds them. `interpreter` is the name
    of the dynamic linker that is to start it, None for a static program.
    """

    relocatable: bool
    entry: int
    headers: int
    header_count: int
    alignment: int
    executable_stack: bool
    interpreter: bytes | None
    segments: tuple[Segment, ...]

    @property
    def start(self) -> int:
        return page_down(self.segments[0].address)

    @property
    def end(self) -> int:
        return page_up(self.segments[-1].end)

    @property
    def code(self) -> tuple[int, int]:
        """First byte of the program, and the end of what the file has of its last executable segment."""
        ends = [segment.address + segment.file_bytes for segment in self.segments if Access.EXECUTE in segment.access]
        return self.segments[0].address, max(ends, default=self.segments[0].address)

    @property
    def data(self) -> tuple[int, int]:
        """First byte of the last segment, and the end of what the file has of the segments."""
        return self.segments[-1].address, max(segment.address + segment.file_bytes for segment in self.segments)


@dataclass(frozen=True, slots=True)
class _Header:
    relocatable: bool
    entry: int
    table_offset: int
    table_count: int


def parse(read: Callable[[int, int], bytes], size: int) -> Image:
    """Check the file of `size` bytes behind `read(offset, length)` (short only at its end). Raises ElfError."""
    header = _parse_header(read(0, _HEADER.size), size)
    table_bytes = header.table_count * PROGRAM_HEADER_BYTES
    if header.table_offset + table_bytes > size:
        raise ElfError(ElfProblem.TRUNCATED, f"the program headers end at byte {header.table_offset + table_bytes} of {size}")
    table = read(header.table_offset, table_bytes)
    if len(table) != table_bytes:
        raise ElfError(ElfProblem.TRUNCATED, "the file became shorter while it was read")
    return _parse_table(header, list(_PROGRAM_HEADER.iter_unpack(table)), read, size)


def _parse_header(data: bytes, size: int) -> _Header:
    if data[:4] != MAGIC:
        found = f"it starts with {data[:4].hex(' ')}" if data else "it is empty"
        raise ElfError(ElfProblem.NOT_ELF, found)
    if len(data) < _HEADER.size:
        raise ElfError(ElfProblem.TRUNCATED, f"{size} bytes are less than an ELF header")
    ident, kind, machine, _, entry, table_offset, _, _, _, entry_bytes, count, *_ = _HEADER.unpack(data)
    if ident[4] != _CLASS_64 or ident[5] != _DATA_LITTLE or machine != _EM_X86_64:
        raise ElfError(ElfProblem.WRONG_ARCHITECTURE, _architecture(ident, machine))
    if kind not in (_ET_EXEC, _ET_DYN):
        raise ElfError(ElfProblem.MALFORMED, f"type {kind} is neither an executable nor position-independent")
    if entry_bytes != PROGRAM_HEADER_BYTES or not 1 <= count <= _PROGRAM_HEADERS_MAX:
        raise ElfError(ElfProblem.MALFORMED, f"{count} program headers of {entry_bytes} bytes")
    return _Header(kind == _ET_DYN, entry, table_offset, count)


def _architecture(ident: bytes, machine: int) -> str:
    if ident[5] not in (1, 2):
        return f"byte order {ident[5]} is unknown"
    # e_machine was read as little-endian.
    number = machine if ident[5] == _DATA_LITTLE else int.from_bytes(machine.to_bytes(2, "little"), "big")
    name = _MACHINES.get(number, f"machine {number}")
    if number == _EM_X86_64:
        return "x86-64 in an ELF file of another class or byte order (x32?)"
    order = "" if ident[5] == _DATA_LITTLE else ", big-endian"
    return f"{name}{order}; only x86-64 programs run here"


def _parse_table(header: _Header, table: Sequence[tuple[int, ...]], read: Callable[[int, int], bytes], size: int) -> Image:
    segments: list[Segment] = []
    headers, alignment, executable_stack, interpreter = 0, PAGE, False, None
    for kind, flags, offset, address, _, file_bytes, memory_bytes, align in table:
        if kind == _PT_INTERP:
            if interpreter is not None:
                raise ElfError(ElfProblem.TWO_INTERPRETERS, "only one program header may name one")
            interpreter = _interpreter(read, offset, file_bytes, size)
        elif kind == _PT_PHDR:
            headers = address
        elif kind == _PT_GNU_STACK:
            executable_stack = bool(flags & _PF_X)
        elif kind == _PT_LOAD and memory_bytes:
            segment = Segment(address, offset, file_bytes, memory_bytes, _access(flags))
            _check(segment, size, header, previous=segments[-1] if segments else None)
            segments.append(segment)
            if align & (align - 1) == 0 and align <= _ALIGNMENT_MAX:
                alignment = max(alignment, align)
    if not segments:
        raise ElfError(ElfProblem.MALFORMED, "no segment to load")
    return Image(
        relocatable=header.relocatable,
        entry=header.entry,
        headers=headers or _headers_address(header, segments),
        header_count=header.table_count,
        alignment=alignment,
        executable_stack=executable_stack,
        interpreter=interpreter,
        segments=tuple(segments),
    )


def _interpreter(read: Callable[[int, int], bytes], offset: int, length: int, size: int) -> bytes:
    if not 2 <= length <= _PATH_MAX:
        raise ElfError(ElfProblem.MALFORMED, f"the name of its dynamic linker has {length} bytes")
    if offset + length > size:
        raise ElfError(ElfProblem.TRUNCATED, f"the name of its dynamic linker ends at byte {offset + length} of {size}")
    name = read(offset, length)
    if len(name) != length or not name.endswith(b"\0"):
        raise ElfError(ElfProblem.MALFORMED, "the name of its dynamic linker has no end")
    return name[: name.index(b"\0")]


def _access(flags: int) -> Access:
    """A page one may write or execute can be read too: x86 has no other kind without protection keys."""
    access = Access.READ
    if flags & _PF_W:
        access |= Access.WRITE
    if flags & _PF_X:
        access |= Access.EXECUTE
    return access


def _check(segment: Segment, size: int, header: _Header, previous: Segment | None) -> None:
    where = f"segment at {segment.address:#x}"
    lowest = 0 if header.relocatable else USER_MIN
    if segment.file_bytes > segment.memory_bytes:
        raise ElfError(ElfProblem.MALFORMED, f"{where} has {segment.file_bytes} bytes for {segment.memory_bytes}")
    if page_down(segment.address) < lowest or page_up(segment.end) > USER_MAX:
        raise ElfError(ElfProblem.MALFORMED, f"{where}, {segment.memory_bytes} bytes, leaves user space")
    # Where nothing of the file is mapped, its offset means nothing either.
    if segment.file_bytes and segment.offset % PAGE != segment.address % PAGE:
        raise ElfError(ElfProblem.MALFORMED, f"{where} and its file offset {segment.offset:#x} differ within a page")
    if segment.file_bytes and segment.offset + segment.file_bytes > size:
        raise ElfError(ElfProblem.TRUNCATED, f"{where} ends at byte {segment.offset + segment.file_bytes} of {size}")
    if previous is not None and segment.address < previous.end:
        raise ElfError(ElfProblem.MALFORMED, f"{where} overlaps or precedes the one at {previous.address:#x}")


def _headers_address(header: _Header, segments: list[Segment]) -> int:
    for segment in segments:
        if segment.offset <= header.table_offset < segment.offset + segment.file_bytes:
            return segment.address + header.table_offset - segment.offset
    return 0
