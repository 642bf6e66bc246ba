"""System calls on sockets, except for their messages (`messages`): making, naming, connecting them, and their options.

Source: socket(2), bind(2), connect(2), accept(2), getsockopt(2); net/socket.c for the order of errors.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.sockets import families
from asynckvm.linux.sockets.abi import MSG_DONTWAIT, SO_RCVTIMEO, SO_SNDTIMEO
from asynckvm.linux.sockets.address import ADDRESS_MAX
from asynckvm.linux.sockets.base import Socket
from asynckvm.linux.sockets.message import SocketCaller, Ucred
from asynckvm.linux.syscalls import descriptors, paths
from asynckvm.linux.vfs import names, resolve

if TYPE_CHECKING:
    from typing import Self

    from asynckvm.linux.sockets.network import Network
    from asynckvm.linux.task import Task

_INT: Final = struct.Struct("<i")
_TYPE_MASK: Final = 0xF
_SOCK_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
# The longest option value that is looked at.
_OPTION_MAX: Final = 4096


# ---------------------------------------------------------------- what the calls share


def network_of(task: Task) -> Network:
    return task.process.kernel.network


def get_socket(task: Task, fd: int) -> Socket:
    """EBADF, or ENOTSOCK for another kind of file."""
    file = task.process.files.get_open(fd)
    if not isinstance(file, Socket):
        raise SyscallError(errno.ENOTSOCK)
    return file


def socket_caller(task: Task) -> SocketCaller:
    def make_node(path: bytes, socket: object) -> object:
        try:
            made = names.make(paths.caller_of(task), task.process.fs.directory, path, stat.S_IFSOCK | 0o777)
        except SyscallError as error:
            raise SyscallError(errno.EADDRINUSE if error.number == errno.EEXIST else error.number) from None
        except FileExistsError:
            raise SyscallError(errno.EADDRINUSE) from None
        endpoint = made.node.endpoint()
        endpoint.socket = socket
        return endpoint

    def find_node(path: bytes) -> object:
        caller = paths.caller_of(task)
        node = resolve(caller, task.process.fs.directory, path).node
        caller.check(node.attributes(), os.W_OK)
        if not stat.S_ISSOCK(node.type):
            raise SyscallError(errno.ECONNREFUSED)
        return node.endpoint().socket

    return SocketCaller(Ucred.of(task), make_node, find_node)


def read_address(task: Task, pointer: int, length: int) -> bytes:
    if not 0 <= length <= ADDRESS_MAX:
        raise SyscallError(errno.EINVAL)
    address: bytes = task.space.read(pointer, length) if length else b""
    return address


def write_address(task: Task, address: bytes, pointer: int, length_pointer: int) -> None:
    """As much of `address` as the guest has room for, and its whole length."""
    (room,) = _INT.unpack(task.space.read(length_pointer, _INT.size))
    if room < 0:
        raise SyscallError(errno.EINVAL)
    if cut := address[:room]:
        task.space.write(pointer, cut)
    task.space.write(length_pointer, _INT.pack(len(address)))


class Patience:
    """How long one call waits for a socket: for ever, for its SO_RCVTIMEO or SO_SNDTIMEO, or not at all.

    A context: in it the socket stays open, though another thread may close the descriptor meanwhile.
    """

    def __init__(self, task: Task, socket: Socket, option: int, flags: int = 0) -> None:
        self._task = task
        self._socket = socket
        self.none = bool(flags & MSG_DONTWAIT) or socket.nonblocking
        duration = socket.setting(option)
        self._until = time.monotonic_ns() + duration if duration else None

    def __enter__(self) -> Self:
        self._socket.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.release()

    async def wait(self, late: int = errno.EAGAIN) -> None:
        """Until the socket changes. SyscallError(late) when there is no time left; a timed wait is never restarted."""
        if self.none:
            raise SyscallError(errno.EAGAIN)
        try:
            if not await self._task.wait(self._socket.queue, until=self._until):
                raise SyscallError(late)
        except SyscallError as error:
            if error.number == ERESTARTSYS and self._until is not None:
                raise SyscallError(errno.EINTR) from None
            raise


# ---------------------------------------------------------------- making


def _split_type(kind: int) -> tuple[int, int]:
    """(type, flags)."""
    if kind & ~(_TYPE_MASK | _SOCK_FLAGS):
        raise SyscallError(errno.EINVAL)
    return kind & _TYPE_MASK, kind & _SOCK_FLAGS


def _install(task: Task, made: Socket, flags: int) -> int:
    made.flags |= flags & os.O_NONBLOCK
    return task.process.files.add(made, close_on_exec=bool(flags & os.O_CLOEXEC))


def socket(task: Task, family: int, kind: int, protocol: int) -> int:
    kind, flags = _split_type(kind)
    return _install(task, families.create(network_of(task), family, kind, protocol, Ucred.of(task)), flags)


def socketpair(task: Task, family: int, kind: int, protocol: int, pointer: int) -> int:
    kind, flags = _split_type(kind)
    pair = families.pair(network_of(task), family, kind, protocol, Ucred.of(task))
    for made in pair:
        made.flags |= flags & os.O_NONBLOCK
    return descriptors.add_pair(task, pointer, pair, close_on_exec=bool(flags & os.O_CLOEXEC))


# ---------------------------------------------------------------- names and connections


def bind(task: Task, fd: int, pointer: int, length: int) -> int:
    bound = get_socket(task, fd)
    bound.bind(read_address(task, pointer, length), socket_caller(task))
    return 0


def listen(task: Task, fd: int, backlog: int) -> int:
    get_socket(task, fd).listen(backlog, socket_caller(task))
    return 0


async def accept(task: Task, fd: int, pointer: int, length_pointer: int) -> int:
    return await accept4(task, fd, pointer, length_pointer, 0)


async def accept4(task: Task, fd: int, pointer: int, length_pointer: int, flags: int) -> int:
    if flags & ~_SOCK_FLAGS:
        raise SyscallError(errno.EINVAL)
    listener = get_socket(task, fd)
    with Patience(task, listener, SO_RCVTIMEO) as patience:
        while True:
            task.process.files.check_room()  # what was taken out of the backlog could not be put back
            try:
                accepted = listener.accept()
                break
            except BlockingIOError:
                await patience.wait()
    number = _install(task, accepted, flags)
    if pointer:
        try:
            write_address(task, accepted.accepted_from(), pointer, length_pointer)
        except BaseException:
            task.process.files.close(number)
            raise
    return number


async def connect(task: Task, fd: int, pointer: int, length: int) -> int:
    connecting = get_socket(task, fd)
    address = read_address(task, pointer, length)
    caller = socket_caller(task)
    with Patience(task, connecting, SO_SNDTIMEO) as patience:
        while (deciding := connecting.deciding(address, "connect")) is not None:
            await task.wait(deciding)
        while True:
            try:
                connecting.connect(address, caller)
            except BlockingIOError:
                await patience.wait()
            except SyscallError as error:
                if patience.none or error.number not in (errno.EINPROGRESS, errno.EALREADY):
                    raise
                if error.number == errno.EALREADY:
                    await patience.wait(late=errno.EINPROGRESS)
            else:
                return 0


def getsockname(task: Task, fd: int, pointer: int, length_pointer: int) -> int:
    write_address(task, get_socket(task, fd).name(), pointer, length_pointer)
    return 0


def getpeername(task: Task, fd: int, pointer: int, length_pointer: int) -> int:
    write_address(task, get_socket(task, fd).peer_name(), pointer, length_pointer)
    return 0


def shutdown(task: Task, fd: int, how: int) -> int:
    get_socket(task, fd).shutdown(how)
    return 0


# ---------------------------------------------------------------- options


def setsockopt(task: Task, fd: int, level: int, name: int, pointer: int, length: int) -> int:
    changed = get_socket(task, fd)
    if length < 0:
        raise SyscallError(errno.EINVAL)
    value = task.space.read(pointer, min(length, _OPTION_MAX)) if length else b""
    changed.set_option(level, name, value)
    return 0


def getsockopt(task: Task, fd: int, level: int, name: int, pointer: int, length_pointer: int) -> int:
    asked = get_socket(task, fd)
    (room,) = _INT.unpack(task.space.read(length_pointer, _INT.size))
    if room < 0:
        raise SyscallError(errno.EINVAL)
    value = asked.get_option(level, name)[:room]
    if value:
        task.space.write(pointer, value)
    task.space.write(length_pointer, _INT.pack(len(value)))
    return 0
