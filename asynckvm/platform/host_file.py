"""A host file that address spaces can map: one mapping for the whole machine, shared by all guests.

Opening and closing only; what is mapped where is the address space's business.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from asynckvm.errors import ClosedError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from asynckvm.platform.binding import Handle
    from asynckvm.platform.core import Core

__all__ = ["HostFile"]


class HostFile:
    """A regular file, opened by `Machine.open_file`. Closing it leaves mappings intact. Thread: any."""

    def __init__(self, core: Core, file: int | str | os.PathLike[str], *, writable: bool = False, length: int = 0) -> None:
        self._native: Handle = None
        self._core: Final = core
        self.writable: Final = writable  # shared mappings may store to it
        core.check()
        if not 0 <= length < 1 << 63:
            raise UsageError(f"not a length: {length:#x}")
        # Through a descriptor for appending, copies would land at the file's end: that one needs an open file of its own.
        if isinstance(file, int) and writable and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND:
            file = f"/proc/self/fd/{file}"
        if isinstance(file, int):
            self._native = core.binding.open_file(core.native, file, length, writable=writable)
        else:
            way = os.O_RDWR if writable else os.O_RDONLY
            descriptor = os.open(file, way | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                self._native = core.binding.open_file(core.native, descriptor, length, writable=writable)
            finally:
                os.close(descriptor)

    def native_for(self, core: Core) -> Handle:
        """The handle, for that machine. Raises ClosedError, and UsageError for another machine's file."""
        self._core.check()
        if core is not self._core:
            raise UsageError("the host file belongs to another machine")
        if self._native is None:
            raise ClosedError("the host file is closed")
        return self._native

    @property
    def number(self) -> int:
        """What regions that show it have as `file`."""
        return int(self._core.binding.lib.akvm_file_number(self.native_for(self._core)))

    @property
    def references(self) -> int:
        """Who holds the file: handles that are not closed, this one among them, and mappings, those included whose end a vCPU
        has not seen yet. Handles of one file count together if they are as writable and as long."""
        return int(self._core.binding.lib.akvm_file_references(self.native_for(self._core)))

    @property
    def mappings(self) -> int:
        """Regions of all address spaces that show it now, counted as `references` are."""
        return int(self._core.binding.lib.akvm_file_mappings(self.native_for(self._core)))

    def close(self) -> None:
        """Give the file back. Idempotent."""
        native, self._native = self._native, None
        if native is not None and self._core.usable:
            self._core.binding.lib.akvm_file_close(native)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # No warning: mappings hold the file, so letting go of the object is the ordinary way to end.
        self.close()
