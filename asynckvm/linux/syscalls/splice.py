"""Bytes from one open file to another, without the guest's memory in between: sendfile(2), splice(2), tee(2), vmsplice(2),
copy_file_range(2).

Nothing is lost on the way: from a pipe only what its target took is taken, and a pipe is given only what it has room for.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import INT64_MAX, SyscallError
from asynckvm.linux.files import CHUNK
from asynckvm.linux.files.anonymous import AnonymousFile
from asynckvm.linux.files.pipe import PipeEnd
from asynckvm.linux.syscalls.transfer import (
    broken_pipe,
    checked_offset,
    read_buffers,
    readable,
    room_for,
    writable,
    write_buffers,
    write_data,
)
from asynckvm.linux.usercopy import TRANSFER_MAX, read_int64, read_iovecs, write_uint64

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

_SPLICE_F_NONBLOCK: Final = 2
_SPLICE_F_ALL: Final = 0xF


class _Position:
    """Where in a file bytes go or come from: at an offset in guest memory, which moves on with them, or at the file's own."""

    def __init__(self, task: Task, file: OpenFile, pointer: int) -> None:
        self.start = checked_offset(read_int64(task.space, pointer)) if pointer else file.seek(0, os.SEEK_CUR)
        self._task = task
        self._file = file
        self._pointer = pointer

    def advance(self, done: int) -> None:
        if self._pointer:
            write_uint64(self._task.space, self._pointer, self.start + done)
        elif done:
            self._file.seek(self.start + done, os.SEEK_SET)


async def sendfile(task: Task, out_fd: int, in_fd: int, offset_pointer: int, count: int) -> int:
    source, target = readable(task, in_fd), writable(task, out_fd)
    try:
        position = _Position(task, source, offset_pointer)
    except SyscallError as error:
        # What has no positions cannot be sent from.
        raise SyscallError(errno.EINVAL if error.number == errno.ESPIPE else error.number) from None
    if target.flags & os.O_APPEND:
        raise SyscallError(errno.EINVAL)
    with source.held(), target.held():
        done = await _copy(task, source, position.start, target, None, min(count, TRANSFER_MAX, INT64_MAX - position.start))
        position.advance(done)
    return done


async def copy_file_range(task: Task, in_fd: int, in_pointer: int, out_fd: int, out_pointer: int, length: int, flags: int) -> int:
    source, target = readable(task, in_fd), writable(task, out_fd)
    if target.flags & os.O_APPEND:
        raise SyscallError(errno.EBADF)
    if flags:
        raise SyscallError(errno.EINVAL)
    one, other = source.attributes(), target.attributes()
    for attributes in (one, other):
        if stat.S_ISDIR(attributes.mode):
            raise SyscallError(errno.EISDIR)
        if not stat.S_ISREG(attributes.mode):
            raise SyscallError(errno.EINVAL)
    begin, end = _Position(task, source, in_pointer), _Position(task, target, out_pointer)
    if max(begin.start, end.start) + length > INT64_MAX:
        raise SyscallError(errno.EOVERFLOW)
    left = min(length, TRANSFER_MAX, max(0, one.size - begin.start))
    if (one.device, one.inode) == (other.device, other.inode) and abs(begin.start - end.start) < left:
        raise SyscallError(errno.EINVAL)
    with source.held(), target.held():
        done = await _copy(task, source, begin.start, target, end.start, left)
        begin.advance(done)
        end.advance(done)
    return done


async def _copy(task: Task, source: OpenFile, start: int, target: OpenFile, offset: int | None, length: int) -> int:
    """A signal ends it between two pieces: what is done so far counts."""
    done = 0
    try:
        while done < length and (data := source.pread(min(length - done, CHUNK), start + done)):
            written = await write_data(task, target, data, None if offset is None else offset + done)
            done += written
            if written < len(data) or task.interrupted:
                break
            await task.turn()
    except (SyscallError, OSError):
        if not done:
            raise
    return done


# ---------------------------------------------------------------- with a pipe


async def splice(task: Task, in_fd: int, in_pointer: int, out_fd: int, out_pointer: int, length: int, flags: int) -> int:
    """What one side has and the other has room for; it waits only until that is something."""
    if flags & ~_SPLICE_F_ALL:
        raise SyscallError(errno.EINVAL)
    if not length:
        return 0
    source, target = readable(task, in_fd), writable(task, out_fd)
    for file in source, target:
        # Events are no bytes, and entries neither.
        if isinstance(file, AnonymousFile) or stat.S_ISDIR(file.attributes().mode):
            raise SyscallError(errno.EINVAL)
    with source.held(), target.held():
        return await _splice(task, source, in_pointer, target, out_pointer, min(length, CHUNK), flags)


async def _splice(
    task: Task, source: OpenFile, in_pointer: int, target: OpenFile, out_pointer: int, length: int, flags: int
) -> int:
    if isinstance(source, PipeEnd):
        if in_pointer or (out_pointer and isinstance(target, PipeEnd)):
            raise SyscallError(errno.ESPIPE)
        if isinstance(target, PipeEnd):
            return await _between(task, source, target, length, flags, keep=False)
        return await _from_pipe(task, source, target, out_pointer, length, flags)
    if not isinstance(target, PipeEnd):
        raise SyscallError(errno.EINVAL)
    if out_pointer:
        raise SyscallError(errno.ESPIPE)
    return await _to_pipe(task, source, in_pointer, target, length, flags)


async def tee(task: Task, in_fd: int, out_fd: int, length: int, flags: int) -> int:
    if flags & ~_SPLICE_F_ALL:
        raise SyscallError(errno.EINVAL)
    if not length:
        return 0
    source, target = readable(task, in_fd), writable(task, out_fd)
    if not isinstance(source, PipeEnd) or not isinstance(target, PipeEnd):
        raise SyscallError(errno.EINVAL)
    with source.held(), target.held():
        return await _between(task, source, target, min(length, CHUNK), flags, keep=True)


async def vmsplice(task: Task, fd: int, vector: int, count: int, flags: int) -> int:
    """Bytes are copied, as a program that keeps to the rules cannot tell."""
    if flags & ~_SPLICE_F_ALL:
        raise SyscallError(errno.EINVAL)
    file = task.process.files.get(fd)
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    buffers, waiting = read_iovecs(task.space, vector, count), not flags & _SPLICE_F_NONBLOCK
    if not buffers:
        return 0
    if file.writable:
        # It waits for some room, not for as much as all of it needs.
        with file.held():
            await _has_room(task, file, flags)
            return await write_buffers(task, file, buffers, None, waiting=False)
    return await read_buffers(task, file, buffers, None, waiting=waiting)


async def _between(task: Task, source: PipeEnd, target: PipeEnd, length: int, flags: int, *, keep: bool) -> int:
    """From one pipe to another, where it stays in the first too if `keep`."""
    if source.pipe is target.pipe:
        raise SyscallError(errno.EINVAL)
    while True:
        if not await _has_data(task, source, flags):
            return 0
        await _has_room(task, target, flags)
        # Somebody else may have read meanwhile.
        if source.pipe.size:
            room = min(length, target.pipe.room)
            return target.pipe.put(source.pipe.peek(room) if keep else source.pipe.take(room))


async def _from_pipe(task: Task, source: PipeEnd, target: OpenFile, pointer: int, length: int, flags: int) -> int:
    if target.flags & os.O_APPEND:
        raise SyscallError(errno.EINVAL)
    if pointer and not target.positioned:
        raise SyscallError(errno.EINVAL)
    position = _Position(task, target, pointer) if pointer else None
    while await _has_data(task, source, flags):
        data = source.pipe.peek(length)
        data = data[: room_for(task, target, position.start if position is not None else None, len(data))]
        try:
            done = target.pwrite(data, position.start) if position is not None else target.write_for(task, data)
        except BlockingIOError:
            if target.nonblocking or flags & _SPLICE_F_NONBLOCK:
                raise
            await task.wait(target.queue_for(task))
            continue
        except BrokenPipeError:
            broken_pipe(task)
            raise
        source.pipe.take(done)
        if position is not None:
            position.advance(done)
        return done
    return 0


async def _to_pipe(task: Task, source: OpenFile, pointer: int, target: PipeEnd, length: int, flags: int) -> int:
    if pointer and not source.positioned:
        raise SyscallError(errno.EINVAL)
    position = _Position(task, source, pointer) if pointer else None
    while True:
        await _has_room(task, target, flags)
        room = min(length, target.pipe.room)
        try:
            data = source.pread(room, position.start) if position is not None else source.read(room)
        except BlockingIOError:
            if source.nonblocking:
                raise
            await task.wait(source.queue_for(task))
            continue
        if data:
            target.pipe.put(data)
        if position is not None:
            position.advance(len(data))
        return len(data)


async def _has_data(task: Task, source: PipeEnd, flags: int) -> bool:
    """Wait for it; False when none will come."""
    while not source.pipe.size:
        if not source.pipe.writers:
            return False
        await _wait(task, source, flags)
    return True


async def _has_room(task: Task, target: PipeEnd, flags: int) -> None:
    while True:
        if not target.pipe.readers:
            broken_pipe(task)
            raise SyscallError(errno.EPIPE)
        if target.pipe.writable(packets=False):
            return
        await _wait(task, target, flags)


async def _wait(task: Task, end: PipeEnd, flags: int) -> None:
    if end.nonblocking or flags & _SPLICE_F_NONBLOCK:
        raise SyscallError(errno.EAGAIN)
    await task.wait(end.queue)
