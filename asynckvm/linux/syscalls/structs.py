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

_STAT: Final = struct.Struct("<QQQIIIIQqqq6q24x")
_STATX: Final = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII" + "Q" + "104x")
_STATX_BASIC: Final = 0x7FF
_SYSINFO: Final = struct.Struct("<q3Q6QHH4xQQI4x")
_RUSAGE: Final = struct.Struct("<4q14q")


def stat(status: os.stat_result) -> bytes:
    """struct stat, 144 bytes."""
    times = [part for moment in _times(status) for part in divmod(moment, NANOSECONDS)]
    return _STAT.pack(
        status.st_dev, status.st_ino, status.st_nlink, status.st_mode, status.st_uid, status.st_gid, 0, status.st_rdev,
        status.st_size, status.st_blksize, status.st_blocks, *times,
    )  # fmt: skip


def statx(status: os.stat_result) -> bytes:
    """struct statx, 256 bytes, with the basic fields (all but the time of birth)."""
    accessed, modified, changed = (divmod(moment, NANOSECONDS) for moment in _times(status))
    device, special = status.st_dev, status.st_rdev
    return _STATX.pack(
        _STATX_BASIC, status.st_blksize, 0, status.st_nlink, status.st_uid, status.st_gid, status.st_mode, status.st_ino,
        status.st_size, status.st_blocks, 0, *accessed, 0, 0, *changed, *modified,
        os.major(special), os.minor(special), os.major(device), os.minor(device), 0,
    )  # fmt: skip


def sysinfo(uptime: int, memory: int, free: int) -> bytes:
    """struct sysinfo, 112 bytes: seconds since boot, bytes of memory, one process."""
    return _SYSINFO.pack(uptime, 0, 0, 0, memory, free, 0, 0, 0, 0, 1, 0, 0, 0, 1)


def rusage(processor_time: int, resident: int) -> bytes:
    """struct rusage, 144 bytes: all time is user time; resident memory in KiB."""
    seconds, nanoseconds = divmod(processor_time, NANOSECONDS)
    return _RUSAGE.pack(seconds, nanoseconds // 1000, 0, 0, resident, *[0] * 13)


def words(values: Sequence[int]) -> bytes:
    """64-bit words, unsigned."""
    return struct.pack(f"<{len(values)}Q", *values)


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
