"""Layouts of the structures that system calls write: from host values to the bytes of the x86-64 ABI.

Pure. Source: the kernel's uapi headers; stat(2), statx(2), sysinfo(2), getrusage(2).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.usercopy import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs import Statistics

_STATX: Final = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII" + "Q" + "104x")
_STATX_BASIC: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_STATFS: Final = struct.Struct("<7Q2i7Q")
_USTAT: Final = struct.Struct("<i4xQ16x")
_SYSINFO: Final = struct.Struct("<q3Q6QHH4xQQI4x")
_RUSAGE: Final = struct.Struct("<4q14q")


def statx(file: Attributes) -> bytes:
    """struct statx, 256 bytes, with the basic fields, and the time of birth where it is known."""
    mask = _STATX_BASIC if file.born is None else _STATX_BASIC | _STATX_BTIME
    return _STATX.pack(
        mask, file.block_size, 0, file.links, file.user, file.group, file.mode, file.inode,
        file.size, file.blocks, 0, *divmod(file.accessed, NANOSECONDS), *divmod(file.born or 0, NANOSECONDS),
        *divmod(file.changed, NANOSECONDS), *divmod(file.modified, NANOSECONDS),
        os.major(file.special), os.minor(file.special), os.major(file.device), os.minor(file.device), 0,
    )  # fmt: skip


def statfs(found: Statistics, device: int, flags: int) -> bytes:
    """struct statfs, 120 bytes. ST_VALID (0x20) says that the flags mean something."""
    return _STATFS.pack(
        found.magic, found.block_size, found.blocks, found.free, found.available, found.files, found.free_files,
        device & 0x7FFF_FFFF, device >> 32 & 0x7FFF_FFFF, found.name_max, found.block_size, flags | 0x20, 0, 0, 0, 0,
    )  # fmt: skip


def ustat(found: Statistics) -> bytes:
    """struct ustat, 32 bytes, without the names that no file system has."""
    return _USTAT.pack(min(found.free, 0x7FFF_FFFF), found.free_files)


def sysinfo(uptime: int, running: int, memory: int, free: int, processes: int) -> bytes:
    """struct sysinfo, 112 bytes: seconds since boot, threads that run (all three averages), bytes of memory, processes."""
    load = running << 16  # SI_LOAD_SHIFT
    return _SYSINFO.pack(uptime, load, load, load, memory, free, 0, 0, 0, 0, processes, 0, 0, 0, 1)


def rusage(processor_time: int, resident: int) -> bytes:
    """struct rusage, 144 bytes: all time is user time; resident memory in KiB."""
    seconds, nanoseconds = divmod(processor_time, NANOSECONDS)
    return _RUSAGE.pack(seconds, nanoseconds // 1000, 0, 0, resident, *[0] * 13)


def words(values: Sequence[int]) -> bytes:
    """64-bit words, unsigned."""
    return struct.pack(f"<{len(values)}Q", *values)
