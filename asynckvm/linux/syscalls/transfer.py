"""read(2), write(2) and their kin: bytes between open files and guest memory.

The hottest path of all: one buffer that is there, or that fits, is one call of the file and one copy, without a coroutine.
Everything else moves in chunks, so that one call holds neither the event loop nor much host memory, however much it asks for.
Source: read(2), write(2), readv(2), pipe(7), setrlimit(2) for RLIMIT_FSIZE.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files import CHUNK, OpenFile
from asynckvm.linux.files.inotify import IN_ACCESS, IN_MODIFY
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.signals import info as siginfo
from asynckvm.linux.signals import send
from asynckvm.linux.usercopy import TRANSFER_MAX, gather, read_iovecs, scatter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asynckvm.linux.task import Task

_RWF_HIPRI, _RWF_DSYNC, _RWF_SYNC, _RWF_NOWAIT, _RWF_APPEND = 1, 2, 4, 8, 16
_RWF_READ: Final = _RWF_HIPRI | _RWF_NOWAIT
_ANYBODY: Final = OpenFile.read_for
_RWF_WRITE: Final = _RWF_HIPRI | _RWF_DSYNC | _RWF_SYNC | _RWF_NOWAIT | _RWF_APPEND


# ---------------------------------------------------------------- calls


def read(task: Task, fd: int, address: int, length: int) -> int | Awaitable[int]:
    file = readable(task, fd)
    # Who reads makes a difference to a terminal, for one: such files are asked at length.
    if length > CHUNK or type(file).read_for is not _ANYBODY:
        return read_buffers(task, file, [(address, min(length, TRANSFER_MAX))], None)
    with file.still:
        try:
            data = file.read(length)
        except BlockingIOError:
            return read_buffers(task, file, [(address, length)], None)
        try:
            task.process.memory.space.write(address, data)
        except GuestMemoryError as error:
            _rewind(file, error.done - len(data))
            if not error.done:
                raise
            return error.done
    if file.location is not None:
        _tell(task, file, IN_ACCESS)
    return len(data)


def write(task: Task, fd: int, address: int, length: int) -> int | Awaitable[int]:
    process = task.process
    file = writable(task, fd)
    if length > CHUNK or process.limits.soft(Limit.FSIZE) != INFINITY:
        return write_buffers(task, file, [(address, min(length, TRANSFER_MAX))], None)
    space = process.memory.space
    try:
        data = space.read(address, length)
    except GuestMemoryError as error:
        if not error.done:
            raise
        data = space.read(address, error.done)
    return _write_now(task, file, data)


def _write_now(task: Task, file: OpenFile, data: bytes) -> int | Awaitable[int]:
    """Without a coroutine, if the file takes it all."""
    try:
        done = file.write_for(task, data)
    except BlockingIOError:
        if file.nonblocking:
            raise
        done = 0
    except BrokenPipeError:
        broken_pipe(task)
        raise
    if file.location is not None:
        _tell(task, file, IN_MODIFY)
    return done if done == len(data) else _write_all(task, file, data, None, done)


async def readv(task: Task, fd: int, vector: int, count: int) -> int:
    return await read_buffers(task, readable(task, fd), read_iovecs(task.space, vector, count), None)


def writev(task: Task, fd: int, vector: int, count: int) -> int | Awaitable[int]:
    file = writable(task, fd)
    space = task.process.memory.space
    buffers = read_iovecs(space, vector, count)
    if sum([length for _, length in buffers]) > CHUNK or task.process.limits.soft(Limit.FSIZE) != INFINITY:
        return write_buffers(task, file, buffers, None)
    try:
        data = b"".join([space.read(address, length) for address, length in buffers])
    except GuestMemoryError:
        return write_buffers(task, file, buffers, None)  # as far as it goes
    return _write_now(task, file, data)


def pread64(task: Task, fd: int, address: int, length: int, offset: int) -> int | Awaitable[int]:
    file = _seekable(readable, task, fd)
    checked_offset(offset)
    if length > CHUNK or offset > INT64_MAX - CHUNK:
        return read_buffers(task, file, [(address, min(length, TRANSFER_MAX))], offset)
    data = file.pread(length, offset)
    try:
        task.process.memory.space.write(address, data)
    except GuestMemoryError as error:
        if not error.done:
            raise
        return error.done
    if file.location is not None:
        _tell(task, file, IN_ACCESS)
    return len(data)


async def pwrite64(task: Task, fd: int, address: int, length: int, offset: int) -> int:
    file = _seekable(writable, task, fd)
    return await write_buffers(task, file, [(address, min(length, TRANSFER_MAX))], checked_offset(offset))


async def preadv(task: Task, fd: int, vector: int, count: int, offset: int) -> int:
    return await preadv2(task, fd, vector, count, checked_offset(offset), 0, 0)


async def pwritev(task: Task, fd: int, vector: int, count: int, offset: int) -> int:
    return await pwritev2(task, fd, vector, count, checked_offset(offset), 0, 0)


async def preadv2(task: Task, fd: int, vector: int, count: int, offset: int, high: int, flags: int) -> int:  # noqa: ARG001
    """With -1 as offset it is readv. `high` says nothing where a register holds the whole offset."""
    file = _seekable(readable, task, fd)
    if flags & ~_RWF_READ:
        raise SyscallError(errno.EOPNOTSUPP)
    buffers = read_iovecs(task.space, vector, count)
    return await read_buffers(task, file, buffers, _offset_or_position(offset), waiting=not flags & _RWF_NOWAIT)


async def pwritev2(task: Task, fd: int, vector: int, count: int, offset: int, high: int, flags: int) -> int:  # noqa: ARG001
    file = _seekable(writable, task, fd)
    if flags & ~_RWF_WRITE:
        raise SyscallError(errno.EOPNOTSUPP)
    buffers, waiting = read_iovecs(task.space, vector, count), not flags & _RWF_NOWAIT
    start = _offset_or_position(offset)
    if not flags & _RWF_APPEND or not file.positioned:
        return await write_buffers(task, file, buffers, start, waiting=waiting)
    if start is None:
        file.seek(0, os.SEEK_END)
    return await write_buffers(task, file, buffers, start if start is None else file.attributes().size, waiting=waiting)


# ---------------------------------------------------------------- what other calls need too


def readable(task: Task, fd: int) -> OpenFile:
    """The file of a descriptor to read from. EBADF."""
    file = task.process.files.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    return file


def writable(task: Task, fd: int) -> OpenFile:
    file = task.process.files.get(fd)
    if not file.writable:
        raise SyscallError(errno.EBADF)
    return file


def _seekable(check: Callable[[Task, int], OpenFile], task: Task, fd: int) -> OpenFile:
    """For calls that say where: to a file without positions that matters more than its access mode."""
    try:
        return check(task, fd)
    except SyscallError:
        if not task.process.files.get(fd).positioned:
            raise SyscallError(errno.ESPIPE) from None
        raise


def checked_offset(offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    return offset


def broken_pipe(task: Task) -> None:
    """The thread wrote where nobody will read."""
    send.send_to_task(task, siginfo.from_user(signal.SIGPIPE, task.process.pid, task.process.credentials.ruid))


def _tell(task: Task, file: OpenFile, event: int) -> None:
    """Who watches the file, if anybody does."""
    if file.location is not None and (watches := task.process.fs.mounts.watches).files:
        watches.about(file.location, event)


def room_for(task: Task, file: OpenFile, offset: int | None, length: int) -> int:
    """How much of a write RLIMIT_FSIZE allows. EFBIG, with SIGXFSZ, for nothing at all."""
    limit = task.process.limits.soft(Limit.FSIZE)
    if limit == INFINITY or not length or not file.positioned:
        return length
    attributes = file.attributes()
    if not stat.S_ISREG(attributes.mode):
        return length
    if file.flags & os.O_APPEND:
        offset = attributes.size
    elif offset is None:
        offset = file.seek(0, os.SEEK_CUR)
    if offset >= limit:
        send.send_to_task(task, siginfo.from_kernel(signal.SIGXFSZ))
        raise SyscallError(errno.EFBIG)
    return min(length, limit - offset)


async def write_data(task: Task, file: OpenFile, data: bytes, offset: int | None = None, *, waiting: bool = True) -> int:
    """Write all of `data`, waiting for room; less when the file is non-blocking or fails later than at its first byte."""
    room = room_for(task, file, offset, len(data))
    done = await _write_all(task, file, data if room == len(data) else data[:room], offset, 0, waiting=waiting)
    _tell(task, file, IN_MODIFY)
    return done


# ---------------------------------------------------------------- reading


def _offset_or_position(offset: int) -> int | None:
    return None if offset == -1 else checked_offset(offset)


async def read_buffers(
    task: Task, file: OpenFile, buffers: Sequence[tuple[int, int]], offset: int | None, *, waiting: bool = True
) -> int:
    """Fill the buffers. A regular file is read until they are full or it ends; anything else gives once what it has."""
    total = sum(length for _, length in buffers)
    if offset is not None:
        total = min(total, INT64_MAX - offset)
    done = 0
    with file.held():
        try:
            while True:
                left = min(total - done, CHUNK)
                with file.still:  # what has a position does not wait
                    if offset is None and waiting and not done:
                        data = await file.read_for(task, left)
                    else:
                        data = file.read(left) if offset is None else file.pread(left, offset + done)
                    stored = scatter(task.space, buffers, done, data)
                    if stored < len(data) and offset is None:
                        _rewind(file, stored - len(data))
                done += stored
                if stored < len(data):
                    if not done:
                        raise SyscallError(errno.EFAULT)
                    return done
                if not data or done >= total or not file.positioned:
                    _tell(task, file, IN_ACCESS)
                    return done
                await task.turn()
        except (SyscallError, OSError):
            if not done:
                raise
    return done


def _rewind(file: OpenFile, distance: int) -> None:
    """What was read and could not be stored is left in the file, where that is possible."""
    if file.positioned:
        file.seek(distance, os.SEEK_CUR)


# ---------------------------------------------------------------- writing


async def write_buffers(
    task: Task, file: OpenFile, buffers: Sequence[tuple[int, int]], offset: int | None, *, waiting: bool = True
) -> int:
    """Write the buffers, gathered: what a pipe takes as one piece stays one piece."""
    done = 0
    with file.held():
        try:
            for data in gather(task.space, buffers, CHUNK):
                if done:
                    await task.turn()
                position = None if offset is None else offset + done
                if position is not None and position + len(data) > INT64_MAX:
                    raise SyscallError(errno.EFBIG if position == INT64_MAX else errno.EINVAL)
                written = await write_data(task, file, data, position, waiting=waiting)
                done += written
                if written < len(data):
                    break
        except (GuestMemoryError, SyscallError, OSError):
            if not done:
                raise
    return done


async def _write_all(task: Task, file: OpenFile, data: bytes, offset: int | None, done: int, *, waiting: bool = True) -> int:
    """Write what is left of `data` after the first `done` bytes."""
    with file.held():
        try:
            while True:
                piece = data[done:] if done else data
                try:
                    taken = file.write_for(task, piece) if offset is None else file.pwrite(piece, offset + done)
                except BlockingIOError:
                    if file.nonblocking or not waiting:
                        raise
                    await task.wait(file.queue)
                    continue
                done += taken
                if done >= len(data) or not taken:
                    return done
                await task.turn()
        except BrokenPipeError:
            broken_pipe(task)
            if not done:
                raise
        except (SyscallError, OSError):
            if not done:
                raise
    return done
