"""Program files: found, opened and checked on the host, then mapped into an empty address space with their first stack.

What an ELF file may ask for is decided in `elf`, how the stack looks in `stack`; this module maps and writes.
"""

from __future__ import annotations

import functools
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asynckvm.linux import elf, stack
from asynckvm.linux.layout import PROGRAM_BASE, PROGRAM_SHIFT_PAGES, STACK_BYTES, STACK_SHIFT_PAGES, page_down, page_up
from asynckvm.linux.stack import Auxiliary
from asynckvm.model.memory import PAGE, USER_MAX, Access

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from asynckvm.platform import AddressSpace, HostFile, Machine

_AUXV_ENTRY: Final = struct.Struct("<QQ")
# What the kernel assumes when it cannot say: enough for the frame of a signal with AVX-512 state.
_MINSIGSTKSZ: Final = 3632


class Program:
    """An open, checked program file; many processes may be made from one. Close it, or use it in `with`.

    `name` is what was executed (AT_EXECFN), `path` where the file really is (/proc/self/exe).
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        """Open and check. Raises OSError as execve(2) would (IsADirectoryError for a directory), and ElfError."""
        self.name = os.fsencode(name)
        self.path = os.fsencode(Path(os.fsdecode(name)).resolve())
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(self._fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(21, "Is a directory", os.fsdecode(self.name))
            if not stat.S_ISREG(status.st_mode) or not os.access(self.name, os.X_OK):
                raise PermissionError(13, "Permission denied", os.fsdecode(self.name))
            self.image = elf.parse(lambda offset, length: os.pread(self._fd, length, offset), status.st_size)
        except BaseException:
            os.close(self._fd)
            raise

    def map_file(self, machine: Machine) -> HostFile:
        return machine.open_file(self._fd)

    def duplicate(self) -> int:
        """A host descriptor of the file, owned by the caller, with an offset of its own."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find(name: str, search: str | None = None) -> str:
    """The path execvp(3) would try for `name`; `search` is a PATH. Raises FileNotFoundError or PermissionError."""
    if "/" in name:
        return name
    denied = False
    for folder in (search if search is not None else os.defpath).split(os.pathsep):
        path = Path(folder or ".") / name
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            denied = True
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return str(path)
        denied = True
    if denied:
        raise PermissionError(13, "Permission denied", name)
    raise FileNotFoundError(2, "No such file or directory", name)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a loaded program starts: its first instruction, its first stack pointer, and the bottom of its heap."""

    entry: int
    stack_pointer: int
    heap: int


def load(
    space: AddressSpace,
    program: Program,
    file: HostFile,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    extra: Mapping[Auxiliary, int],
    random: Callable[[int], bytes] = os.urandom,
) -> Loaded:
    """Map the program and its stack into an empty `space`.

    `extra` holds the auxiliary entries only the caller knows (identity); `random(n)` gives n bytes for addresses and
    AT_RANDOM. Raises elf.ElfError, stack.ArgumentsTooLongError, OutOfMemoryError.
    """
    image = program.image
    base = _choose_base(image, random) if image.relocatable else 0
    for segment in image.segments:
        _map_segment(space, segment, base, file)
    top = USER_MAX - PAGE * (int.from_bytes(random(4), "little") % STACK_SHIFT_PAGES)
    vector = {
        **_host_vector(),
        Auxiliary.PAGESZ: PAGE,
        Auxiliary.CLKTCK: stack.CLOCK_TICKS,
        Auxiliary.PHDR: base + image.headers if image.headers else 0,
        Auxiliary.PHENT: elf.PROGRAM_HEADER_BYTES,
        Auxiliary.PHNUM: image.header_count,
        Auxiliary.BASE: 0,
        Auxiliary.FLAGS: 0,
        Auxiliary.ENTRY: base + image.entry,
        **extra,
    }
    initial = stack.build(top, arguments, environment, program.name, list(vector.items()), random(stack.RANDOM_BYTES))
    access = Access.READ | Access.WRITE
    space.map(top - STACK_BYTES, STACK_BYTES, access | Access.EXECUTE if image.executable_stack else access)
    space.write(initial.pointer, initial.data)
    return Loaded(base + image.entry, initial.pointer, base + image.end)


def _choose_base(image: elf.Image, random: Callable[[int], bytes]) -> int:
    shift = PAGE * (int.from_bytes(random(8), "little") % PROGRAM_SHIFT_PAGES)
    base = (PROGRAM_BASE + shift) & ~(image.alignment - 1)
    if base + image.end > USER_MAX - 2 * STACK_BYTES:
        raise elf.ElfError(elf.ElfProblem.MALFORMED, f"segments up to {image.end:#x} leave user space")
    return base


def _map_segment(space: AddressSpace, segment: elf.Segment, base: int, file: HostFile) -> None:
    start = base + segment.address
    file_end = page_up(start + segment.file_bytes) if segment.file_bytes else page_down(start)
    memory_end = page_up(start + segment.memory_bytes)
    if segment.file_bytes:
        space.map(page_down(start), file_end - page_down(start), segment.access, file=file, offset=page_down(segment.offset))
    if memory_end > file_end:
        space.map(file_end, memory_end - file_end, segment.access)
    # The rest of the last page of the file starts the zeroed part; where it is not writable, Linux leaves it as it is too.
    tail = min(file_end, start + segment.memory_bytes) - (start + segment.file_bytes)
    if segment.file_bytes and tail > 0 and Access.WRITE in segment.access:
        space.write(start + segment.file_bytes, bytes(file_end - start - segment.file_bytes), force=True)


@functools.cache
def _host_vector() -> dict[Auxiliary, int]:
    """The entries that describe the processor, which the guest shares with this process."""
    wanted = {Auxiliary.MINSIGSTKSZ: _MINSIGSTKSZ, Auxiliary.HWCAP: 0}
    try:
        data = Path("/proc/self/auxv").read_bytes()
    except OSError:
        data = b""
    for key, value in _AUXV_ENTRY.iter_unpack(data[: len(data) // _AUXV_ENTRY.size * _AUXV_ENTRY.size]):
        if key in wanted:
            wanted[Auxiliary(key)] = value
    return wanted
