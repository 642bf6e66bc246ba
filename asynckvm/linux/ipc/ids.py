"""Keys, numbers and permissions of System V objects, whatever they are. Source: sysvipc(7), ipc/util.c."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.linux.credentials import Credentials

IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_PRIVATE: Final = 0
# A number is an index and how often that index was used before.
_INDEXES: Final = 32768
_SEQUENCES: Final = 65536
# struct ipc64_perm.
_PERMISSIONS: Final = struct.Struct("<iIIIIIHH4xQQ")
PERMISSIONS_BYTES: Final = _PERMISSIONS.size


class Permissions:
    """Who made an object, who owns it, and what others may do with it."""

    def __init__(self, key: int, mode: int, credentials: Credentials) -> None:
        self.key = key
        self.user = self.creator_user = credentials.euid
        self.group = self.creator_group = credentials.egid
        self.mode = mode & 0o777
        self.sequence = 0

    def check(self, credentials: Credentials, wanted: int) -> None:
        """`wanted` as permission bits of any class. EACCES."""
        if credentials.is_root:
            return
        granted, groups = self.mode, (credentials.egid, *credentials.groups)
        if credentials.euid in (self.user, self.creator_user):
            granted >>= 6
        elif self.group in groups or self.creator_group in groups:
            granted >>= 3
        if (wanted >> 6 | wanted >> 3 | wanted) & ~granted & 7:
            raise SyscallError(errno.EACCES)

    def check_owner(self, credentials: Credentials) -> None:
        """For changes and the end. EPERM."""
        if not credentials.is_root and credentials.euid not in (self.user, self.creator_user):
            raise SyscallError(errno.EPERM)

    def change(self, image: bytes) -> None:
        """IPC_SET: owner, group and mode."""
        _, self.user, self.group, _, _, mode, *_ = _PERMISSIONS.unpack_from(image)
        self.mode = mode & 0o777

    def pack(self) -> bytes:
        owner = self.user, self.group, self.creator_user, self.creator_group
        return _PERMISSIONS.pack(self.key, *owner, self.mode, self.sequence, 0, 0, 0)


class IpcObject(Protocol):
    """What a table holds."""

    permissions: Permissions


T = TypeVar("T", bound=IpcObject)


class IpcTable(Generic[T]):
    """All objects of one kind in a sandbox. At most `limit` of them (ENOSPC)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._objects: dict[int, T] = {}  # by index
        self._keys: dict[int, int] = {}
        self._sequences: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def numbered(self) -> list[tuple[int, T]]:
        return [(self._number(index), found) for index, found in self._objects.items()]

    @property
    def highest(self) -> int:
        """The highest index in use."""
        return max(self._objects, default=0)

    def get(
        self, key: int, flags: int, credentials: Credentials, make: Callable[[Permissions], T], check: Callable[[T], None]
    ) -> int:
        """As semget, msgget and shmget find or `make` an object; `check` looks at one that exists."""
        index = self._keys.get(key) if key != IPC_PRIVATE else None
        if index is not None:
            if flags & IPC_CREAT and flags & IPC_EXCL:
                raise SyscallError(errno.EEXIST)
            found = self._objects[index]
            check(found)
            found.permissions.check(credentials, flags & 0o777)
            return self._number(index)
        if key != IPC_PRIVATE and not flags & IPC_CREAT:
            raise SyscallError(errno.ENOENT)
        if len(self._objects) >= self._limit:
            raise SyscallError(errno.ENOSPC)
        index = next(index for index in range(_INDEXES) if index not in self._objects)
        permissions = Permissions(key, flags, credentials)
        permissions.sequence = self._sequences.get(index, 0)
        self._objects[index] = make(permissions)
        if key != IPC_PRIVATE:
            self._keys[key] = index
        return self._number(index)

    def find(self, number: int) -> T:
        """EINVAL when there is none; EIDRM when its index belongs to another one by now."""
        found = self._objects.get(number % _INDEXES) if number >= 0 else None
        if found is None:
            raise SyscallError(errno.EINVAL)
        if number != self._number(number % _INDEXES):
            raise SyscallError(errno.EIDRM)
        return found

    def at(self, index: int) -> tuple[int, T]:
        """Number and object at an index, for MSG_STAT and the like. EINVAL."""
        found = self._objects.get(index)
        if found is None:
            raise SyscallError(errno.EINVAL)
        return self._number(index), found

    def hide(self, number: int) -> None:
        """Nobody finds it by its key any more."""
        permissions = self.find(number).permissions
        if permissions.key != IPC_PRIVATE:
            del self._keys[permissions.key]
            permissions.key = IPC_PRIVATE

    def remove(self, number: int) -> T:
        found = self.find(number)
        self.hide(number)
        index = number % _INDEXES
        del self._objects[index]
        self._sequences[index] = (found.permissions.sequence + 1) % _SEQUENCES
        return found

    def _number(self, index: int) -> int:
        return self._objects[index].permissions.sequence * _INDEXES + index
