"""Memory that processes share without a file: what mmap(2) with MAP_SHARED | MAP_ANONYMOUS gives.

Each mapping is a memfd of the host's, which the platform maps as it maps files. Its pages are no guest frames, so all of them are
charged here to the sandbox's memory, from the mapping to the moment when no address space shows it any more.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.errors import OutOfMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from asynckvm.platform import HostFile, Machine, MemoryBudget

# Each costs the host a descriptor and a memory slot.
_OBJECTS_MAX: Final = 1024


class SharedMemory:
    """All of one sandbox: `limit` bytes, also charged to `budget`, if there is one. Thread: loop."""

    def __init__(self, machine: Machine, limit: int, budget: MemoryBudget | None = None) -> None:
        self._machine = machine
        self.limit = limit
        self._budget = budget
        # What may be mapped still: the file and its length.
        self._objects: list[tuple[HostFile, int]] = []

    @property
    def used(self) -> int:
        """Bytes that are promised to mappings."""
        self.sweep()
        return sum(length for _, length in self._objects)

    def create(self, length: int, *, writable: bool = True) -> HostFile:
        """Zeroed memory of `length` bytes, to be mapped at once; the caller closes its handle. ENOMEM beyond the bounds."""
        kept, given = self._create(length, writable, writable)
        self._objects.append((kept, length))
        return given

    def create_segment(self, length: int) -> tuple[HostFile, HostFile]:
        """As `create`: memory that is there until the caller closes both handles, to be stored to and to be read only."""
        kept, given, readable = self._create(length, True, True, False)  # noqa: FBT003
        self._objects.append((kept, length))
        return given, readable

    def _create(self, length: int, *writable: bool) -> list[HostFile]:
        """A handle for each of `writable`."""
        if not self._charge(length) and not (self.sweep() and self._charge(length)):
            raise SyscallError(errno.ENOMEM)
        made: list[HostFile] = []
        try:
            descriptor = os.memfd_create("guest", os.MFD_CLOEXEC)
            try:
                os.ftruncate(descriptor, length)
                # One by one: those before a failure are closed.
                made.extend(self._machine.open_file(descriptor, writable=way, length=length) for way in writable)
            finally:
                os.close(descriptor)
        except BaseException:
            for file in made:
                file.close()
            self._discharge(length)
            raise
        return made

    def close(self) -> None:
        """Let go of everything; what is still mapped stays until it is unmapped."""
        for file, length in self._objects:
            file.close()
            self._discharge(length)
        self._objects.clear()

    def sweep(self) -> bool:
        """Forget what only this table holds; whether there was anything."""
        mapped = []
        for file, length in self._objects:
            if file.references > 1:
                mapped.append((file, length))
            else:
                file.close()
                self._discharge(length)
        found = len(mapped) < len(self._objects)
        self._objects = mapped
        return found

    def _charge(self, length: int) -> bool:
        if len(self._objects) >= _OBJECTS_MAX or sum(held for _, held in self._objects) + length > self.limit:
            return False
        if self._budget is not None:
            try:
                self._budget.charge(length // PAGE)
            except OutOfMemoryError:
                return False
        return True

    def _discharge(self, length: int) -> None:
        if self._budget is not None:
            self._budget.release(length // PAGE)
