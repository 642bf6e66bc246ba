"""What stat(2) and statx(2) tell about a file, whichever file system or object it belongs to. Values only.

`struct stat` is the same for the kernel of the host and for guests, so that a status from there may go to a guest as it came.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from asynckvm.linux.usercopy import NANOSECONDS

_STAT: Final = struct.Struct("<QQQIII4xQqqqqqqqqq24x")


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
    def of_status(cls, status: bytes) -> Attributes:
        """What a struct stat tells."""
        (
            device, inode, links, mode, user, group, special, size, block_size, blocks,
            accessed, accessed_ns, modified, modified_ns, changed, changed_ns,
        ) = _STAT.unpack(status)  # fmt: skip
        return cls(
            device, inode, mode, links, user, group, special, size, block_size, blocks, accessed * NANOSECONDS + accessed_ns,
            modified * NANOSECONDS + modified_ns, changed * NANOSECONDS + changed_ns,
        )  # fmt: skip

    @property
    def status(self) -> bytes:
        """As struct stat, 144 bytes."""
        return _STAT.pack(
            self.device, self.inode, self.links, self.mode, self.user, self.group, self.special, self.size, self.block_size,
            self.blocks, *divmod(self.accessed, NANOSECONDS), *divmod(self.modified, NANOSECONDS),
            *divmod(self.changed, NANOSECONDS),
        )  # fmt: skip
