"""fcntl(2)'s commands about who is told of a file's events and with which signal, leases and F_NOTIFY included."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux import dnotify
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.owner import Kind, owner_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

_F_SETOWN, _F_GETOWN, _F_SETSIG, _F_GETSIG, _F_SETOWN_EX, _F_GETOWN_EX = 8, 9, 10, 11, 15, 16
_F_SETLEASE, _F_GETLEASE, _F_NOTIFY = 1024, 1025, 1026
_F_OWNER_EX: Final = struct.Struct("<ii")
_INT: Final = struct.Struct("<i")


def _set_owner(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    """A negative number is that of a process group."""
    (number,) = _INT.unpack((argument & 0xFFFF_FFFF).to_bytes(4, "little"))
    if number == -(1 << 31):
        raise SyscallError(errno.EINVAL)
    owner_of(task, file).name(task, Kind.GROUP if number < 0 else Kind.PROCESS, abs(number))
    return 0


def _get_owner(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    owner = owner_of(task, file)
    return -owner.named if owner.kind is Kind.GROUP else owner.named


def _set_owner_ex(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    kind, number = _F_OWNER_EX.unpack(task.space.read(argument, _F_OWNER_EX.size))
    if kind not in tuple(Kind):
        raise SyscallError(errno.EINVAL)
    if number < 0:
        raise SyscallError(errno.ESRCH)
    owner_of(task, file).name(task, Kind(kind), number)
    return 0


def _get_owner_ex(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    owner = owner_of(task, file)
    task.space.write(argument, _F_OWNER_EX.pack(owner.kind, owner.named))
    return 0


def _set_signal(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    owner_of(task, file).set_signal(argument)
    return 0


def _get_signal(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    return owner_of(task, file).signal


def _set_lease(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    task.process.kernel.leases.set(task, file, argument)
    return 0


def _get_lease(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    return task.process.kernel.leases.get(file)


def _notify(task: Task, file: OpenFile, command: int, argument: int) -> int:  # noqa: ARG001
    dnotify.notify(task, file, argument & 0xFFFF_FFFF)
    return 0


COMMANDS: Final[dict[int, Callable[[Task, OpenFile, int, int], int]]] = {
    _F_SETOWN: _set_owner,
    _F_GETOWN: _get_owner,
    _F_SETSIG: _set_signal,
    _F_GETSIG: _get_signal,
    _F_SETOWN_EX: _set_owner_ex,
    _F_GETOWN_EX: _get_owner_ex,
    _F_SETLEASE: _set_lease,
    _F_GETLEASE: _get_lease,
    _F_NOTIFY: _notify,
}
