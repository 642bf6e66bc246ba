"""Structures in guest memory: read from and written to pointers that come from the guest.

The only way system calls touch guest memory besides plain `space.read` and `space.write`. Every pointer is hostile: a bad one
raises GuestMemoryError, which answers the call with EFAULT.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import INT64_MAX, SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asynckvm.platform import AddressSpace

# A buffer in guest memory: address and length.
Buffer: TypeAlias = tuple[int, int]
IOVECS_MAX: Final = 1024
# Longest transfer of one call: Linux's MAX_RW_COUNT.
TRANSFER_MAX: Final = 0x7FFF_F000

_UINT32: Final = struct.Struct("<I")
_UINT64: Final = struct.Struct("<Q")
_INT64: Final = struct.Struct("<q")
_TIMESPEC: Final = struct.Struct("<qq")
_IOVEC: Final = struct.Struct("<QQ")
NANOSECONDS: Final = 1_000_000_000


def read_uint32(space: AddressSpace, address: int) -> int:
    value: int = _UINT32.unpack(space.read(address, 4))[0]
    return value


def read_int64(space: AddressSpace, address: int) -> int:
    value: int = _INT64.unpack(space.read(address, 8))[0]
    return value


def read_uint64(space: AddressSpace, address: int) -> int:
    value: int = _UINT64.unpack(space.read(address, 8))[0]
    return value


def write_uint64(space: AddressSpace, address: int, value: int) -> None:
    space.write(address, _UINT64.pack(value))


def read_timespec(space: AddressSpace, address: int) -> int:
    """A struct timespec in nanoseconds; EINVAL when it is not a valid duration."""
    seconds, nanoseconds = _TIMESPEC.unpack(space.read(address, _TIMESPEC.size))
    if seconds < 0 or not 0 <= nanoseconds < NANOSECONDS:
        raise SyscallError(errno.EINVAL)
    duration: int = seconds * NANOSECONDS + nanoseconds
    return duration


def write_timespec(space: AddressSpace, address: int, nanoseconds: int) -> None:
    space.write(address, _TIMESPEC.pack(*divmod(nanoseconds, NANOSECONDS)))


def read_iovecs(space: AddressSpace, address: int, count: int) -> list[Buffer]:
    """The buffers of a struct iovec array, cut to what one call may transfer; empty buffers are dropped."""
    if not 0 <= count <= IOVECS_MAX:
        raise SyscallError(errno.EINVAL)
    buffers, left = [], TRANSFER_MAX
    for base, length in _IOVEC.iter_unpack(space.read(address, _IOVEC.size * count)) if count else ():
        if length > INT64_MAX:
            raise SyscallError(errno.EINVAL)
        if taken := min(length, left):
            buffers.append((base, taken))
            left -= taken
    return buffers


def gather(space: AddressSpace, buffers: Sequence[Buffer], chunk: int) -> Iterator[bytes]:
    """The buffers' bytes in pieces of at most `chunk`, at least one; what lies before a bad address still comes."""
    gathered: list[bytes] = []
    room = chunk
    yielded = False
    for address, length in buffers:
        taken = 0
        while taken < length:
            piece = min(length - taken, room)
            try:
                gathered.append(space.read(address + taken, piece))
            except GuestMemoryError as error:
                if error.done:
                    gathered.append(space.read(address + taken, error.done))
                if gathered:
                    yield b"".join(gathered)
                raise
            taken += piece
            room -= piece
            if not room:
                yield b"".join(gathered)
                yielded = True
                gathered, room = [], chunk
    if gathered or not yielded:
        yield b"".join(gathered)


def scatter(space: AddressSpace, buffers: Sequence[Buffer], start: int, data: bytes) -> int:
    """Put `data` into the buffers behind their first `start` bytes; how much of it they took up to a bad address."""
    stored = 0
    try:
        for address, length in buffers:
            if start >= length:
                start -= length
                continue
            piece = data[stored : stored + length - start]
            if not piece:
                break
            space.write(address + start, piece)
            stored += len(piece)
            start = 0
    except GuestMemoryError as error:
        stored += error.done
    return stored
