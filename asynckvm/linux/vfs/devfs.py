"""/dev: devices that are objects of this process, none of them the host's; and /dev/pts, the terminals of the sandbox.

Source: null(4), full(4), random(4), tty(4), pts(4), Documentation/admin-guide/devices.txt for the numbers.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files import CHUNK, OpenFile
from asynckvm.linux.vfs.node import Node
from asynckvm.linux.vfs.synthetic import Directory, FixedDirectory, Link, Name, Synthetic, SyntheticFileSystem, inode_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.task import Task
    from asynckvm.linux.tty import Terminals
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location

_DEV_MAGIC: Final = 0x01021994  # it looks like a tmpfs, as devtmpfs does
_PTS_MAGIC: Final = 0x1CD1
_ZEROS: Final = bytes(CHUNK)
# What the random devices say they have, as Linux does since it stopped counting; and the request that asks.
_ENTROPY: Final = 256
_RNDGETENTCNT: Final = 0x80045200
# /dev/pts has 256 names at most; none is longer.
_DIGITS: Final = 3


# ---------------------------------------------------------------- memory devices


class Null(OpenFile):
    """At its end always; takes everything. `node` has its attributes."""

    def __init__(self, node: Synthetic, flags: int) -> None:
        super().__init__(flags)
        self._node = node

    @property
    def positioned(self) -> bool:
        return True

    def read(self, length: int) -> bytes:  # noqa: ARG002
        return b""

    def write(self, data: bytes) -> int:
        return len(data)

    def pread(self, length: int, offset: int) -> bytes:  # noqa: ARG002
        return self.read(length)

    def pwrite(self, data: bytes, offset: int) -> int:  # noqa: ARG002
        return self.write(data)

    def seek(self, offset: int, whence: int) -> int:
        """There is only one place."""
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise SyscallError(errno.EINVAL)
        if not -INT64_MAX <= offset <= INT64_MAX:
            raise SyscallError(errno.EINVAL)
        return 0

    def attributes(self) -> Attributes:
        return self._node.attributes()


class Zero(Null):
    """Zeros without end."""

    maps_zeros = True

    def read(self, length: int) -> bytes:
        return _ZEROS[:length]


class Full(Zero):
    """Zeros to read, no room to write."""

    maps_zeros = False

    def write(self, data: bytes) -> int:
        if data:
            raise SyscallError(errno.ENOSPC)
        return 0


class Random(Null):
    """The host's random numbers, which never run out; what is written is nothing it needs."""

    def read(self, length: int) -> bytes:
        return os.urandom(min(length, CHUNK))

    def ioctl(self, task: Task, request: int, argument: int) -> int:
        if request != _RNDGETENTCNT:
            raise SyscallError(errno.ENOTTY)
        task.space.write(argument, _ENTROPY.to_bytes(4, "little"))
        return 0

    @property
    def pollable(self) -> bool:
        return True


# ---------------------------------------------------------------- nodes


class _Device(Synthetic):
    """A character device with its numbers. `make` opens it."""

    def __init__(
        self,
        fs: SyntheticFileSystem,
        name: bytes,
        numbers: tuple[int, int],
        make: Callable[[Synthetic, int], OpenFile],
        mode: int = 0o666,
    ) -> None:
        super().__init__(fs, name, stat.S_IFCHR | mode)
        self._numbers = numbers
        self._make = make

    @property
    def special(self) -> int:
        return os.makedev(*self._numbers)

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        return self._make(self, flags)


class _ControllingTerminal(_Device):
    """/dev/tty: the terminal of whoever opens it."""

    def __init__(self, fs: SyntheticFileSystem, terminals: Terminals, caller: Caller) -> None:
        super().__init__(fs, b"tty", (5, 0), self._open)
        self._terminals = terminals
        self._caller = caller

    def seen_by(self, caller: Caller) -> Node:
        return _ControllingTerminal(self.fs, self._terminals, caller)

    def _open(self, node: Synthetic, flags: int) -> OpenFile:  # noqa: ARG002
        if self._caller.task is None:
            raise SyscallError(errno.ENXIO)
        return self._terminals.open_controlling(self._caller.task, flags)


