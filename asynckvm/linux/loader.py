"""Programs: from an open file to an address space with the program, its dynamic linker and their first stack in it.

Two steps, as in execve(2): `prepare` looks at files and arguments and may fail; `load` maps into an empty address space. What an
ELF file may ask for is decided in `elf`, a script's first line read in `script`, how the stack looks in `stack`. Which file a
name means is for the caller to say. Source: execve(2), fs/exec.c, fs/binfmt_elf.c.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.linux import elf, script, stack
from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import (
    MMAP_WINDOWS,
    PROGRAM_BASE,
    PROGRAM_SHIFT_PAGES,
    STACK_BYTES,
    STACK_SHIFT_PAGES,
    page_down,
    page_up,
)
from asynckvm.linux.signals import frame, xstate
from asynckvm.linux.stack import Auxiliary
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, Access

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.vdso import Vdso
    from asynckvm.platform import AddressSpace, HostFile, Machine

_AUXV_ENTRY: Final = struct.Struct("<QQ")
# Where nearly all programs have their headers and their linker's name; so many such beginnings are remembered.
_HEAD_BYTES: Final = 1024
_HEADS: Final = 128
# A script may name a script, and so on: this many files are looked at before the program itself must have been found.
_FILES_MAX: Final = 6
# Dynamic linkers are loaded up to this far below the top of the first window.
_LINKER_SHIFT_PAGES: Final = 1 << 26
# What Linux lets the first stack have beyond its strings and tables, even where RLIMIT_STACK is less.
_STACK_SPARE: Final = 32 * PAGE
# HWCAP2: ring 3 may use the FSGSBASE instructions.
_HWCAP2_FSGSBASE: Final = 2


@dataclass(slots=True)
class Executable:
    """What is to be loaded: the program's file, that of its dynamic linker if it has one, and its final arguments.

    `name` is what was executed (AT_EXECFN), which for a script is the script, while `file` is the program that runs it. Close it
    after loading, which releases the files that `prepare` opened.
    """

    name: bytes
    arguments: list[bytes]
    environment: list[bytes]
    file: OpenFile
    image: elf.Image
    linker: tuple[OpenFile, elf.Image] | None
    opened: contextlib.ExitStack

    def close(self) -> None:
        self.opened.close()


def prepare(
    file: OpenFile,
    open_file: Callable[[bytes], OpenFile],
    name: bytes,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    *,
    stack_limit: int = STACK_BYTES,
    reachable: bool = True,
) -> Executable:
    """Everything execve(2) may refuse, in its order. `file` stays the caller's.

    `open_file` opens an interpreter by its name as execve opens a program: EACCES for what is no executable regular file.
    `stack_limit` is RLIMIT_STACK. Not `reachable`: the program was given by a descriptor that is closed before it runs, so no
    interpreter could read a script. Raises ElfError, stack.ArgumentsTooLongError, SyscallError, and what `open_file` raises.
    """
    arguments, environment = list(arguments) or [b""], list(environment)
    stack.check_lengths(arguments, environment, name, stack_limit)
    with contextlib.ExitStack() as opened:

        def opening(path: bytes) -> OpenFile:
            # The kernel's own look-up takes an empty name for the working directory, and a directory is not executed.
            if not path:
                raise SyscallError(errno.EACCES)
            interpreter = open_file(path)
            interpreter.hold()
            opened.callback(interpreter.release)
            return interpreter

        running = name
        for _ in range(_FILES_MAX):
            head = file.pread(_HEAD_BYTES, 0)
            found = script.parse(head)
            if found is None:
                break
            if not reachable:
                raise SyscallError(errno.ENOENT)
            argument = [] if found.argument is None else [found.argument]
            arguments[:1] = [found.interpreter, *argument, running]
            stack.check_lengths(arguments, environment, name, stack_limit)
            running = found.interpreter
            file = opening(running)
        else:
            raise ElfError(ElfProblem.SCRIPT_LOOP, f"more than {_FILES_MAX - 1}, the last one {os.fsdecode(running)}")
        image = _parse(file, head)
        linker = None
        if image.interpreter is not None:
            interpreter = opening(image.interpreter)
            linker = interpreter, _parse_linker(interpreter, image.interpreter)
        return Executable(name, arguments, environment, file, image, linker, opened.pop_all())


def _parse(file: OpenFile, head: bytes) -> elf.Image:
    size = file.attributes().size
    try:
        return _parse_head(head, size)
    except _BehindHeadError:
        return elf.parse(lambda offset, length: file.pread(length, offset), size)


class _BehindHeadError(Exception):
    """The beginning of a file does not tell what it asks for."""


@functools.lru_cache(_HEADS)
def _parse_head(head: bytes, size: int) -> elf.Image:
    """Of a file that begins with these bytes, all of which are looked at: what was parsed once says the same of any such file."""

    def read(offset: int, length: int) -> bytes:
        if offset + length > len(head):
            raise _BehindHeadError
        return head[offset : offset + length]

    return elf.parse(read, size)


def _parse_linker(file: OpenFile, name: bytes) -> elf.Image:
    if file.attributes().size < elf.HEADER_BYTES:
        raise SyscallError(errno.EIO)
    try:
        return _parse(file, file.pread(_HEAD_BYTES, 0))
    except ElfError as error:
        raise ElfError(ElfProblem.BAD_INTERPRETER, f"{os.fsdecode(name)} is {error}") from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a loaded program starts, and where its parts lie, as /proc/pid/stat and prctl(PR_SET_MM) name them.

    `heap` is the bottom of the heap (brk), `stack` the range mapped for the stack, `vdso` that of the vDSO with the page
    before it (empty without one), `auxiliary` the vector as /proc/pid/auxv.
    """

    entry: int
    stack_pointer: int
    heap: int
    stack: tuple[int, int]
    vdso: tuple[int, int]
    code: tuple[int, int]
    data: tuple[int, int]
    arguments: tuple[int, int]
    environment: tuple[int, int]
    auxiliary: bytes


