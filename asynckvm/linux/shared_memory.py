"""Memory that processes share without a file: what mmap(2) with MAP_SHARED | MAP_ANONYMOUS gives.

Each mapping is a memfd of the host's, which the platform maps as it maps files. Its pages are no guest frames, so they count here
against a bound of their own, from the mapping to the moment when no address space shows it any more.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from asynckvm.platform import HostFile, Machine

# Each costs the host a descriptor and a memory slot.
_OBJECTS_MAX: Final = 1024


class SharedMemory:
    """All of one sandbox. `limit` in bytes. Thread: loop."""

    def __init__(self, machine: Machine, limit: int) -> None:
        self._machine = machine
        self._limit = limit
        # What may be mapped still: the file and its length.
        self._objects: list[tuple[HostFile, int]] = []

    @property
    def used(self) -> int:
        """Bytes that are promised to mappings."""
        self._sweep()
        return sum(length for _, length in self._objects)

    def create(self, length: int) -> HostFile:
        """Zeroed memory of `length` bytes, to be mapped at once; the caller closes its handle. ENOMEM beyond the bounds."""
        if len(self._objects) >= _OBJECTS_MAX or sum(held for _, held in self._objects) + length > self._limit:
            self._sweep()
            if len(self._objects) >= _OBJECTS_MAX or sum(held for _, held in self._objects) + length > self._limit:
                raise SyscallError(errno.ENOMEM)
        descriptor = os.memfd_create("guest", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, length)
            kept = self._machine.open_file(descriptor, writable=True, length=length)
            self._objects.append((kept, length))
            return self._machine.open_file(descriptor, writable=True, length=length)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of everything; what is still mapped stays until it is unmapped."""
        for file, _ in self._objects:
            file.close()
        self._objects.clear()

    def _sweep(self) -> None:
        """Forget what only this table holds."""
        mapped = []
        for file, length in self._objects:
            if file.references > 1:
                mapped.append((file, length))
            else:
                file.close()
        self._objects = mapped
