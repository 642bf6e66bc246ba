"""A process's memory as Linux manages it: the heap, mappings placed by the kernel, and the rules of mmap(2) and its kin.

Decides where and whether; the address space itself (regions, page tables, faults) is the platform's. Failures are
SyscallError; when the machine has no memory left, OutOfMemoryError comes through. Source: mmap(2), mprotect(2), mremap(2),
madvise(2), brk(2), mm/mmap.c.
"""

from __future__ import annotations

import copy
import errno
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError, OutOfMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import MMAP_WINDOWS, page_down, page_up
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, USER_MIN, Access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.platform import AddressSpace, HostFile

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
_PROT_ALL: Final = PROT_READ | PROT_WRITE | PROT_EXEC | 8  # PROT_SEM, which means nothing
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE = 1, 2, 3
_MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
_MAP_32BIT: Final = 0x40
_MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000
MREMAP_MAYMOVE: Final = 1
_MADV_DONTNEED: Final = 4
# Advice that is heard and changes nothing a program can see.
_MADV_HINTS: Final = frozenset({0, 1, 2, 3, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21})

_WINDOW_32BIT: Final = (0x4000_0000, 0x8000_0000)
# Regions looked at before a search gives up on small holes; bounds the time of one call in a program with many mappings.
_SEARCH_REGIONS_MAX: Final = 64
# One step of moving a mapping: the event loop is free between two steps.
MOVE_CHUNK: Final = 1 << 20


def access_of(protection: int) -> Access:
    """On x86 a page that may be written or executed can be read."""
    access = Access(0)
    if protection & (PROT_READ | PROT_WRITE | PROT_EXEC):
        access |= Access.READ
    if protection & PROT_WRITE:
        access |= Access.WRITE
    if protection & PROT_EXEC:
        access |= Access.EXECUTE
    return access


