"""io_setup(2) and its kin: struct iocb into a transfer, and its result into struct io_event.

Source: io_submit(2), <linux/aio_abi.h>.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.aio import Event
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files.eventfd import EventFile
from asynckvm.linux.syscalls import transfer
from asynckvm.linux.syscalls.poll import AT_ONCE, deadline_at, signal_mask
from asynckvm.linux.usercopy import read_iovecs, read_uint64, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.aio import Context
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

# struct iocb: data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, reserved2, flags, resfd.
_IOCB: Final = struct.Struct("<QIIHhiQQqQII")
_PREAD, _PWRITE, _FSYNC, _FDSYNC, _PREADV, _PWRITEV = 0, 1, 2, 3, 7, 8
_IOCB_FLAG_RESFD: Final = 1
_RWF_NOWAIT, _RWF_ALL = 8, 0x1F
_SIGNAL_MASK: Final = struct.Struct("<QQ")


class Request(NamedTuple):
    """One struct iocb."""

    address: int
    data: int
    flags: int
    operation: int
    fd: int
    buffer: int
    length: int
    offset: int
    event_fd: int | None


def io_setup(task: Task, events: int, number: int) -> int:
    process = task.process
    if read_uint64(task.space, number):
        raise SyscallError(errno.EINVAL)
    made = process.aio.create(task.memory, events)
    try:
        write_uint64(task.space, number, made)
    except GuestMemoryError:
        process.aio.destroy(task.memory, made)
        raise
    return 0


def io_destroy(task: Task, number: int) -> int:
    task.process.aio.destroy(task.memory, number)
    return 0


async def io_submit(task: Task, number: int, count: int, requests: int) -> int:
    """How many were taken: what is wrong with one is told only of the first."""
    context = task.process.aio.get(number)
    if count < 0:
        raise SyscallError(errno.EINVAL)
    for index in range(count):
        if index:
            await task.turn()
        try:
            await _submit(task, context, _read(task, read_uint64(task.space, requests + 8 * index)))
        except (SyscallError, GuestMemoryError):
            if not index:
                raise
            return index
    return count


def _read(task: Task, address: int) -> Request:
    image = task.space.read(address, _IOCB.size)
    data, _, flags, operation, _, fd, buffer, length, offset, reserved, marks, event_fd = _IOCB.unpack(image)
    if reserved or length > INT64_MAX or operation not in (_PREAD, _PWRITE, _FSYNC, _FDSYNC, _PREADV, _PWRITEV):
        raise SyscallError(errno.EINVAL)
    if flags & ~_RWF_ALL:
        raise SyscallError(errno.EOPNOTSUPP)
    resulting = event_fd if marks & _IOCB_FLAG_RESFD else None
    return Request(address, data, flags, operation, fd, buffer, length, offset, resulting)


async def _submit(task: Task, context: Context, request: Request) -> None:
    files = task.process.files
    file = files.get(request.fd)
    told = files.get(request.event_fd) if request.event_fd is not None else None
    if told is not None and not isinstance(told, EventFile):
        raise SyscallError(errno.EINVAL)
    allowed = {_PREAD: file.readable, _PREADV: file.readable, _PWRITE: file.writable, _PWRITEV: file.writable}
    if not allowed.get(request.operation, True):
        raise SyscallError(errno.EBADF)
    task.space.write(request.address + 8, bytes(4))  # aio_key
    context.begin()
    # Other threads may close both meanwhile.
    with file.held(), told.held() if told is not None else contextlib.nullcontext():
        result = -errno.EIO
        try:
            result = await _carry_out(task, file, request)
        except SyscallError as error:
            result = -error.instead_of_restart(errno.EINTR).number
        except GuestMemoryError:
            result = -errno.EFAULT
        except OSError as error:
            result = -(error.errno or errno.EIO)
        finally:
            context.finish(Event(request.data, request.address, result))
        if told is not None:
            told.signal()


async def _carry_out(task: Task, file: OpenFile, request: Request) -> int:
    if request.operation in (_FSYNC, _FDSYNC):
        file.sync()
        return 0
    vectors = request.operation in (_PREADV, _PWRITEV)
    buffers = read_iovecs(task.space, request.buffer, request.length) if vectors else [(request.buffer, request.length)]
    waiting = not (request.flags & _RWF_NOWAIT or file.nonblocking)
    # What has no position has none to be given either.
    offset = transfer.checked_offset(request.offset) if file.positioned else None
    move = transfer.write_buffers if request.operation in (_PWRITE, _PWRITEV) else transfer.read_buffers
    return await move(task, file, buffers, offset, waiting=waiting)


async def io_getevents(task: Task, number: int, least: int, most: int, events: int, until: int) -> int:
    return await _get(task, number, least, most, events, deadline_at(task, until))


async def io_pgetevents(task: Task, number: int, least: int, most: int, events: int, until: int, mask: int) -> int:
    deadline = deadline_at(task, until)
    address, size = _SIGNAL_MASK.unpack(task.space.read(mask, _SIGNAL_MASK.size)) if mask else (0, 0)
    with signal_mask(task, address, size):
        return await _get(task, number, least, most, events, deadline)


async def _get(task: Task, number: int, least: int, most: int, events: int, until: int | None) -> int:
    context = task.process.aio.get(number)
    if not 0 <= least <= most:
        raise SyscallError(errno.EINVAL)
    waiting = until != AT_ONCE
    try:
        while len(context.done) < least and waiting:
            waiting = await task.wait(context.queue, until=until)
            if task.process.aio.get(number) is not context:
                raise SyscallError(errno.EINVAL)
    except SyscallError as error:
        if not context.done:
            raise error.instead_of_restart(errno.EINTR) from None
    found = context.take(most)
    try:
        task.space.write(events, b"".join(event.pack() for event in found))
    except GuestMemoryError:
        context.done.extendleft(reversed(found))
        raise
    return len(found)


def io_cancel(task: Task, number: int, request: int, result: int) -> int:  # noqa: ARG001
    """Whatever was handed in is done already."""
    task.space.read(request, _IOCB.size)
    task.process.aio.get(number)
    raise SyscallError(errno.EINVAL)
