"""read(2), write(2) and their kin: bytes between open files and guest memory.

Everything moves in chunks, so that one call holds neither the event loop nor much host memory, however much it asks for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
from typing import TYPE_CHECKING

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.usercopy import TRANSFER_MAX, read_int64, read_iovecs, write_uint64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task


async def read(task: Task, fd: int, address: int, length: int) -> int:
    return await _read(task, _readable(task, fd), [(address, min(length, TRANSFER_MAX))], None)


async def readv(task: Task, fd: int, vector: int, count: int) -> int:
    file = _readable(task, fd)
    return await _read(task, file, read_iovecs(task.space, vector, count), None)


async def pread64(task: Task, fd: int, address: int, length: int, offset: int) -> int:
    file = _readable(task, fd)
    return await _read(task, file, [(address, min(length, TRANSFER_MAX))], _offset(offset))


async def preadv(task: Task, fd: int, vector: int, count: int, offset: int) -> int:
    file = _readable(task, fd)
    return await _read(task, file, read_iovecs(task.space, vector, count), _offset(offset))


async def write(task: Task, fd: int, address: int, length: int) -> int:
    return await _write(task, _writable(task, fd), [(address, min(length, TRANSFER_MAX))], None)


async def writev(task: Task, fd: int, vector: int, count: int) -> int:
    file = _writable(task, fd)
    return await _write(task, file, read_iovecs(task.space, vector, count), None)


async def pwrite64(task: Task, fd: int, address: int, length: int, offset: int) -> int:
    file = _writable(task, fd)
    return await _write(task, file, [(address, min(length, TRANSFER_MAX))], _offset(offset))


async def pwritev(task: Task, fd: int, vector: int, count: int, offset: int) -> int:
    file = _writable(task, fd)
    return await _write(task, file, read_iovecs(task.space, vector, count), _offset(offset))


async def sendfile(task: Task, out_fd: int, in_fd: int, offset_pointer: int, count: int) -> int:
    """From a regular file only, as for every file without a page cache behind it: EINVAL."""
    source, target = _readable(task, in_fd), _writable(task, out_fd)
    if not stat.S_ISREG(source.attributes().mode):
        raise SyscallError(errno.EINVAL)
    start = _offset(read_int64(task.space, offset_pointer)) if offset_pointer else source.seek(0, os.SEEK_CUR)
    left, position = min(count, TRANSFER_MAX), start
    try:
        while left and (data := source.pread(min(left, CHUNK), position)):
            written = await _write_all(task, target, data, None)
            position += written
            left -= written
            if written < len(data):
                break
            await asyncio.sleep(0)
    except (SyscallError, OSError):
        if position == start:
            raise
    if offset_pointer:
        write_uint64(task.space, offset_pointer, position)
    else:
        source.seek(position, os.SEEK_SET)
    return position - start


def _readable(task: Task, fd: int) -> OpenFile:
    file = task.process.files.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    return file


def _writable(task: Task, fd: int) -> OpenFile:
    file = task.process.files.get(fd)
    if not file.writable:
        raise SyscallError(errno.EBADF)
    return file


def _offset(offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    return offset


async def _read(task: Task, file: OpenFile, buffers: Iterable[tuple[int, int]], offset: int | None) -> int:
    """Fill the buffers. A regular file is read until they are full or it ends; anything else gives what it has."""
    done = 0
    try:
        for address, length in buffers:
            filled = 0
            while filled < length:
                if done:
                    await asyncio.sleep(0)
                position = None if offset is None else offset + done
                data = await _read_some(task, file, length - filled, position, waiting=not done)
                _deliver(task, file, address + filled, data, offset)
                filled += len(data)
                done += len(data)
                if not data or (filled < length and not file.positioned):
                    return done
    except GuestMemoryError as error:
        if not done + error.done:
            raise
        done += error.done
    except (SyscallError, OSError):
        if not done:
            raise
    return done


def _deliver(task: Task, file: OpenFile, address: int, data: bytes, offset: int | None) -> None:
    """Write what was read; a regular file's position goes back over what the guest had no room for."""
    try:
        task.space.write(address, data)
    except GuestMemoryError as error:
        if offset is None and file.positioned:
            file.seek(error.done - len(data), os.SEEK_CUR)
        raise


async def _read_some(task: Task, file: OpenFile, length: int, offset: int | None, *, waiting: bool) -> bytes:
    if offset is not None:
        return file.pread(length, offset)
    while True:
        try:
            return file.read(length)
        except BlockingIOError:
            if not waiting or file.nonblocking:
                raise
            await task.wait(file.queue)


async def _write(task: Task, file: OpenFile, buffers: Iterable[tuple[int, int]], offset: int | None) -> int:
    """Write the buffers, gathered: what a pipe takes as one piece stays one piece."""
    done = 0
    try:
        for data in _gather(task, buffers):
            if done:
                await asyncio.sleep(0)
            written = await _write_all(task, file, data, None if offset is None else offset + done)
            done += written
            if written < len(data):
                break
    except (GuestMemoryError, SyscallError, OSError):
        if not done:
            raise
    return done


def _gather(task: Task, buffers: Iterable[tuple[int, int]]) -> Iterable[bytes]:
    """The buffers' bytes in pieces of at most CHUNK; what lies before a bad address still comes. At least one piece."""
    gathered, yielded = bytearray(), False
    for address, length in buffers:
        taken = 0
        while taken < length:
            piece = min(length - taken, CHUNK - len(gathered))
            try:
                gathered += task.space.read(address + taken, piece)
            except GuestMemoryError as error:
                if error.done:
                    gathered += task.space.read(address + taken, error.done)
                if gathered:
                    yield bytes(gathered)
                raise
            taken += piece
            if len(gathered) == CHUNK:
                yield bytes(gathered)
                yielded = True
                gathered.clear()
    if gathered or not yielded:
        yield bytes(gathered)


async def _write_all(task: Task, file: OpenFile, data: bytes, offset: int | None) -> int:
    """Write all of `data`, waiting for room; less when the file is non-blocking or fails later than its first byte."""
    done = 0
    while True:
        try:
            piece = data[done:] if done else data
            done += file.write(piece) if offset is None else file.pwrite(piece, offset + done)
        except BlockingIOError:
            if file.nonblocking:
                if done:
                    return done
                raise
            await task.wait(file.queue)
        except BrokenPipeError:
            task.process.signals.send(signal.SIGPIPE)
            if done:
                return done
            raise
        except (SyscallError, OSError):
            if done:
                return done
            raise
        if done >= len(data):
            return done
