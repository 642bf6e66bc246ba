"""System calls that know files and file systems by other names than paths: numbered handles, numbered types.

A handle can be made and compared, and not be opened: that takes CAP_DAC_READ_SEARCH of a whole file system, which no guest has.
Source: name_to_handle_at(2), open_by_handle_at(2), sysfs(2).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls.paths import AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, check_flags, locate
from asynckvm.linux.vfs import PATH_MAX

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_AT_HANDLE_CONNECTABLE: Final = 0x2
_AT_HANDLE_FID: Final = 0x200
_HANDLE_MAX: Final = 128
_HEADER: Final = struct.Struct("<Ii")
# FILEID_INO64_GEN: the file's number, and a generation, of which there is one.
_TYPE: Final = 0x81
_CONTENT: Final = struct.Struct("<QI")
_NUMBER_OF, _NAME_OF, _COUNT = 1, 2, 3


def name_to_handle_at(task: Task, directory: int, path: bytes, handle: int, mount: int, flags: int) -> int:
    """The handle's length is told even when there is no room for it."""
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | _AT_HANDLE_FID | _AT_HANDLE_CONNECTABLE)
    if flags & _AT_HANDLE_CONNECTABLE and flags & (_AT_HANDLE_FID | AT_EMPTY_PATH):
        raise SyscallError(errno.EINVAL)
    unfollowed = 0 if flags & AT_SYMLINK_FOLLOW else AT_SYMLINK_NOFOLLOW
    location = locate(task, directory, path, flags & AT_EMPTY_PATH | unfollowed)
    room, _ = _HEADER.unpack(task.space.read(handle, _HEADER.size))
    if room > _HANDLE_MAX:
        raise SyscallError(errno.EINVAL)
    task.space.write(mount, struct.pack("<i", location.mount.number))
    if room < _CONTENT.size:
        task.space.write(handle, _HEADER.pack(_CONTENT.size, 0))
        raise SyscallError(errno.EOVERFLOW)
    content = _CONTENT.pack(location.node.attributes().inode, 0)
    task.space.write(handle, _HEADER.pack(_CONTENT.size, _TYPE) + content)
    return 0


def open_by_handle_at(task: Task, *_: object) -> int:  # noqa: ARG001
    raise SyscallError(errno.EPERM)


def sysfs(task: Task, option: int, first: int, second: int) -> int:
    """Types of file systems, by number and by name."""
    kinds = task.process.fs.mounts.kinds
    if option == _NUMBER_OF:
        name = task.space.read_string(first, PATH_MAX - 1)
        if name not in kinds:
            raise SyscallError(errno.EINVAL)
        return kinds.index(name)
    if option == _NAME_OF:
        if first >= len(kinds):
            raise SyscallError(errno.EINVAL)
        task.space.write(second, kinds[first] + b"\0")
        return 0
    if option == _COUNT:
        return len(kinds)
    raise SyscallError(errno.EINVAL)