def load(
    space: AddressSpace,
    machine: Machine,
    program: Executable,
    credentials: Mapping[Auxiliary, int],
    *,
    vdso: Vdso | None = None,
    stack_limit: int = STACK_BYTES,
    random: Callable[[int], bytes] = os.urandom,
) -> Loaded:
    """Map the program, its dynamic linker, its stack and the vDSO into an empty `space` of `machine`.

    `credentials` holds the auxiliary entries only the caller knows: UID, EUID, GID, EGID, SECURE. `random(n)` gives n bytes for
    addresses and AT_RANDOM. Raises ElfError when the files leave no room for each other, OutOfMemoryError.
    """
    image = program.image
    base = _program_base(image, random)
    _map_image(space, machine, image, base, program.file)
    entry, linker_base = base + image.entry, 0
    if program.linker is not None:
        file, linker = program.linker
        linker_base = _linker_base(linker, (base + image.start, base + image.end), random)
        _map_image(space, machine, linker, linker_base, file)
        entry = linker_base + linker.entry
    room = vdso.size if vdso is not None else 0
    top = USER_MAX - room - PAGE * (int.from_bytes(random(4), "little") % STACK_SHIFT_PAGES)
    vdso_at = _vdso_base(top, room, random)
    capabilities = machine.capabilities
    vector = {
        Auxiliary.MINSIGSTKSZ: frame.minimum_stack_bytes(xstate.area_bytes(capabilities.xcr0, capabilities.xsave_bytes)),
        Auxiliary.HWCAP: _host_hwcap(),
        Auxiliary.PAGESZ: PAGE,
        Auxiliary.CLKTCK: stack.CLOCK_TICKS,
        Auxiliary.PHDR: base + image.headers if image.headers else 0,
        Auxiliary.PHENT: elf.PROGRAM_HEADER_BYTES,
        Auxiliary.PHNUM: image.header_count,
        Auxiliary.BASE: linker_base,
        Auxiliary.FLAGS: 0,
        Auxiliary.ENTRY: base + image.entry,
        Auxiliary.HWCAP2: _HWCAP2_FSGSBASE if capabilities.fsgsbase else 0,
        **credentials,
    }
    if vdso is not None:
        vector[Auxiliary.SYSINFO_EHDR] = vdso.map(space, vdso_at)
    seed = random(stack.RANDOM_BYTES)
    initial = stack.build(top, program.arguments, program.environment, program.name, vector, seed)
    size = max(page_down(min(stack_limit, STACK_BYTES)), page_up(len(initial.data)) + _STACK_SPARE)
    access = Access.READ | Access.WRITE
    space.map(top - size, size, access | Access.EXECUTE if image.executable_stack else access)
    space.write(initial.pointer, initial.data)
    return Loaded(
        entry=entry,
        stack_pointer=initial.pointer,
        heap=base + image.end,
        stack=(top - size, top),
        vdso=(vdso_at, vdso_at + room),
        code=(base + image.code[0], base + image.code[1]),
        data=(base + image.data[0], base + image.data[1]),
        arguments=initial.arguments,
        environment=initial.environment,
        auxiliary=initial.auxiliary,
    )


