"""An address space: map, protect, read, write and fork guest memory.

A thin, typed face of the core's space, which does the work (and all locking) natively: every method is safe while vCPUs run in
the space. No policy about layout lives here.
"""

from __future__ import annotations

import asyncio
import errno
import time
import warnings
from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, GuestMemoryError, GuestStringError, InternalError, UsageError
from asynckvm.model.memory import PAGE, Access, Region
from asynckvm.platform.binding import SHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from asynckvm.errors import AsyncKvmError
    from asynckvm.platform.binding import Handle
    from asynckvm.platform.core import Core
    from asynckvm.platform.host_file import HostFile
    from asynckvm.platform.memory_budget import MemoryBudget

__all__ = ["AddressSpace"]

# Largest piece of one native copy, so that a wild length fails at its first bad page before memory is set aside for it.
_PIECE: Final = 1 << 20
_SETTLE_NS: Final = 5_000_000_000
_SHARED: Final = 8  # AKVM_SHARED
_STABLE: Final = 16  # AKVM_STABLE
# Making a flag from its number costs more than asking the core for it.
_ACCESS: Final = tuple(Access(bits) for bits in range(8))


class AddressSpace:
    """Made by `Machine.create_address_space` or `fork`. Addresses and lengths in bytes. Thread: any, except `close`: loop.
    No call on another thread may be under way when the machine is closed.

    Errors: UsageError for misaligned or out-of-range arguments and after misuse, OutOfMemoryError when the machine has no
    frames or tables left, ClosedError, HostForkedError.
    """

    def __init__(self, core: Core, native: Handle, dump: Callable[[], str]) -> None:
        self._core: Final = core
        self._native: Handle = native
        self._dump: Final = dump
        self._lib: Final = core.binding.lib
        self.contexts = 0  # attached; kept by Context

    @property
    def native(self) -> Handle:
        """The core's handle. Raises ClosedError."""
        if self._core.state:
            raise self._core.refusal()
        if self._native is None:
            raise ClosedError("the address space is closed")
        return self._native

    def require(self, core: Core) -> None:
        """Raise UsageError unless the space belongs to that machine."""
        if core is not self._core:
            raise UsageError("the address space belongs to another machine")

    def map(
        self,
        address: int,
        length: int,
        access: Access,
        file: HostFile | None = None,
        offset: int = 0,
        *,
        shared: bool = False,
        stable: bool = False,
    ) -> None:
        """Replace whatever is in the range by zeroed private memory, or by a private view of `file` from `offset`.

        Page-aligned, as mmap(2) with MAP_FIXED | MAP_PRIVATE; `shared` as with MAP_SHARED: stores go to the file, which must have
        been opened for that when `access` has WRITE, then or later (UsageError). Memory shared without a file is a memfd.
        `stable`, of a private view: nobody will change the file, so that pages may be copied before they are written.
        """
        _check_range(address, length, offset)
        handle = file.native_for(self._core) if file is not None else self._core.binding.ffi.NULL
        flags = int(access) | (_SHARED if shared else 0) | (_STABLE if stable else 0)
        self._check(self._lib.akvm_space_map(self.native, address, length, flags, handle, offset))

    def unmap(self, address: int, length: int) -> None:
        """As munmap(2)."""
        _check_range(address, length)
        self._check(self._lib.akvm_space_unmap(self.native, address, length))

    def protect(self, address: int, length: int, access: Access) -> None:
        """As mprotect(2); GuestMemoryError when part of the range is not mapped (Linux: ENOMEM)."""
        _check_range(address, length)
        result = self._lib.akvm_space_protect(self.native, address, length, int(access))
        if result == -errno.ENOMEM:
            raise GuestMemoryError(self._first_hole(address, address + length))
        self._check(result)

    def discard(self, address: int, length: int) -> None:
        """As madvise(2) with MADV_DONTNEED: the next touch sees zeroes, or the file; what is shared stays.

        GuestMemoryError as in `protect`.
        """
        _check_range(address, length)
        result = self._lib.akvm_space_discard(self.native, address, length)
        if result == -errno.ENOMEM:
            raise GuestMemoryError(self._first_hole(address, address + length))
        self._check(result)

    def move(self, source: int, to: int, length: int) -> None:
        """As mremap(2) with MREMAP_MAYMOVE | MREMAP_FIXED: what is at `source` goes, uncopied, in place of what is at `to`.

        UsageError when the ranges overlap, GuestMemoryError when part of the source is not mapped (Linux: EFAULT). After any
        error all is as it was.
        """
        _check_range(source, length)
        _check_range(to, length)
        result = self._lib.akvm_space_move(self.native, source, to, length)
        if result == -errno.EFAULT:
            raise GuestMemoryError(self._first_hole(source, source + length))
        self._check(result)

    def extend(self, address: int, length: int) -> None:
        """Grow the mapping that ends at `address` by what follows it, as mremap(2) does in place.

        GuestMemoryError when no mapping ends there, UsageError when part of the range is in use.
        """
        _check_range(address, length)
        result = self._lib.akvm_space_extend(self.native, address, length)
        if result == -errno.EFAULT:
            raise GuestMemoryError(address)
        self._check(result)

    def compare_exchange(self, address: int, expected: int, desired: int) -> int:
        """Make the aligned 32-bit word `desired` if it is `expected`; what it was before. Atomic towards guests that run.

        GuestMemoryError, OutOfMemoryError as in `write`; UsageError for an address that is not a multiple of 4.
        """
        _check_address(address, 4)
        if not (0 <= expected < 1 << 32 and 0 <= desired < 1 << 32):
            raise UsageError(f"not 32-bit words: {expected:#x}, {desired:#x}")
        old = self._core.binding.ffi.new("uint32_t *")
        result = self._lib.akvm_space_compare_exchange32(self.native, address, expected, desired, old)
        if result < 0:
            raise self._bad(result, address, 0)
        return int(old[0])

    def present(self, address: int, length: int) -> bytes:
        """As mincore(2), a byte for each page: 1 for private memory that exists and for a file's page touched through this space.

        At most 4 GiB at once. GuestMemoryError when part of the range is not mapped (Linux: ENOMEM).
        """
        _check_range(address, length)
        if length // PAGE > _PIECE:
            raise UsageError(f"too long to look at in one go: {length:#x}")
        out = self._core.binding.ffi.new("uint8_t[]", length // PAGE)
        result = self._lib.akvm_space_present(self.native, address, length // PAGE, out)
        if result == -errno.ENOMEM:
            raise GuestMemoryError(self._first_hole(address, address + length))
        self._check(result)
        return bytes(self._core.binding.ffi.buffer(out))

    def read(self, address: int, length: int) -> bytes:
        """Copy out, as the guest itself would read. GuestMemoryError at the first byte that cannot be read.

        OutOfMemoryError when reading needs a frame and there is none.
        """
        _check_address(address, length)
        if length <= _PIECE:
            return self._read_piece(address, length, 0)
        return b"".join([self._read_piece(address + done, min(_PIECE, length - done), done) for done in range(0, length, _PIECE)])

    def write(self, address: int, data: Buffer, *, force: bool = False) -> None:
        """Copy in, as the guest itself would write. `force` ignores protection, for loaders.

        GuestMemoryError at the first byte that cannot be written; those before it are written. OutOfMemoryError as in `read`.
        """
        source = data if type(data) is bytes else self._core.binding.ffi.from_buffer("char[]", memoryview(data).cast("B"))
        length = len(source)
        _check_address(address, length)
        if length:
            done = self._lib.akvm_space_write(self.native, address, source, length, force)
            if done != length:
                if done > 0:  # a short copy does not say why: the first byte that was left out does
                    why = self._lib.akvm_space_write(self.native, address + done, source[done : done + 1], 1, force)
                    raise self._bad(why, address + done, done)
                raise self._bad(done, address, 0)

    def read_string(self, address: int, limit: int) -> bytes:
        """The NUL-terminated string at `address`, without its NUL: at most `limit` bytes.

        GuestStringError when it is longer (Linux: ENAMETOOLONG), GuestMemoryError when it runs into a bad page.
        """
        _check_address(address, limit)
        binding = self._core.binding
        # Most strings are short, and not worth copying a page for.
        buffer, room = binding.borrow(), min(limit + 1, SHORT)
        result = self._lib.akvm_space_read_string(self.native, address, buffer, room)
        text: bytes = binding.ffi.unpack(buffer, max(result, 0))
        binding.give_back(buffer)
        if result == -errno.ENAMETOOLONG and limit >= room:
            buffer = binding.ffi.new("char[]", limit + 1)
            result = self._lib.akvm_space_read_string(self.native, address, buffer, limit + 1)
            text = binding.ffi.unpack(buffer, max(result, 0))
        if result >= 0:
            return text
        if result == -errno.ENAMETOOLONG:
            raise GuestStringError(address, limit)
        raise self._bad(result, address, 0)

    def region(self, address: int) -> Region | None:
        """The region that contains `address`, or the first one above it; None when there is none."""
        _check_address(address, 0)
        native = self._core.binding.ffi.new("struct akvm_region *")
        result = self._lib.akvm_space_region(self.native, address, native)
        if result == -errno.ENOENT:
            return None
        self._check(result)
        access = native.access
        return Region(native.start, native.end, _ACCESS[access & 7], native.file, native.offset, bool(access & _SHARED))

    def mapped(self, address: int, length: int) -> int:
        """How many bytes of the range are mapped: `length` when there is no hole."""
        _check_address(address, length)
        return int(self._lib.akvm_space_mapped(self.native, address, length))

    def room(self, start: int, end: int, length: int, alignment: int = PAGE) -> int | None:
        """The lowest multiple of `alignment`, a power of two, in [start, end) from which `length` bytes there are not mapped."""
        _check_address(start, length)
        _check_address(end, alignment)
        return int(self._lib.akvm_space_room(self.native, start, end, length, alignment)) or None

    @property
    def resident(self) -> int:
        """Private pages of 4 KiB that exist."""
        return int(self._lib.akvm_space_resident(self.native))

    def limit(self, pages: int) -> None:
        """Bound of `resident`; 0 for none. A fault beyond it ends as Fault(SIGKILL)."""
        if not 0 <= pages < 1 << 52:
            raise UsageError("a limit is a number of pages, or 0")
        self._lib.akvm_space_limit(self.native, pages)

    def set_budget(self, budget: MemoryBudget | None) -> None:
        """Share a bound of memory with other spaces; forks inherit it. UsageError once the space has memory."""
        native = self._core.binding.ffi.NULL if budget is None else budget.native_for(self._core)
        self._check(self._lib.akvm_space_budget(self.native, native))

    def fork(self) -> AddressSpace:
        """A copy-on-write copy: same regions, same contents.

        Contexts that run in this space on other vCPUs at this moment may still store to shared pages until `shootdown()` has
        returned: await that before the child runs.
        """
        return AddressSpace(self._core, self._core.binding.fork_space(self.native), self._dump)

    async def shootdown(self) -> None:
        """Return when no vCPU can use a translation older than this call. Bounded: InternalError after 5 s. Thread: loop."""
        until = time.monotonic_ns() + _SETTLE_NS
        delay = 0.0
        while not self._lib.akvm_space_settled(self.native):
            if time.monotonic_ns() > until:
                raise InternalError("a vCPU did not acknowledge a change of its address space", self._dump())
            await asyncio.sleep(delay)  # an acknowledgement takes one kick, about 100 us, and has no doorbell
            delay = min(0.002, delay + 0.0001)

    def close(self) -> None:
        """Free the space; UsageError while contexts are attached. Idempotent. Thread: loop."""
        if self._native is None or not self._core.usable:
            self._native = None
            return
        if self.contexts:
            self._core.dig()  # dropped contexts count as closed
        if self.contexts:
            raise UsageError(f"{self.contexts} contexts are attached to this address space: close them first")
        self._check(self._lib.akvm_space_destroy(self._native))
        self._native = None

    def __del__(self) -> None:
        native = getattr(self, "_native", None)
        if native is not None and self._core.usable:
            lib = self._lib
            self._core.bury(1, lambda: bool(lib.akvm_space_destroy(native) != -errno.EBUSY))
            # Last: with -W error it raises.
            warnings.warn("address space was not closed", ResourceWarning, stacklevel=1, source=self)

    def _check(self, result: int) -> None:
        if result < 0:
            raise self._core.binding.error(result)

    def _read_piece(self, address: int, length: int, before: int) -> bytes:
        if not length:
            return b""
        binding = self._core.binding
        buffer = binding.borrow() if length <= SHORT else binding.ffi.new("char[]", length)
        done = self._lib.akvm_space_read(self.native, address, buffer, length)
        if done != length:
            if done > 0:  # as in write
                why = self._lib.akvm_space_read(self.native, address + done, buffer, 1)
                raise self._bad(why, address + done, before + done)
            raise self._bad(done, address, before)
        data: bytes = binding.ffi.unpack(buffer, length)
        if length <= SHORT:
            binding.give_back(buffer)
        return data

    def _bad(self, result: int, address: int, before: int) -> AsyncKvmError:
        if result >= 0 or result == -errno.EFAULT:
            return GuestMemoryError(address, before)
        return self._core.binding.error(result)

    def _first_hole(self, address: int, end: int) -> int:
        """Where the range, which has a hole, is mapped up to. By halves: there may be many regions before it."""
        first, last = 0, (end - address) // PAGE
        while first < last:
            middle = (first + last + 1) // 2
            if self.mapped(address, middle * PAGE) == middle * PAGE:
                first = middle
            else:
                last = middle - 1
        return address + first * PAGE


def _check_range(address: int, length: int, offset: int = 0) -> None:
    if address % PAGE or length % PAGE or offset % PAGE or length <= 0 or offset < 0:
        raise UsageError(f"not a range of whole pages: address {address:#x}, length {length:#x}, offset {offset:#x}")
    _check_address(address, length)
    if offset >= 1 << 63:
        raise UsageError(f"offset {offset:#x} is out of range")


def _check_address(address: int, length: int) -> None:
    """Unsigned 64-bit numbers, for the binding's sake; whether they are user addresses the core decides."""
    if not 0 <= address < 1 << 64 or not 0 <= length < 1 << 63:
        raise UsageError(f"not an address and a length: {address:#x}, {length:#x}")
