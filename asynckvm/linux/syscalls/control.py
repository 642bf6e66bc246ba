"""Messages in guest memory: struct msghdr, and the control messages (struct cmsghdr) that go with one.

Only layouts, and what is checked before any socket is asked. Source: sendmsg(2), recvmsg(2), cmsg(3), unix(7); net/core/scm.c.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.abi import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_CREDENTIALS,
    SCM_MAX_FD,
    SCM_RIGHTS,
    SOL_SOCKET,
)
from asynckvm.linux.sockets.address import ADDRESS_MAX
from asynckvm.linux.sockets.message import Control, Ucred
from asynckvm.linux.usercopy import IOVECS_MAX, read_iovecs

if TYPE_CHECKING:
    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.sockets.base import Socket
    from asynckvm.linux.sockets.message import Incoming
    from asynckvm.linux.task import Task

_MSGHDR: Final = struct.Struct("<Qi4xQQQQi4x")
_CMSGHDR: Final = struct.Struct("<Qii")
_UCRED: Final = struct.Struct("<III")
# net.core.optmem_max: control messages of one call.
_CONTROL_MAX: Final = 131072


class Header(NamedTuple):
    """struct msghdr, its buffers read; `at` is where it lies."""

    at: int
    name: int
    name_length: int
    buffers: list[tuple[int, int]]
    control: int
    control_length: int
    flags: int


def read_header(task: Task, at: int) -> Header:
    name, name_length, vector, count, control, control_length, flags = _MSGHDR.unpack(task.space.read(at, _MSGHDR.size))
    if name_length < 0:
        raise SyscallError(errno.EINVAL)
    if count > IOVECS_MAX:
        raise SyscallError(errno.EMSGSIZE)
    length = min(name_length, ADDRESS_MAX) if name else 0
    return Header(at, name, length, read_iovecs(task.space, vector, count), control, control_length, flags)


def write_header(task: Task, header: Header, incoming: Incoming, used: int, flags: int) -> None:
    """What recvmsg(2) tells in the header: the address, its length, the flags and how much control data there is."""
    if header.name:
        if cut := incoming.address[: header.name_length]:
            task.space.write(header.name, cut)
        task.space.write(header.at + 8, struct.pack("<i", len(incoming.address)))
    task.space.write(header.at + 48, struct.pack("<i", flags))
    task.space.write(header.at + 40, struct.pack("<Q", used))


# ---------------------------------------------------------------- sending


def read_control(task: Task, header: Header) -> list[Control]:
    """The control messages. EINVAL for one that is not whole, ENOBUFS when they are too long."""
    if header.control_length > _CONTROL_MAX:
        raise SyscallError(errno.ENOBUFS)
    if not header.control_length:
        return []
    data = task.space.read(header.control, header.control_length)
    found, at = [], 0
    while at + _CMSGHDR.size <= len(data):
        length, level, kind = _CMSGHDR.unpack_from(data, at)
        if not _CMSGHDR.size <= length <= len(data) - at:
            raise SyscallError(errno.EINVAL)
        found.append(Control(level, kind, data[at + _CMSGHDR.size : at + length]))
        at += _aligned(length)
    return found


def carried(task: Task, socket: Socket, controls: list[Control]) -> tuple[list[OpenFile], Ucred | None]:
    """The files and credentials that control messages carry: EBADF, EPERM for another's credentials, EINVAL."""
    files: list[OpenFile] = []
    credentials = None
    for control in controls:
        if control.level != SOL_SOCKET or socket.family != AF_UNIX:
            continue
        if control.type == SCM_RIGHTS:
            count = len(control.data) // 4
            if len(files) + count > SCM_MAX_FD:
                raise SyscallError(errno.EINVAL)
            files += [task.process.files.get(fd) for fd in struct.unpack_from(f"<{count}i", control.data)]
        elif control.type == SCM_CREDENTIALS:
            if len(control.data) != _UCRED.size:
                raise SyscallError(errno.EINVAL)
            credentials = Ucred(*_UCRED.unpack(control.data))
            _check_credentials(task, credentials)
        else:
            raise SyscallError(errno.EINVAL)
    return files, credentials


def _check_credentials(task: Task, claimed: Ucred) -> None:
    """Only root may claim to be somebody else."""
    own = task.process.credentials
    if own.is_root:
        return
    users, groups = (own.ruid, own.euid, own.suid), (own.rgid, own.egid, own.sgid)
    if claimed.pid != task.process.pid or claimed.user not in users or claimed.group not in groups:
        raise SyscallError(errno.EPERM)


# ---------------------------------------------------------------- receiving


class ControlWriter:
    """Fills the control buffer of a recvmsg(2) call; what does not fit is cut, and `flags` say so."""

    def __init__(self, task: Task, header: Header) -> None:
        self._task = task
        self._address = header.control
        self._left = header.control_length if header.control else 0
        self.used = 0
        self.flags = 0

    def write(self, incoming: Incoming, flags: int) -> None:
        """All control messages of what was received; its descriptors become the process's."""
        if incoming.credentials is not None:
            self._put(SOL_SOCKET, SCM_CREDENTIALS, _UCRED.pack(*incoming.credentials))
        for control in incoming.control:
            self._put(*control)
        if incoming.rights is not None:
            try:
                self._put_files(incoming.rights.files, close_on_exec=bool(flags & MSG_CMSG_CLOEXEC))
            finally:
                incoming.rights.drop()

    def _put(self, level: int, kind: int, data: bytes) -> None:
        if self._left < _CMSGHDR.size:
            self.flags |= MSG_CTRUNC
            return
        length = _CMSGHDR.size + len(data)
        if length > self._left:
            self.flags |= MSG_CTRUNC
            length = self._left
        self._task.space.write(self._address + self.used, (_CMSGHDR.pack(length, level, kind) + data)[:length])
        self._advance(length)

    def _put_files(self, files: tuple[OpenFile, ...], *, close_on_exec: bool) -> None:
        room = max(self._left - _CMSGHDR.size, 0) // 4
        numbers: list[int] = []
        for file in files[:room]:
            try:
                numbers.append(self._task.process.files.add(file, close_on_exec=close_on_exec))
            except SyscallError:
                break
        if numbers:
            data = struct.pack(f"<{len(numbers)}i", *numbers)
            self._put(SOL_SOCKET, SCM_RIGHTS, data)
        if len(numbers) < len(files):
            self.flags |= MSG_CTRUNC

    def _advance(self, length: int) -> None:
        step = min(_aligned(length), self._left)
        self.used += step
        self._left -= step


def _aligned(length: int) -> int:
    return (length + 7) & ~7
