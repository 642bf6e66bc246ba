"""Calls on descriptors of the host for which Python has none, or only a slow one: fstat(2), getdents64(2), fallocate(2)."""

from __future__ import annotations

import ctypes
import functools
from typing import Final

from asynckvm.linux.errors import SyscallError
from asynckvm.platform import binding

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2
_STATUS_BYTES: Final = 144
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class _Native:
    """The native functions, and room for a status. Thread: loop."""

    def __init__(self) -> None:
        core = binding.load()
        self.status = core.lib.akvm_fd_status
        self.entries = core.lib.akvm_fd_entries
        self.unpack = core.ffi.unpack
        self.new = core.ffi.new
        self.room = core.ffi.new("uint8_t[]", _STATUS_BYTES)
        self.view = core.ffi.buffer(self.room)


_native = functools.cache(_Native)


def status(fd: int) -> bytes:
    """struct stat."""
    native = _native()
    result = native.status(fd, native.room)
    if result < 0:
        raise SyscallError(-result)
    return bytes(native.view)


def entries(fd: int, capacity: int) -> bytes:
    """The next struct linux_dirent64 records of a directory that fit."""
    native = _native()
    # Cleared: the kernel leaves out the bytes between records, and what was there is not for guests.
    room = native.new("char[]", capacity)
    result = native.entries(fd, room, capacity)
    if result < 0:
        raise SyscallError(-result)
    records: bytes = native.unpack(room, result)
    return records


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """posix_fallocate(3), which Python has, knows no modes."""
    if _fallocate(fd, mode, offset, length):
        raise SyscallError(ctypes.get_errno())