class Memory:
    """The memory of one process. Addresses and lengths in bytes. Thread: loop."""

    def __init__(self, space: AddressSpace, heap: int) -> None:
        self.space = space
        self.users = 1  # processes
        self._heap_start = heap
        self._heap_end = heap
        # Of each window: everything below is taken, everything from the second on was never used.
        self._low = [start for start, _ in MMAP_WINDOWS]
        self._high = [start for start, _ in MMAP_WINDOWS]

    # ------------------------------------------------------------ life

    def share(self) -> Memory:
        """One process more uses it."""
        self.users += 1
        return self

    def drop(self) -> None:
        """One process less; the last one frees the address space. No context may be left in it then."""
        self.users -= 1
        if not self.users:
            self.space.close()

    def fork(self) -> Memory:
        """A copy, page by page when somebody stores to it: see AddressSpace.fork for what must follow."""
        twin = copy.copy(self)
        twin.space = self.space.fork()
        twin.users = 1
        twin._low, twin._high = list(self._low), list(self._high)
        return twin

    # ------------------------------------------------------------ heap

    def brk(self, address: int) -> int:
        """Move the end of the heap, when that is possible; returns where it is then, as the raw system call does."""
        if not self._heap_start <= address < USER_MAX:
            return self._heap_end
        old, new = page_up(self._heap_end), page_up(address)
        if new > old:
            if not self._is_free(old, new):
                return self._heap_end
            try:
                self.space.map(old, new - old, Access.READ | Access.WRITE)
            except OutOfMemoryError:
                return self._heap_end
        elif new < old:
            self.space.unmap(new, old - new)
        self._heap_end = address
        return address

    # ------------------------------------------------------------ mappings

    def map(self, address: int, length: int, protection: int, flags: int, file: HostFile | None = None, offset: int = 0) -> int:
        """mmap(2). `file` is None for anonymous memory; a shared file mapping must have been checked to be read-only."""
        length = self._mapping_length(length)
        if (flags & _MAP_TYPE) not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE) or offset % PAGE:
            raise SyscallError(errno.EINVAL)
        if flags & _MAP_HUGETLB:
            raise SyscallError(errno.ENOMEM)  # no huge page is reserved here
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            self._check_fixed(address, length, flags)
        else:
            address = self._place(address, length, flags)
        self.space.map(address, length, access_of(protection), file=file, offset=offset)
        self._note_mapped(address, length)
        return address

    def unmap(self, address: int, length: int) -> int:
        end = page_up(address + length)
        if address % PAGE or not length or end > USER_MAX:
            raise SyscallError(errno.EINVAL)
        # Below the first address a program can map there is nothing to remove, which is a success.
        start = max(address, USER_MIN)
        if start < end:
            self.space.unmap(start, end - start)
            self._note_unmapped(start)
        return 0

    def protect(self, address: int, length: int, protection: int) -> int:
        if address % PAGE or protection & ~_PROT_ALL:
            raise SyscallError(errno.EINVAL)
        if not length:
            return 0
        if not _in_user_space(address, length):
            raise SyscallError(errno.ENOMEM)
        length = page_up(length)
        try:
            self.space.protect(address, length, access_of(protection))
        except GuestMemoryError as hole:
            # As in Linux, what comes before a hole is changed all the same.
            if hole.address > address:
                self.space.protect(address, hole.address - address, access_of(protection))
            raise SyscallError(errno.ENOMEM) from None
        return 0

    def advise(self, address: int, length: int, advice: int) -> int:
        if address % PAGE or (advice != _MADV_DONTNEED and advice not in _MADV_HINTS):
            raise SyscallError(errno.EINVAL)
        if not length:
            return 0
        if not _in_user_space(address, length):
            raise SyscallError(errno.EINVAL if address + length > 1 << 64 else errno.ENOMEM)
        end = page_up(address + length)
        holes, position = False, address
        for start, stop in self._mapped_parts(address, end):
            holes |= start > position
            position = stop
            if advice == _MADV_DONTNEED:
                self.space.discard(start, stop - start)
        if holes or position < end:
            raise SyscallError(errno.ENOMEM)
        return 0

    def remap(self, address: int, old: int, new: int, flags: int) -> Iterator[int]:
        """mremap(2) in steps of bounded length: the last value it yields is the answer, those before mean nothing."""
        if address % PAGE or flags & ~MREMAP_MAYMOVE or not new:
            raise SyscallError(errno.EINVAL)
        old, new = self._mapping_length(old), self._mapping_length(new)
        region = self.space.region(address) if _in_user_space(address, old) else None
        if region is None or region.start > address or region.end < address + old:
            raise SyscallError(errno.EFAULT)
        if new <= old:
            if new < old:
                self.unmap(address + new, old - new)
            yield address
            return
        if region.file:
            raise SyscallError(errno.ENOMEM)  # a view of a file does not grow
        end, grown = address + old, address + new
        if grown <= USER_MAX and self._is_free(end, grown):
            self.space.map(end, grown - end, region.access)
            self._note_mapped(address, new)
            yield address
            return
        if not flags & MREMAP_MAYMOVE:
            raise SyscallError(errno.ENOMEM)
        yield from self._move(address, old, new, region.access)

    def _move(self, address: int, old: int, new: int, access: Access) -> Iterator[int]:
        target = self._place(0, new, 0)
        self.space.map(target, new, access)
        self._note_mapped(target, new)
        readable = access | Access.READ
        if readable != access:
            self.space.protect(address, old, readable)
        try:
            for done in range(0, old, MOVE_CHUNK):
                data = self.space.read(address + done, min(MOVE_CHUNK, old - done))
                # What was never touched stays untouched.
                if data.count(0) != len(data):
                    self.space.write(target + done, data, force=True)
                yield 0
        except OutOfMemoryError:
            self.unmap(target, new)
            raise
        self.unmap(address, old)
        yield target

    # ------------------------------------------------------------ placement

    @staticmethod
    def _mapping_length(length: int) -> int:
        if not length:
            raise SyscallError(errno.EINVAL)
        if length > USER_MAX:
            raise SyscallError(errno.ENOMEM)
        return page_up(length)

    def _check_fixed(self, address: int, length: int, flags: int) -> None:
        if address % PAGE:
            raise SyscallError(errno.EINVAL)
        if address + length > USER_MAX:
            raise SyscallError(errno.ENOMEM)
        if address < USER_MIN:
            raise SyscallError(errno.EPERM)
        if flags & MAP_FIXED_NOREPLACE and not self._is_free(address, address + length):
            raise SyscallError(errno.EEXIST)

    def _place(self, hint: int, length: int, flags: int) -> int:
        """Where a mapping of `length` bytes goes: at the hint when there is room, else in a window."""
        hint = page_down(hint)
        if hint and _in_user_space(hint, length) and self._is_free(hint, hint + length):
            return hint
        if flags & _MAP_32BIT:
            windows = [(*_WINDOW_32BIT, _WINDOW_32BIT[0])]
        else:
            windows = [(low, end, high) for low, high, (_, end) in zip(self._low, self._high, MMAP_WINDOWS, strict=True)]
        # Where 2 MiB pages fit, they are a hundred times cheaper to touch first.
        align = HUGE_PAGE if length >= HUGE_PAGE else PAGE
        for low, end, high in windows:
            found = self._search(low, end, length, align)
            if found is None:
                found = -(-high // align) * align
            if found + length <= end and self._is_free(found, found + length):
                return found
        raise SyscallError(errno.ENOMEM)

    def _search(self, low: int, end: int, length: int, align: int) -> int | None:
        """The lowest room in [low, end), None when the first regions leave none."""
        position = -(-low // align) * align
        for _ in range(_SEARCH_REGIONS_MAX):
            region = self.space.region(position)
            if region is None or region.start >= position + length:
                return position if position + length <= end else None
            position = -(-region.end // align) * align
        return None

    def _note_mapped(self, address: int, length: int) -> None:
        for index, (start, end) in enumerate(MMAP_WINDOWS):
            if start <= address < end:
                self._high[index] = max(self._high[index], address + length)
                if address <= self._low[index] < address + length:
                    self._low[index] = address + length

    def _note_unmapped(self, address: int) -> None:
        for index, (start, end) in enumerate(MMAP_WINDOWS):
            if start <= address < end:
                self._low[index] = min(self._low[index], address)

    def _is_free(self, start: int, end: int) -> bool:
        region = self.space.region(start)
        return region is None or region.start >= end

    def _mapped_parts(self, address: int, end: int) -> Iterator[tuple[int, int]]:
        position = address
        while position < end:
            region = self.space.region(position)
            if region is None or region.start >= end:
                return
            yield max(region.start, position), min(region.end, end)
            position = region.end


def _in_user_space(address: int, length: int) -> bool:
    return address >= USER_MIN and page_up(address + length) <= USER_MAX
