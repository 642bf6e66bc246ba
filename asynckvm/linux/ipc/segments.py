"""System V shared memory: segments that processes attach, each a memfd like other shared memory. Source: shmget(2), shmop(2),
shmctl(2), ipc/shm.c.
"""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import IpcTable, Permissions
from asynckvm.linux.layout import PARTS_AT_ONCE, page_up
from asynckvm.linux.memory import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    Shared,
)
from asynckvm.model.memory import PAGE, USER_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.task import Task
    from asynckvm.platform import HostFile

SEGMENTS_MAX: Final = 4096
# As Linux has it: no limit but memory.
SIZE_MAX: Final = (1 << 64) - 1 - (1 << 24)
SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000
# struct shmid64_ds after its permissions, struct shminfo64, struct shm_info.
_STATUS: Final = struct.Struct("<QqqqiiQ16x")
_LIMITS: Final = struct.Struct("<5Q32x")
_USED: Final = struct.Struct("<i4x5Q")


class Segment:
    """Times in seconds. Its memory is there from the first time it is attached."""

    def __init__(self, permissions: Permissions, size: int, creator: int) -> None:
        self.permissions = permissions
        self.size = size
        self.file: HostFile | None = None
        self.readable: HostFile | None = None  # the same, for those who attach it only to read
        self.number = 0  # of the file, in regions
        self.attached_at = self.detached_at = 0
        self.changed_at = int(time.time())
        self.creator = creator
        self.last = 0

    @property
    def length(self) -> int:
        return page_up(self.size)

    @property
    def attached(self) -> int:
        """How often, in all processes, as Linux counts: each mapping of a part of it."""
        return sum(file.mappings for file in (self.file, self.readable) if file is not None)

    def close(self) -> None:
        for file in (self.file, self.readable):
            if file is not None:
                file.close()

    def change(self, image: bytes) -> None:
        """IPC_SET: owner, group and mode."""
        flags = self.permissions.mode & (SHM_DEST | SHM_LOCKED)
        self.permissions.change(image)
        self.permissions.mode |= flags
        self.changed_at = int(time.time())

    def status(self) -> bytes:
        """struct shmid64_ds."""
        times = self.attached_at, self.detached_at, self.changed_at
        return self.permissions.pack() + _STATUS.pack(self.size, *times, self.creator, self.last, self.attached)


class Segments(IpcTable[Segment]):
    """All segments of a sandbox."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(SEGMENTS_MAX)
        self._kernel = kernel
        # Removed ones that somebody has attached still.
        self._leaving: set[int] = set()

    def open(self, task: Task, key: int, size: int, flags: int) -> int:
        """shmget(2)."""

        def make(permissions: Permissions) -> Segment:
            if not 0 < size <= SIZE_MAX:
                raise SyscallError(errno.EINVAL)
            if size > self._kernel.shared_memory.limit:
                raise SyscallError(errno.ENOMEM)
            return Segment(permissions, size, task.process.pid)

        def check(found: Segment) -> None:
            if size > found.size:
                raise SyscallError(errno.EINVAL)

        return self.get(key, flags, task.process.credentials, make, check)

    def attach(self, task: Task, number: int, address: int, flags: int) -> int:
        """shmat(2): where it is attached. EINVAL, EACCES, ENOMEM."""
        segment = self.find(number)
        protection = PROT_READ if flags & SHM_RDONLY else PROT_READ | PROT_WRITE
        wanted = (0o444 if flags & SHM_RDONLY else 0o666) | (0o111 if flags & SHM_EXEC else 0)
        if address and flags & SHM_RND:
            address -= address % PAGE
        if address % PAGE or (not address and flags & SHM_REMAP):
            raise SyscallError(errno.EINVAL)
        segment.permissions.check(task.process.credentials, wanted)
        if flags & SHM_EXEC:
            protection |= PROT_EXEC
        if segment.file is None or segment.readable is None:
            segment.file, segment.readable = self._kernel.shared_memory.create_segment(segment.length)
        placed = 0 if not address else MAP_FIXED if flags & SHM_REMAP else MAP_FIXED_NOREPLACE
        name = b"/SYSV%08x (deleted)" % (segment.permissions.key & 0xFFFF_FFFF)
        source = Shared(segment.readable if flags & SHM_RDONLY else segment.file, 0, shared=True, name=name)
        try:
            address = task.memory.map(address, segment.length, protection, MAP_SHARED | placed, source)
        except SyscallError as error:
            raise SyscallError(errno.EINVAL if error.number == errno.EEXIST else error.number) from None
        region = task.space.region(address)
        assert region is not None, "it was mapped just now"
        segment.number = region.file
        segment.attached_at, segment.last = int(time.time()), task.process.pid
        return address

    async def detach(self, task: Task, address: int) -> None:
        """shmdt(2): what is left of the attachment that begins there. EINVAL."""
        files = {segment.number: segment for segment in self if segment.file is not None}
        segment: Segment | None = None
        end = address + max((one.length for one in files.values()), default=0)
        for count, (region, start, stop) in enumerate(task.memory.parts(address, min(end, USER_MAX)), 1):
            if region.start - region.offset == address:
                segment = segment or files.get(region.file)
                if segment is not None and region.file == segment.number:
                    task.memory.unmap(start, stop - start)
            if not count % PARTS_AT_ONCE:
                await task.turn()
        if segment is None:
            raise SyscallError(errno.EINVAL)
        segment.detached_at, segment.last = int(time.time()), task.process.pid
        self.sweep()

    def remove(self, number: int) -> Segment:
        """IPC_RMID: nobody finds it by its key any more; it goes with the last one who has it attached."""
        segment = self.find(number)
        self.hide(number)
        segment.permissions.mode |= SHM_DEST
        self._leaving.add(number)
        self.sweep()
        return segment

    def sweep(self) -> None:
        """Some may have been detached: let go of those that were removed."""
        for number in tuple(self._leaving):
            segment = self.find(number)
            if not segment.attached:
                self._leaving.discard(number)
                super().remove(number)
                segment.close()

    def close(self) -> None:
        """The sandbox is gone."""
        for segment in self:
            segment.close()

    @staticmethod
    def limits() -> bytes:
        """struct shminfo64."""
        return _LIMITS.pack(SIZE_MAX, 1, SEGMENTS_MAX, SEGMENTS_MAX, SIZE_MAX)

    def used(self) -> bytes:
        """struct shm_info."""
        pages = sum(segment.length for segment in self) // PAGE
        there = sum(segment.length for segment in self if segment.file is not None) // PAGE
        return _USED.pack(len(self), pages, there, 0, 0, 0)

    def rows(self) -> Iterator[bytes]:
        """/proc/sysvipc/shm."""
        yield (
            b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid"
            b"      atime      dtime      ctime                   rss                  swap\n"
        )
        for number, one in self.numbered():
            who = one.permissions
            yield b"%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n" % (
                who.key, number, who.mode, one.size, one.creator, one.last, one.attached,
                who.user, who.group, who.creator_user, who.creator_group, one.attached_at, one.detached_at, one.changed_at,
                one.length if one.file is not None else 0, 0,
            )  # fmt: skip