class DevFileSystem(SyntheticFileSystem):
    """Mount it on /dev; a tmpfs belongs on its directory `shm`, a `TerminalFileSystem` on `pts`."""

    def __init__(self, terminals: Terminals) -> None:
        self.terminals = terminals
        super().__init__(b"devtmpfs", _DEV_MAGIC)

    def make_root(self) -> Directory:
        return _Root(self, self.terminals)


class _Root(FixedDirectory):
    def __init__(self, fs: SyntheticFileSystem, terminals: Terminals) -> None:
        super().__init__(fs, b"", 0o755)
        self._terminals = terminals
        devices: dict[bytes, tuple[int, Callable[[Synthetic, int], OpenFile]]] = {
            b"null": (3, Null), b"zero": (5, Zero), b"full": (7, Full), b"random": (8, Random), b"urandom": (9, Random),
        }  # fmt: skip
        for name, (minor, kind) in devices.items():
            self.add(name, _Device(fs, name, (1, minor), kind))
        links = {
            b"fd": b"/proc/self/fd",
            b"stdin": b"/proc/self/fd/0",
            b"stdout": b"/proc/self/fd/1",
            b"stderr": b"/proc/self/fd/2",
        }
        for name, target in links.items():
            self.add(name, Link(fs, name, lambda _, target=target: target))  # type: ignore[misc]
        self.add(b"pts", FixedDirectory(fs, b"pts", 0o755))
        self.add(b"shm", FixedDirectory(fs, b"shm", 0o1777))

    def find(self, name: bytes, caller: Caller) -> Node | None:
        if name == b"tty":
            return _ControllingTerminal(self.fs, self._terminals, caller)
        if name == b"ptmx":
            return _ptmx(self.fs, self._terminals, 0o666)
        return None

    def names(self) -> Iterable[Name]:
        yield from super().names()
        for name in (b"tty", b"ptmx"):
            yield Name(name, stat.S_IFCHR, inode_of(name))


def _ptmx(fs: SyntheticFileSystem, terminals: Terminals, mode: int) -> _Device:
    return _Device(fs, b"ptmx", (5, 2), lambda _, flags: terminals.open_master(flags), mode)


# ---------------------------------------------------------------- terminals


class TerminalFileSystem(SyntheticFileSystem):
    """Mount it on /dev/pts."""

    def __init__(self, terminals: Terminals) -> None:
        self.terminals = terminals
        super().__init__(b"devpts", _PTS_MAGIC)

    def make_root(self) -> Directory:
        return _TerminalDirectory(self, self.terminals)


class _TerminalDirectory(Directory):
    def __init__(self, fs: SyntheticFileSystem, terminals: Terminals) -> None:
        super().__init__(fs, b"", 0o755)
        self._terminals = terminals

    def find(self, name: bytes, caller: Caller) -> Node | None:
        if name == b"ptmx":
            return _ptmx(self.fs, self._terminals, 0)
        if not name.isdigit() or len(name) > _DIGITS or int(name) not in self._terminals.numbers:
            return None
        return _TerminalNode(self.fs, self._terminals, int(name), caller)

    def names(self) -> Iterable[Name]:
        yield Name(b"ptmx", stat.S_IFCHR, inode_of(b"ptmx"))
        for number in self._terminals.numbers:
            yield Name(b"%d" % number, stat.S_IFCHR, self._terminals.attributes(self._terminals[number]).inode)


class _TerminalNode(Synthetic):
    """The slave side of a terminal, whose attributes are the same by name and by descriptor: ttyname(3) compares them."""

    def __init__(self, fs: SyntheticFileSystem, terminals: Terminals, number: int, caller: Caller) -> None:
        super().__init__(fs, b"%d" % number, stat.S_IFCHR | 0o620)
        self._terminals = terminals
        self._terminal = terminals[number]
        self._caller = caller

    def seen_by(self, caller: Caller) -> Node:
        return _TerminalNode(self.fs, self._terminals, self._terminal.number, caller) if self._alive else self

    @property
    def _alive(self) -> bool:
        return self._terminal.number in self._terminals.numbers

    @property
    def identity(self) -> tuple[int, int]:
        attributes = self.attributes()
        return attributes.device, attributes.inode

    def attributes(self) -> Attributes:
        return self._terminals.attributes(self._terminal)

    def open(self, flags: int, location: Location) -> OpenFile:  # noqa: ARG002
        if self._caller.task is None:
            raise SyscallError(errno.ENXIO)
        return self._terminals.open_slave(self._caller.task, self._terminal.number, flags)
