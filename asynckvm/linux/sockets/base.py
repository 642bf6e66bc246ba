"""`Socket`: what all sockets are, whatever their family. The base refuses everything, as an open file does.

What would block raises BlockingIOError, and whoever wants to wait does so on `queue`, which is woken also when another socket
made room. Source: socket(7).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.attributes import Attributes
from asynckvm.linux.errors import ERESTARTSYS, SyscallError
from asynckvm.linux.files.open_file import FIONREAD, OpenFile
from asynckvm.linux.sockets import interfaces, options
from asynckvm.linux.sockets.abi import (
    MSG_DONTWAIT,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUT_RD,
    SHUT_RDWR,
    SHUT_WR,
    SO_RCVBUF,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SOL_SOCKET,
)
from asynckvm.linux.sockets.message import NOBODY, Outgoing
from asynckvm.linux.wait import ANYTHING, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from asynckvm.linux.sockets.message import Incoming, SocketCaller, Ucred
    from asynckvm.linux.sockets.network import Network
    from asynckvm.linux.task import Task

_INT: Final = struct.Struct("<i")
_SIOCOUTQ: Final = 0x5411
_SIOCATMARK: Final = 0x8905
# sockfs is a file system without a device of its own: an anonymous one.
_DEVICE: Final = os.makedev(0, 8)
_MODE: Final = stat.S_IFSOCK | 0o777
_SHUT: Final = {SHUT_RD: RCV_SHUTDOWN, SHUT_WR: SEND_SHUTDOWN, SHUT_RDWR: RCV_SHUTDOWN | SEND_SHUTDOWN}


class Socket(OpenFile):
    """A socket. `owner` is who made it; `error` is what SO_ERROR will tell, once; `shut` has RCV_SHUTDOWN and SEND_SHUTDOWN."""

    # Options by level; a level that is not there is answered with `no_level`.
    levels: Mapping[int, options.Table] = {SOL_SOCKET: options.SOCKET}
    no_level = errno.EOPNOTSUPP

    def __init__(self, network: Network, family: int, kind: int, protocol: int, owner: Ucred = NOBODY) -> None:
        super().__init__(os.O_RDWR)
        self.network = network
        self.family = family
        self.kind = kind
        self.protocol = protocol
        self.owner = owner
        self.inode = network.next_inode()
        self.error = 0
        self.shut = 0
        self.closed = False
        self.settings: dict[tuple[int, int], options.Value] = {}

    # ------------------------------------------------------------ names and connections

    def bind(self, address: bytes, caller: SocketCaller) -> None:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)

    def listen(self, backlog: int, caller: SocketCaller) -> None:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)

    def accept(self) -> Socket:
        """The next connection. BlockingIOError when there is none."""
        raise SyscallError(errno.EOPNOTSUPP)

    def connect(self, address: bytes, caller: SocketCaller) -> None:  # noqa: ARG002
        """BlockingIOError when it is not done yet; SyscallError(EINPROGRESS) when it goes on by itself: wait, and call again."""
        raise SyscallError(errno.EOPNOTSUPP)

    def name(self) -> bytes:
        """getsockname(2)."""
        raise SyscallError(errno.EOPNOTSUPP)

    def peer_name(self) -> bytes:
        """getpeername(2)."""
        raise SyscallError(errno.EOPNOTSUPP)

    def accepted_from(self) -> bytes:
        """What accept(2) tells of the other side."""
        return self.peer_name()

    def deciding(self, address: bytes, action: Literal["connect", "send"]) -> WaitQueue | None:  # noqa: ARG002
        """Before a connect(2) or a message to `address`: what to wait on while the network's policy thinks about it, then ask
        again. None when the call can be made."""
        return None

    def shutdown(self, how: int) -> None:  # noqa: ARG002
        raise SyscallError(errno.EOPNOTSUPP)

    @property
    def is_listening(self) -> bool:
        return False

    # ------------------------------------------------------------ messages

    def send(self, message: Outgoing) -> int:  # noqa: ARG002
        """How many bytes were taken: all of a message, what there was room for of a stream."""
        raise SyscallError(errno.EOPNOTSUPP)

    def receive(self, length: int, flags: int) -> Incoming:  # noqa: ARG002
        """At most `length` bytes, or one message. `flags` are MSG_*; BlockingIOError when there is nothing yet."""
        raise SyscallError(errno.EOPNOTSUPP)

    def read(self, length: int) -> bytes:
        incoming = self.receive(length, MSG_DONTWAIT if self.nonblocking else 0)
        if incoming.rights is not None:
            incoming.rights.drop()
        return incoming.data

    async def read_for(self, task: Task, length: int) -> bytes:
        """As recv(2): SO_RCVTIMEO bounds the wait, which is not restarted then."""
        duration = self.setting(SO_RCVTIMEO)
        until = time.monotonic_ns() + duration if duration else None
        while True:
            try:
                return self.read(length)
            except BlockingIOError:
                if self.nonblocking:
                    raise
            try:
                if not await task.wait(self.queue, until=until):
                    raise SyscallError(errno.EAGAIN)
            except SyscallError as error:
                timed = until is not None and error.number == ERESTARTSYS
                raise SyscallError(errno.EINTR if timed else error.number) from None

    def write(self, data: bytes) -> int:
        return self.send(Outgoing(data, MSG_DONTWAIT if self.nonblocking else 0))

    # ------------------------------------------------------------ options

    def get_option(self, level: int, name: int) -> bytes:
        """The option's value as getsockopt(2) writes it."""
        return self._option(level, name).get(self, (level, name))

    def set_option(self, level: int, name: int, value: bytes) -> None:
        self._option(level, name).set(self, (level, name), value)

    def _option(self, level: int, name: int) -> options.Option:
        table = self.levels.get(level)
        if table is None:
            raise SyscallError(self.no_level)
        option = table.get(name)
        if option is None:
            raise SyscallError(errno.ENOPROTOOPT)
        return option

    def setting(self, name: int, level: int = SOL_SOCKET) -> int:
        """The value of an option that is a number."""
        value = self.settings.get((level, name), self.levels[level][name].default)
        return value if isinstance(value, int) else 0

    def option_changed(self, level: int, name: int) -> None:
        """An option has a new value."""

    @property
    def receive_buffer(self) -> int:
        return self.setting(SO_RCVBUF)

    @property
    def send_buffer(self) -> int:
        return self.setting(SO_SNDBUF)

    @property
    def peer_credentials(self) -> Ucred:
        return NOBODY

    # ------------------------------------------------------------ errors and the rest

    def take_error(self) -> int:
        """The error that waits to be told; it is told once."""
        error, self.error = self.error, 0
        return error

    def raise_error(self) -> None:
        if self.error:
            raise SyscallError(self.take_error())

    def fail(self, error: int) -> None:
        """Something went wrong apart from any call."""
        self.error = error
        self.queue.wake(ANYTHING)

    def attributes(self) -> Attributes:
        return Attributes(_DEVICE, self.inode, _MODE, user=self.owner.user, group=self.owner.group)

    def describe(self) -> bytes:
        return b"socket:[%d]" % self.inode

    # ------------------------------------------------------------ ioctl

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if request in (FIONREAD, _SIOCOUTQ, _SIOCATMARK):
            if request == _SIOCATMARK:
                value = int(self.at_mark)
            else:
                value = self.pending_input() if request == FIONREAD else self.pending_output()
            task.space.write(argument, _INT.pack(value))
        elif interfaces.is_request(request):
            task.space.write(argument, interfaces.answer(request, task.space.read(argument, interfaces.IFREQ_SIZE)))
        elif request == interfaces.SIOCGIFCONF:
            room, buffer = interfaces.IFCONF.unpack(task.space.read(argument, interfaces.IFCONF.size))
            records = interfaces.configuration()
            if buffer:
                records = records if room >= len(records) else b""
                task.space.write(buffer, records)
            task.space.write(argument, _INT.pack(len(records)))
        else:
            raise SyscallError(errno.ENOTTY)
        return 0

    @property
    def at_mark(self) -> bool:
        """sockatmark(3): only TCP has such marks."""
        raise SyscallError(errno.ENOTTY)

    def pending_input(self) -> int:
        """FIONREAD: bytes of a stream, or of the next message."""
        raise SyscallError(errno.EINVAL)

    def pending_output(self) -> int:
        """SIOCOUTQ."""
        raise SyscallError(errno.EINVAL)


def shutdown_bits(how: int) -> int:
    """RCV_SHUTDOWN and SEND_SHUTDOWN for SHUT_*; EINVAL for anything else."""
    if how not in _SHUT:
        raise SyscallError(errno.EINVAL)
    return _SHUT[how]
