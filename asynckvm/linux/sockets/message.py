"""What goes into a socket and what comes out of it, as values that system calls and sockets hand each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asynckvm.linux.files.open_file import OpenFile
    from asynckvm.linux.sockets.rights import Rights
    from asynckvm.linux.task import Task


class Ucred(NamedTuple):
    """struct ucred."""

    pid: int = 0
    user: int = 0xFFFF_FFFF
    group: int = 0xFFFF_FFFF

    @classmethod
    def of(cls, task: Task) -> Ucred:
        """Who makes a system call now."""
        credentials = task.process.credentials
        return cls(task.process.pid, credentials.euid, credentials.egid)


NOBODY = Ucred()


class Control(NamedTuple):
    """One control message (struct cmsghdr and its data)."""

    level: int
    type: int
    data: bytes


class SocketCaller(NamedTuple):
    """Who makes a system call, as far as sockets must know; paths are theirs, so that no socket knows a file system.

    `make_node(path, socket)` makes a socket file (EADDRINUSE if there is something); what it returns is kept as long as the
    socket is bound. `find_node(path)` returns the socket again (ECONNREFUSED when the file is none).
    """

    credentials: Ucred
    make_node: Callable[[bytes, object], object]
    find_node: Callable[[bytes], object]


@dataclass(slots=True)
class Outgoing:
    """A message to send. `address` is None when the caller named no receiver; `files` go with it as SCM_RIGHTS.

    `caller` is None for write(2): then nothing has to be looked up by path.
    """

    data: bytes
    flags: int = 0
    address: bytes | None = None
    files: Sequence[OpenFile] = ()
    credentials: Ucred | None = None
    control: Sequence[Control] = ()
    caller: SocketCaller | None = None
    # How many descriptors may be in flight at once for this sender.
    files_limit: int = 1024


@dataclass(slots=True)
class Incoming:
    """What was received. `length` is that of the whole message, of which `data` may be the beginning; `flags` are MSG_*."""

    data: bytes
    length: int = -1
    flags: int = 0
    address: bytes = b""
    rights: Rights | None = None
    credentials: Ucred | None = None
    control: list[Control] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.length < 0:
            self.length = len(self.data)
