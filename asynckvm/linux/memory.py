"""A process's memory as Linux manages it: the heap, mappings, and the rules of mmap(2) and its kin.

Decides where and whether; the address space itself (regions, page tables, faults) is the platform's. Failures are
SyscallError; when the machine has no memory left, OutOfMemoryError comes through. Source: mmap(2), mprotect(2), mremap(2),
madvise(2), msync(2), mincore(2), brk(2), mm/mmap.c.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.errors import GuestMemoryError, OutOfMemoryError, UsageError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import PARTS_AT_ONCE, page_up
from asynckvm.linux.locked import LockedRanges
from asynckvm.linux.placement import find_room, in_user_space
from asynckvm.model.memory import PAGE, USER_MAX, USER_MIN, Access

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from asynckvm.model.memory import Region
    from asynckvm.platform import AddressSpace, HostFile

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
# By protection: the bits are the same.
_ACCESS: Final = tuple(Access(bits | Access.READ if bits else 0) for bits in range(8))
_PROT_ALL: Final = PROT_READ | PROT_WRITE | PROT_EXEC | 8  # PROT_SEM, which means nothing
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE = 1, 2, 3
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
_MAP_32BIT: Final = 0x40
_MAP_LOCKED: Final = 0x2000
# What Linux ignores by now; dynamic linkers still say with it that they map a program.
_MAP_DENYWRITE: Final = 0x800
_MAP_HUGETLB: Final = 0x40000
# All flags but MAP_SYNC, which needs memory that stays; MAP_SHARED_VALIDATE refuses what it does not know.
_MAP_KNOWN: Final = 0x17F97F
MAP_FIXED_NOREPLACE: Final = 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
_MREMAP_ALL: Final = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
_MADV_DONTNEED, MADV_FREE = 4, 8
_MADV_DONTFORK, _MADV_DOFORK, _MADV_WIPEONFORK, _MADV_KEEPONFORK = 10, 11, 18, 19
_MADV_FORK: Final = frozenset({_MADV_DONTFORK, _MADV_DOFORK, _MADV_WIPEONFORK, _MADV_KEEPONFORK})
# Advice that is heard and changes nothing a program can see.
_MADV_HINTS: Final = frozenset({0, 1, 2, 3, MADV_FREE, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 25})
_MS_ASYNC, _MS_INVALIDATE, _MS_SYNC = 1, 2, 4
# Names of mapped files that are kept; who maps more sees some without.
_NAMES_MAX: Final = 4096
# Ranges with advice about forks that a process may have.
_FORK_RANGES_MAX: Final = 256


class Shared(NamedTuple):
    """What a mapping shows: a file from an offset. `writable`: stores through it may reach the file."""

    file: HostFile
    offset: int
    shared: bool
    name: bytes = b""


def access_of(protection: int) -> Access:
    """On x86 a page that may be written or executed can be read."""
    return _ACCESS[protection & (PROT_READ | PROT_WRITE | PROT_EXEC)]


class Memory:
    """The memory of one process, or of several that share it. Addresses and lengths in bytes. Thread: loop.

    `names`: what mapped files are called, by the platform's number of the file, for /proc.
    """

    def __init__(self, space: AddressSpace, heap: int, mapped: int | None = None) -> None:
        self.space = space
        self.users = 1  # processes
        self.heap_start = heap
        self.heap_end = heap
        self.names: dict[int, bytes] = {}
        self.locked = LockedRanges()
        self.barriers = 0  # registrations of membarrier(2)
        # All that is mapped: RLIMIT_AS.
        self.mapped_bytes = mapped if mapped is not None else space.mapped(USER_MIN, USER_MAX - USER_MIN)
        # (start, end, advice) of ranges a child gets otherwise.
        self._fork_advice: list[tuple[int, int, int]] = []

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
        twin = Memory(self.space.fork(), self.heap_start, self.mapped_bytes)
        twin.heap_end = self.heap_end
        twin.names = dict(self.names)
        twin.barriers = self.barriers
        try:
            twin._follow_advice(self._fork_advice)
        except BaseException:
            twin.drop()
            raise
        return twin

    def _follow_advice(self, advice: list[tuple[int, int, int]]) -> None:
        """What a parent said of ranges that its child is not to have, or not their contents."""
        for start, end, kind in advice:
            with contextlib.suppress(GuestMemoryError, UsageError):
                if kind == _MADV_DONTFORK:
                    self.unmap(start, end - start)
                else:
                    self.space.discard(start, end - start)
        self._fork_advice = [row for row in advice if row[2] == _MADV_WIPEONFORK]

    # ------------------------------------------------------------ heap

    def brk(self, address: int, limit: int = USER_MAX) -> int:
        """Move the end of the heap, when that is possible; returns where it is then, as the raw system call does."""
        if not self.heap_start <= address < USER_MAX or address - self.heap_start > limit:
            return self.heap_end
        old, new = page_up(self.heap_end), page_up(address)
        if new > old:
            if self.space.mapped(old, new - old):
                return self.heap_end
            try:
                self.space.map(old, new - old, Access.READ | Access.WRITE)
            except OutOfMemoryError:
                return self.heap_end
            self.mapped_bytes += new - old
        elif new < old:
            self.unmap(new, old - new)
        self.heap_end = address
        return address

    # ------------------------------------------------------------ mappings

    def map(self, address: int, length: int, protection: int, flags: int, source: Shared | None = None) -> int:
        """mmap(2). `source` is None for private anonymous memory."""
        length = mapping_length(length)
        check_map_flags(flags)
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            self._check_fixed(address, length, flags)
        else:
            address = find_room(self.space, address, length, low=bool(flags & _MAP_32BIT))
        replaced = self.space.mapped(address, length) if flags & MAP_FIXED else 0
        if flags & MAP_FIXED:
            self.locked.remove(address, address + length)
        if source is None:
            self.space.map(address, length, access_of(protection))
        else:
            stable = not source.shared and bool(flags & _MAP_DENYWRITE)
            access = access_of(protection)
            self.space.map(address, length, access, source.file, source.offset, shared=source.shared, stable=stable)
            if source.name:
                self._name(source.file.number, source.name)
        self.mapped_bytes += length - replaced
        if flags & _MAP_LOCKED:
            with contextlib.suppress(SyscallError):  # as in Linux, a lock that cannot be had is no reason to fail
                self.locked.add(address, address + length)
        return address

    def _name(self, file: int, name: bytes) -> None:
        if len(self.names) >= _NAMES_MAX:
            del self.names[next(iter(self.names))]
        self.names[file] = name

    def unmap(self, address: int, length: int) -> int:
        end = page_up(address + length)
        if address % PAGE or not length or end > USER_MAX:
            raise SyscallError(errno.EINVAL)
        # Below the first address a program can map there is nothing to remove, which is a success.
        start = max(address, USER_MIN)
        if start < end:
            mapped = self.space.mapped(start, end - start)
            self.space.unmap(start, end - start)
            self.mapped_bytes -= mapped
            self.locked.remove(start, end)
        return 0

    def protect(self, address: int, length: int, protection: int) -> int:
        if address % PAGE or protection & ~_PROT_ALL:
            raise SyscallError(errno.EINVAL)
        if not length:
            return 0
        if not in_user_space(address, length):
            raise SyscallError(errno.ENOMEM)
        length = page_up(length)
        try:
            self._protect(address, length, protection)
        except GuestMemoryError as hole:
            # As in Linux, what comes before a hole is changed all the same.
            if hole.address > address:
                self._protect(address, hole.address - address, protection)
            raise SyscallError(errno.ENOMEM) from None
        return 0

    def _protect(self, address: int, length: int, protection: int) -> None:
        try:
            self.space.protect(address, length, access_of(protection))
        except UsageError:
            # A shared view of a file that was not opened for writing.
            raise SyscallError(errno.EACCES) from None

    # ------------------------------------------------------------ advice and questions

    def advise(self, address: int, length: int, advice: int) -> int:
        if address % PAGE or not self._knows(advice):
            raise SyscallError(errno.EINVAL)
        if not length:
            return 0
        if not in_user_space(address, length):
            raise SyscallError(errno.EINVAL if address + length > 1 << 64 else errno.ENOMEM)
        end = page_up(address + length)
        if advice == _MADV_DONTNEED:
            if self.locked.overlaps(address, end):
                raise SyscallError(errno.EINVAL)
            try:
                self.space.discard(address, end - address)
            except GuestMemoryError:  # what is mapped was discarded all the same
                raise SyscallError(errno.ENOMEM) from None
            return 0
        self.check_mapped(address, end - address)
        if advice in _MADV_FORK:
            self._advise_forks(address, end, advice)
        return 0

    async def advise_free(self, address: int, length: int, turn: Callable[[], Awaitable[None]]) -> int:
        """MADV_FREE: what is written later stays, so the contents may go at once. EINVAL unless all is private and anonymous."""
        self.advise(address, 0, MADV_FREE)
        end = min(page_up(address + length), USER_MAX)
        for count, (region, start, stop) in enumerate(self.parts(address, end), 1):
            if region.file or region.shared or self.locked.overlaps(start, stop):
                raise SyscallError(errno.EINVAL)
            self.space.discard(start, stop - start)
            if not count % PARTS_AT_ONCE:
                await turn()
        return self.advise(address, length, MADV_FREE)

    @staticmethod
    def _knows(advice: int) -> bool:
        return advice == _MADV_DONTNEED or advice in _MADV_HINTS or advice in _MADV_FORK

    def _advise_forks(self, start: int, end: int, advice: int) -> None:
        if advice in (_MADV_DOFORK, _MADV_KEEPONFORK):
            undone = _MADV_DONTFORK if advice == _MADV_DOFORK else _MADV_WIPEONFORK
            self._fork_advice = [row for row in self._fork_advice if row[2] != undone or row[1] <= start or row[0] >= end]
        elif len(self._fork_advice) < _FORK_RANGES_MAX:
            self._fork_advice.append((start, end, advice))
        else:
            raise SyscallError(errno.ENOMEM)

    def sync(self, address: int, length: int, flags: int) -> int:
        """msync(2): what is shared is shared at once, so only the arguments are left to check."""
        both = _MS_ASYNC | _MS_SYNC
        if address % PAGE or flags & ~(both | _MS_INVALIDATE) or flags & both == both:
            raise SyscallError(errno.EINVAL)
        self.check_mapped(address, length)
        if flags & _MS_INVALIDATE and self.locked.overlaps(address, page_up(address + length)):
            raise SyscallError(errno.EBUSY)
        return 0

    def check_mapped(self, address: int, length: int) -> None:
        """ENOMEM when part of the range is not mapped."""
        end = page_up(address + length)
        if end > USER_MAX or self.space.mapped(address, end - address) < end - address:
            raise SyscallError(errno.ENOMEM)

    def parts(self, address: int, end: int) -> Iterator[tuple[Region, int, int]]:
        """The regions of a range, each with the part of it that lies inside; what changes meanwhile is seen."""
        position = address
        while position < end:
            region = self.space.region(position)
            if region is None or region.start >= end:
                return
            yield region, max(region.start, position), min(region.end, end)
            position = region.end

    # ------------------------------------------------------------ mremap

    def remap(self, address: int, old: int, new: int, flags: int, target: int) -> int:
        """mremap(2)."""
        # Refused beside what is wrong: two mappings of the same private pages, or a second one of shared ones.
        fixed_in_place = flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE
        if address % PAGE or flags & ~_MREMAP_ALL or flags & MREMAP_DONTUNMAP or fixed_in_place or not new or not old:
            raise SyscallError(errno.EINVAL)
        old, new = mapping_length(old), mapping_length(new)
        region = self.space.region(address) if in_user_space(address, old) else None
        if region is None or region.start > address or region.end < address + old:
            raise SyscallError(errno.EFAULT)
        if flags & MREMAP_FIXED:
            self._check_fixed(target, new, 0)
            if target < address + old and address < target + new:
                raise SyscallError(errno.EINVAL)
            self.unmap(target, new)
            return self._move(region, address, old, new, target)
        if new <= old:
            if new < old:
                self.unmap(address + new, old - new)
            return address
        end, grown = address + old, address + new
        if region.end == end and grown <= USER_MAX and not self.space.mapped(end, grown - end):
            self._extend(region, end, grown - end)
            return address
        if not flags & MREMAP_MAYMOVE:
            raise SyscallError(errno.ENOMEM)
        return self._move(region, address, old, new, find_room(self.space, 0, new))

    def _move(self, region: Region, address: int, old: int, new: int, target: int) -> int:
        if new < old:
            self.unmap(address + new, old - new)
        kept = min(old, new)
        self.space.move(address, target, kept)
        if new > old:
            self._extend(region._replace(start=target - (address - region.start)), target + old, new - old)
        return target

    def _extend(self, region: Region, start: int, length: int) -> None:
        """More of the same mapping, from `start` on."""
        self._grow(region, start, length)
        self.mapped_bytes += length

    def _grow(self, region: Region, start: int, length: int) -> None:
        if not region.file:
            self.space.map(start, length, region.access)
            return
        try:
            self.space.extend(start, length)
        except UsageError:
            raise SyscallError(errno.ENOMEM) from None

    # ------------------------------------------------------------ checks

    def _check_fixed(self, address: int, length: int, flags: int) -> None:
        if address % PAGE:
            raise SyscallError(errno.EINVAL)
        if address + length > USER_MAX:
            raise SyscallError(errno.ENOMEM)
        if address < USER_MIN:
            raise SyscallError(errno.EPERM)
        if flags & MAP_FIXED_NOREPLACE and self.space.mapped(address, length):
            raise SyscallError(errno.EEXIST)


def mapping_length(length: int) -> int:
    if not length:
        raise SyscallError(errno.EINVAL)
    if length > USER_MAX:
        raise SyscallError(errno.ENOMEM)
    return page_up(length)


def check_map_flags(flags: int) -> None:
    if flags & MAP_TYPE not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
        raise SyscallError(errno.EINVAL)
    if flags & _MAP_HUGETLB:
        raise SyscallError(errno.ENOMEM)  # no huge page is reserved here
    if flags & MAP_TYPE == MAP_SHARED_VALIDATE and flags & ~_MAP_KNOWN:
        raise SyscallError(errno.EOPNOTSUPP)
