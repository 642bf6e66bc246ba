"""Direct files: regular files of the host that guests read by descriptor while their context stays on its vCPU.

A `DirectFile` is an open file, `DirectFiles` says which descriptors of a guest are such files, and contexts are given one of
those (`Context.set_direct_files`). What the core answers by itself, and when it leaves a call to Python, is written in akvm.h.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asynckvm.platform.binding import Binding, Handle
    from asynckvm.platform.core import Core

__all__ = ["DirectCall", "DirectFile", "DirectFiles"]


class DirectCall(enum.IntEnum):
    """System calls on direct files: enum akvm_direct_call."""

    READ = 0
    PREAD = 1
    SEEK = 2


class DirectFile:
    """An open regular file of the host, readable. Made by `DirectFiles.open`. Thread: loop.

    Used with `with`, nested or not: inside no guest moves the file's position. Guests that try are answered by Python.
    """

    def __init__(self, binding: Binding, fd: int) -> None:
        self._native: Handle = None
        self._lib: Final = binding.lib
        self._depth = 0
        self._native = binding.create_direct_file(fd)

    @property
    def native(self) -> Handle:
        """The handle; None once it is closed."""
        return self._native

    def __enter__(self) -> None:
        if not self._depth:
            self._lib.akvm_direct_file_lock(self._native)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._lib.akvm_direct_file_unlock(self._native)

    def close(self) -> None:
        """Done with it: the host's descriptor is closed once no descriptor of a guest is this file and no read is under way.
        Idempotent."""
        native, self._native = self._native, None
        if native is not None:
            self._lib.akvm_direct_file_release(native)

    def __del__(self) -> None:
        self.close()


class DirectFiles:
    """Made by `Machine.create_direct_files`: a guest's descriptors that are direct files, none at first. Thread: any.

    Changes hold for contexts that have it at once, running or not.
    """

    def __init__(self, core: Core, numbers: Mapping[DirectCall, int]) -> None:
        self._native: Handle = None
        self._binding: Final = core.binding
        self._lib: Final = core.binding.lib
        core.check()
        self._native = core.binding.create_direct_files([numbers[call] for call in DirectCall])

    @property
    def native(self) -> Handle:
        """The handle; None once it is closed."""
        return self._native

    def open(self, fd: int) -> DirectFile:
        """A direct file out of the host's descriptor `fd`, which is its own from now on. OutOfMemoryError, and it is not."""
        return DirectFile(self._binding, fd)

    def add(self, descriptor: int, file: DirectFile) -> None:
        """The guest's descriptor is this file. If there is no place for it, Python answers for it as before."""
        self._lib.akvm_direct_files_set(self._native, descriptor, file.native)

    def remove(self, descriptor: int) -> None:
        """The guest's descriptor is no direct file any more. A call that began before ends with the file it began with."""
        self._lib.akvm_direct_files_set(self._native, descriptor, self._binding.ffi.NULL)

    def close(self) -> None:
        """Done with it; contexts that have it keep it. Idempotent."""
        native, self._native = self._native, None
        if native is not None:
            self._lib.akvm_direct_files_release(native)

    def __del__(self) -> None:
        self.close()
