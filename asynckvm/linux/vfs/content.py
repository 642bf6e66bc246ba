"""The bytes of a file in memory: pages in Python until somebody maps or executes it, a memory file of the host from then on.

`Budget` bounds both. A memory file can be filled by a guest without a call, through a mapping, so what it could hold is charged
in full, and it never shrinks: what is cut off is emptied, and no mapping ever reaches beyond it. Source: tmpfs(5),
memfd_create(2), fallocate(2), lseek(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files import host_calls
from asynckvm.linux.files.host_calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.platform import HostFile, Machine

_KNOWN: Final = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
_IOV_MAX: Final = 1024
# With so many pages a file becomes a memory file: 16 MiB.
_PAGES_MAX: Final = 4096
_ZEROS: Final = bytes(PAGE)


# Files of the host that a sandbox may hold open, those behind its mapped files in memory included.
DESCRIPTORS: Final = 2048


class Budget:
    """Bytes and inodes that a mount, or all of a sandbox, may use, and descriptors of this process. ENOSPC and ENFILE beyond."""

    def __init__(self, size: int, inodes: int, descriptors: int = DESCRIPTORS) -> None:
        self.size = size
        self.inodes = inodes
        self.descriptors = descriptors
        self.used = 0
        self.used_inodes = 0
        self.used_descriptors = 0

    def charge(self, size: int) -> None:
        if self.used + size > self.size:
            raise SyscallError(errno.ENOSPC)
        self.used += size

    def refund(self, size: int) -> None:
        self.used -= size

    def charge_inode(self) -> None:
        if self.used_inodes >= self.inodes:
            raise SyscallError(errno.ENOSPC)
        self.used_inodes += 1

    def refund_inode(self) -> None:
        self.used_inodes -= 1

    def charge_descriptor(self) -> None:
        if self.used_descriptors >= self.descriptors:
            raise SyscallError(errno.ENFILE)
        self.used_descriptors += 1

    def refund_descriptor(self) -> None:
        self.used_descriptors -= 1


class Content:
    """Bytes with holes. `size` is the length of the file; reads and writes never fail for another reason than the budget."""

    def __init__(self, budget: Budget) -> None:
        self.size = 0
        self._budget = budget
        self._charged = 0
        self._written = False  # by mappings of a view that was too short and is closed
        self._pages: dict[int, bytearray] = {}
        # Pages that are paid for and were never written.
        self._reserved: set[int] = set()
        self._pages_max = _PAGES_MAX
        self._fd = -1
        self._mapped: dict[bool, tuple[int, HostFile]] = {}

    def __del__(self) -> None:
        self._budget.refund(self._charged)
        for _, file in self._mapped.values():
            file.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._budget.refund_descriptor()

    @property
    def allocated(self) -> int:
        """Bytes that are there, in whole pages."""
        return os.fstat(self._fd).st_blocks * 512 if self._fd >= 0 else self._charged

    # ------------------------------------------------------------ reading and writing

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._fd >= 0:
            return os.pread(self._fd, length, offset).ljust(length, b"\0")
        first, start = divmod(offset, PAGE)
        last = (offset + length - 1) // PAGE
        pages = self._pages
        if first == last:
            page = pages.get(first)
            return bytes(page[start : start + length]) if page is not None else bytes(length)
        whole = b"".join([pages.get(number, _ZEROS) for number in range(first, last + 1)])
        return whole[start : start + length]

    def write(self, offset: int, data: bytes) -> int:
        """As much as the budget lets in. EFBIG beyond what a file can be, ENOSPC for none at all."""
        if not data:
            return 0
        if offset + len(data) > INT64_MAX:
            if offset >= INT64_MAX:
                raise SyscallError(errno.EFBIG)
            data = data[: INT64_MAX - offset]
        if len(self._pages) >= self._pages_max:
            # Before moving it takes long. When there is no room for its holes, or no descriptor, it stays, and is tried later.
            self._pages_max += _PAGES_MAX
            with contextlib.suppress(SyscallError, OSError):
                self.descriptor()
        if self._fd >= 0:
            self._reserve(offset + len(data))
            self._clear(self.size, offset)
            os.pwrite(self._fd, data, offset)
            done = len(data)
        else:
            done = self._write_pages(offset, data)
        self.size = max(self.size, offset + done)
        return done

    def _write_pages(self, offset: int, data: bytes) -> int:
        done = 0
        view = memoryview(data)
        while done < len(data):
            number, start = divmod(offset + done, PAGE)
            piece = view[done : done + PAGE - start]
            page = self._pages.get(number)
            if page is None:
                try:
                    self._take(number)
                except SyscallError:
                    if done:
                        return done
                    raise
                if len(piece) == PAGE:
                    self._pages[number] = bytearray(piece)
                    done += PAGE
                    continue
                page = self._pages[number] = bytearray(PAGE)
            page[start : start + len(piece)] = piece
            done += len(piece)
        return done

    def truncate(self, length: int) -> None:
        if length > INT64_MAX - PAGE:
            raise SyscallError(errno.EFBIG)
        if length <= self.size:
            # What was reserved beyond the end goes too.
            self._clear(length, self._charged if self._fd >= 0 else INT64_MAX)
        elif self._fd >= 0:
            self._reserve(length)
            # A mapping may have left something in the last page, beyond the end.
            self._clear(self.size, length)
        self.size = length

    def seek(self, offset: int, *, data: bool) -> int:
        """SEEK_DATA or SEEK_HOLE from `offset` on. ENXIO beyond the end, or when no data follow."""
        if not 0 <= offset < self.size:
            raise SyscallError(errno.ENXIO)
        if self._fd >= 0:
            found = os.lseek(self._fd, offset, os.SEEK_DATA if data else os.SEEK_HOLE)
        elif data:
            following = [number for number in self._pages if number >= offset // PAGE]
            found = max(min(following) * PAGE, offset) if following else self.size
        else:
            number = offset // PAGE
            while number in self._pages:
                number += 1
            found = max(number * PAGE, offset)
        if data and found >= self.size:
            raise SyscallError(errno.ENXIO)
        return min(found, self.size)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""
        if offset < 0 or length <= 0:
            raise SyscallError(errno.EINVAL)
        if mode & ~_KNOWN or (mode & FALLOC_PUNCH_HOLE and mode != FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE):
            raise SyscallError(errno.EOPNOTSUPP)
        end = offset + length
        if end > INT64_MAX - PAGE:
            raise SyscallError(errno.EFBIG)
        if mode & FALLOC_PUNCH_HOLE:
            self._clear(offset, end)
            return
        self._fill(offset, end)
        if not mode & FALLOC_KEEP_SIZE:
            self.size = max(self.size, end)

    # ------------------------------------------------------------ for mmap and execve

    def descriptor(self) -> int:
        """The host's descriptor of the bytes, which stays this object's. ENOSPC when the budget lacks the holes' room."""
        if self._fd < 0:
            length = max(_round(self.size), (max([*self._pages, *self._reserved], default=-1) + 1) * PAGE)
            charged = length - self._charged
            self._budget.charge_descriptor()
            fd = -1
            try:
                self._charge(charged)
                fd = os.memfd_create("guest", os.MFD_CLOEXEC)
                os.ftruncate(fd, length)
                for first, pages in self._runs():
                    os.pwritev(fd, pages, first * PAGE)
            except BaseException:
                if self._charged == length:
                    self._charge(-charged)
                if fd >= 0:
                    os.close(fd)
                self._budget.refund_descriptor()
                raise
            self._fd = fd
            self._pages.clear()
            self._reserved.clear()
        return self._fd

    def _runs(self) -> Iterator[tuple[int, list[bytearray]]]:
        """Pages that follow each other, as many as one call may write, and the number of the first."""
        run: list[bytearray] = []
        first = 0
        for number in sorted(self._pages):
            if run and (number != first + len(run) or len(run) == _IOV_MAX):
                yield first, run
                run = []
            if not run:
                first = number
            run.append(self._pages[number])
        if run:
            yield first, run

    @property
    def mapped_writable(self) -> bool:
        """Whether there may be shared mappings that store to it, which forbids F_SEAL_WRITE."""
        _, file = self._mapped.get(True, (0, None))
        return self._written or (file is not None and file.references > 1)

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:
        fd = self.descriptor()
        # The file never grows beyond that.
        length = min(length, max(self._charged, self._budget.size))
        covered, file = self._mapped.get(writable, (0, None))
        if file is None or length > covered:
            longer = machine.open_file(fd, writable=writable, length=length)
            if file is not None:
                self._written |= writable and file.references > 1
                file.close()
            file = longer
            self._mapped[writable] = length, file
        return file

    # ------------------------------------------------------------ room

    def _charge(self, size: int) -> None:
        self._budget.charge(size)
        self._charged += size

    def _reserve(self, length: int) -> None:
        """Let the memory file reach `length`."""
        wanted = _round(length)
        if wanted > self._charged:
            self._charge(wanted - self._charged)
            os.ftruncate(self._fd, wanted)

    def _fill(self, start: int, end: int) -> None:
        first, last = start // PAGE, -(-end // PAGE)
        if self._fd >= 0:
            self._reserve(end)
            host_calls.allocate(self._fd, FALLOC_KEEP_SIZE, start, end - start)
            return
        # All or nothing, and only now that many steps: the budget bounds them.
        present = sum(first <= number < last for pages in (self._pages, self._reserved) for number in pages)
        self._charge((last - first - present) * PAGE)
        self._reserved.update(number for number in range(first, last) if number not in self._pages)

    def _clear(self, start: int, end: int) -> None:
        """Zeros from `start` to `end`; whole pages are given back."""
        if start >= end:
            return
        if self._fd >= 0:
            host_calls.allocate(self._fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, start, end - start)
            return
        first, last = -(-start // PAGE), end // PAGE
        self._free(first, last)
        self._zero(start, min(end, first * PAGE))
        if last >= first:
            self._zero(max(start, last * PAGE), end)

    def _free(self, first: int, last: int) -> None:
        """Pages of these numbers."""
        for pages in (self._pages, self._reserved):
            if last - first < len(pages):
                gone = [number for number in range(first, last) if number in pages]
            else:
                gone = [number for number in pages if first <= number < last]
            for number in gone:
                pages.pop(number) if isinstance(pages, dict) else pages.remove(number)
            self._budget.refund(len(gone) * PAGE)
            self._charged -= len(gone) * PAGE

    def _take(self, number: int) -> None:
        """Pay for a page that is going to be written."""
        if number in self._reserved:
            self._reserved.remove(number)
        else:
            self._charge(PAGE)

    def _zero(self, start: int, end: int) -> None:
        if start < end and (page := self._pages.get(start // PAGE)) is not None:
            begin = start % PAGE
            page[begin : begin + end - start] = bytes(end - start)


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE
