"""What stat(2) and statx(2) tell about a file, whichever file system or object it belongs to. Values only."""

from __future__ import annotations

import os
from typing import NamedTuple


class Attributes(NamedTuple):
    """As struct statx: times in nanoseconds since the epoch, sizes in bytes, `blocks` of 512, devices as of makedev(3)."""

    device: int
    inode: int
    mode: int
    links: int = 1
    user: int = 0
    group: int = 0
    special: int = 0
    size: int = 0
    block_size: int = 4096
    blocks: int = 0
    accessed: int = 0
    modified: int = 0
    changed: int = 0
    born: int | None = None

    @property
    def identity(self) -> tuple[int, int]:
        """What two names of one file have in common."""
        return self.device, self.inode

    @classmethod
    def from_host(cls, status: os.stat_result) -> Attributes:
        """Those of a host file."""
        return cls(
            status.st_dev, status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev,
            status.st_size, status.st_blksize, status.st_blocks, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