# ---------------------------------------------------------------- places


def _program_base(image: elf.Image, random: Callable[[int], bytes]) -> int:
    base = 0
    if image.relocatable:
        shift = PAGE * (int.from_bytes(random(8), "little") % PROGRAM_SHIFT_PAGES)
        base = (PROGRAM_BASE + shift) & ~(image.alignment - 1)
    # Above lie the stack and what mmap(2) places.
    if base + image.end > MMAP_WINDOWS[0][0]:
        raise ElfError(ElfProblem.MALFORMED, f"segments up to {base + image.end:#x} leave no room for a stack")
    return base


def _linker_base(image: elf.Image, program: tuple[int, int], random: Callable[[int], bytes]) -> int:
    """High in the room that mmap(2) fills from below, as Linux would have it; a linker of fixed address goes there."""
    low, high = MMAP_WINDOWS[0]
    if image.relocatable:
        shift = PAGE * (int.from_bytes(random(4), "little") % _LINKER_SHIFT_PAGES)
        base = (high - shift - image.end) & ~(image.alignment - 1)
        if base + image.start >= low:
            return base
    elif image.end <= low and (image.end <= program[0] or image.start >= program[1]):
        return 0
    raise ElfError(ElfProblem.BAD_INTERPRETER, f"no room for it at {image.start:#x}-{image.end:#x}")


def _vdso_base(top: int, room: int, random: Callable[[int], bytes]) -> int:
    """Above the stack, and under the same page table as its top where that has room: one table less for each process."""
    end = min((top + room + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), USER_MAX)
    return top + PAGE * (int.from_bytes(random(2), "little") % ((end - room - top) // PAGE + 1))


def _map_image(space: AddressSpace, machine: Machine, image: elf.Image, base: int, file: OpenFile) -> None:
    length = max((segment.offset + segment.file_bytes for segment in image.segments if segment.file_bytes), default=0)
    view = file.map_file(machine, writable=False, length=length) if length else None
    for segment in image.segments:
        _map_segment(space, segment, base, view)


def _map_segment(space: AddressSpace, segment: elf.Segment, base: int, file: HostFile | None) -> None:
    start = base + segment.address
    file_end = page_up(start + segment.file_bytes) if segment.file_bytes else page_down(start)
    memory_end = page_up(start + segment.memory_bytes)
    if segment.file_bytes:
        offset = page_down(segment.offset)
        space.map(page_down(start), file_end - page_down(start), segment.access, file=file, offset=offset, stable=True)
    if memory_end > file_end:
        space.map(file_end, memory_end - file_end, segment.access)
    # The rest of the last page of the file starts the zeroed part; where it is not writable, Linux leaves it as it is too.
    tail = min(file_end, start + segment.memory_bytes) - (start + segment.file_bytes)
    if segment.file_bytes and tail > 0 and segment.access & Access.WRITE:
        space.write(start + segment.file_bytes, bytes(file_end - start - segment.file_bytes), force=True)


@functools.cache
def _host_hwcap() -> int:
    """CPUID's feature word, as this process was told: the guest shares its processor."""
    try:
        data = Path("/proc/self/auxv").read_bytes()
    except OSError:
        data = b""
    entries = dict(_AUXV_ENTRY.iter_unpack(data[: len(data) // _AUXV_ENTRY.size * _AUXV_ENTRY.size]))
    return int(entries.get(Auxiliary.HWCAP, 0))
