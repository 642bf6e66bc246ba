"""System calls on user and group numbers and on capabilities. Source: credentials(7), setresuid(2), capget(2), kernel/sys.c.

The root of a sandbox passes its permission checks and may become anybody; what that lets it do to the host is nothing at all.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.usercopy import read_uint32

if TYPE_CHECKING:
    from asynckvm.linux.credentials import Credentials
    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

_KEEP: Final = 0xFFFF_FFFF
_GROUPS_MAX: Final = 65536
_CAPABILITY_VERSIONS: Final = {0x1998_0330: 1, 0x2007_1026: 2, 0x2008_0522: 2}
_CAPABILITY_VERSION: Final = 0x2008_0522


def getuid(task: Task) -> int:
    return task.process.credentials.ruid


def geteuid(task: Task) -> int:
    return task.process.credentials.euid


def getgid(task: Task) -> int:
    return task.process.credentials.rgid


def getegid(task: Task) -> int:
    return task.process.credentials.egid


def getresuid(task: Task, real: int, effective: int, saved: int) -> int:
    credentials = task.process.credentials
    return _write_three(task, (real, effective, saved), (credentials.ruid, credentials.euid, credentials.suid))


def getresgid(task: Task, real: int, effective: int, saved: int) -> int:
    credentials = task.process.credentials
    return _write_three(task, (real, effective, saved), (credentials.rgid, credentials.egid, credentials.sgid))


def _write_three(task: Task, pointers: tuple[int, ...], values: tuple[int, ...]) -> int:
    for pointer, value in zip(pointers, values, strict=True):
        task.space.write(pointer, struct.pack("<I", value))
    return 0


# ---------------------------------------------------------------- changing numbers


def setresuid(task: Task, real: int, effective: int, saved: int) -> int:
    old = task.process.credentials
    new = _three((real, effective, saved), (old.ruid, old.euid, old.suid), allowed=old.is_root)
    return _set(task.process, old.replace(ruid=new[0], euid=new[1], suid=new[2]))


def setresgid(task: Task, real: int, effective: int, saved: int) -> int:
    old = task.process.credentials
    new = _three((real, effective, saved), (old.rgid, old.egid, old.sgid), allowed=old.is_root)
    return _set(task.process, old.replace(rgid=new[0], egid=new[1], sgid=new[2]))


def _three(wanted: tuple[int, int, int], old: tuple[int, int, int], *, allowed: bool) -> list[int]:
    if not allowed and any(number != _KEEP and number not in old for number in wanted):
        raise SyscallError(errno.EPERM)
    return [before if number == _KEEP else number for number, before in zip(wanted, old, strict=True)]


def setreuid(task: Task, real: int, effective: int) -> int:
    old = task.process.credentials
    ruid, euid, saves = _two(real, effective, (old.ruid, old.euid, old.suid), allowed=old.is_root)
    return _set(task.process, old.replace(ruid=ruid, euid=euid, suid=euid if saves else old.suid))


def setregid(task: Task, real: int, effective: int) -> int:
    old = task.process.credentials
    rgid, egid, saves = _two(real, effective, (old.rgid, old.egid, old.sgid), allowed=old.is_root)
    return _set(task.process, old.replace(rgid=rgid, egid=egid, sgid=egid if saves else old.sgid))


def _two(real: int, effective: int, old: tuple[int, int, int], *, allowed: bool) -> tuple[int, int, bool]:
    """New real and effective number, and whether the saved one follows the effective."""
    if not allowed and ((real != _KEEP and real not in old[:2]) or (effective != _KEEP and effective not in old)):
        raise SyscallError(errno.EPERM)
    new_real = old[0] if real == _KEEP else real
    new_effective = old[1] if effective == _KEEP else effective
    return new_real, new_effective, real != _KEEP or (effective != _KEEP and new_effective != old[0])


def setuid(task: Task, user: int) -> int:
    old = task.process.credentials
    if user == _KEEP:
        raise SyscallError(errno.EINVAL)
    if old.is_root:
        return _set(task.process, old.replace(ruid=user, euid=user, suid=user))
    if user not in (old.ruid, old.suid):
        raise SyscallError(errno.EPERM)
    return _set(task.process, old.replace(euid=user))


def setgid(task: Task, group: int) -> int:
    old = task.process.credentials
    if group == _KEEP:
        raise SyscallError(errno.EINVAL)
    if old.is_root:
        return _set(task.process, old.replace(rgid=group, egid=group, sgid=group))
    if group not in (old.rgid, old.sgid):
        raise SyscallError(errno.EPERM)
    return _set(task.process, old.replace(egid=group))


def setfsuid(task: Task, user: int) -> int:  # noqa: ARG001
    """The number for file access is always the effective one here; asking for it is what programs do with this call."""
    return task.process.credentials.euid


def setfsgid(task: Task, group: int) -> int:  # noqa: ARG001
    return task.process.credentials.egid


def _set(process: Process, new: Credentials) -> int:
    old = process.credentials
    if (new.euid, new.egid) != (old.euid, old.egid):
        process.death_signal = 0
        process.dumpable = 0
    if 0 in (old.ruid, old.euid, old.suid) and 0 not in (new.ruid, new.euid, new.suid):
        new = new.replace(permitted=old.permitted_capabilities if new.keep_capabilities else 0, effective=0)
    elif old.euid == 0 and new.euid != 0:
        new = new.replace(effective=0)
    elif old.euid != 0 and new.euid == 0:
        new = new.replace(effective=None if new.permitted is None else new.permitted)
    process.credentials = new
    return 0


# ---------------------------------------------------------------- groups and capabilities


def getgroups(task: Task, size: int, buffer: int) -> int:
    groups = task.process.credentials.groups
    if size < 0 or (size and size < len(groups)):
        raise SyscallError(errno.EINVAL)
    if size:
        task.space.write(buffer, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


def setgroups(task: Task, size: int, buffer: int) -> int:
    process = task.process
    if not process.credentials.is_root:
        raise SyscallError(errno.EPERM)
    if not 0 <= size <= _GROUPS_MAX:
        raise SyscallError(errno.EINVAL)
    groups = struct.unpack(f"<{size}I", task.space.read(buffer, 4 * size)) if size else ()
    process.credentials = process.credentials.replace(groups=tuple(sorted(set(groups))))
    return 0


def capget(task: Task, header: int, data: int) -> int:
    words = _capability_words(task, header)
    pid = read_uint32(task.space, header + 4)
    if pid >> 31:
        raise SyscallError(errno.EINVAL)
    target = task.process.kernel.tasks.get(pid) if pid else task
    if target is None:
        raise SyscallError(errno.ESRCH)
    if data:
        credentials = target.process.credentials
        sets = credentials.effective_capabilities, credentials.permitted_capabilities, credentials.inheritable
        rows = [tuple(value >> 32 * half & 0xFFFF_FFFF for value in sets) for half in range(words)]
        task.space.write(data, b"".join(struct.pack("<III", *row) for row in rows))
    return 0


def capset(task: Task, header: int, data: int) -> int:
    """A process can only drop what it has. Dropping changes what is told back; permission checks go by user numbers."""
    words = _capability_words(task, header)
    if read_uint32(task.space, header + 4) not in (0, task.tid):
        raise SyscallError(errno.EPERM)
    rows = list(struct.iter_unpack("<III", task.space.read(data, 12 * words)))
    effective, permitted, inheritable = (sum(row[kind] << 32 * half for half, row in enumerate(rows)) for kind in range(3))
    old = task.process.credentials
    may_inherit = old.inheritable | old.permitted_capabilities
    if permitted & ~old.permitted_capabilities or effective & ~permitted or inheritable & ~may_inherit:
        raise SyscallError(errno.EPERM)
    ambient = old.ambient & permitted & inheritable
    task.process.credentials = old.replace(permitted=permitted, effective=effective, inheritable=inheritable, ambient=ambient)
    return 0


def _capability_words(task: Task, header: int) -> int:
    version = read_uint32(task.space, header)
    if version not in _CAPABILITY_VERSIONS:
        task.space.write(header, struct.pack("<I", _CAPABILITY_VERSION))
        raise SyscallError(errno.EINVAL)
    return _CAPABILITY_VERSIONS[version]
