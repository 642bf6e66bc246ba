"""System calls that send and receive messages on sockets: send, recv and their kin, between sockets and guest memory.

A stream takes and gives bytes piece by piece, so that no call holds much host memory; other sockets move one whole message.
Source: send(2), recv(2), sendmmsg(2), recvmmsg(2); net/socket.c.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.open_file import CHUNK
from asynckvm.linux.sockets.abi import (
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    MSG_WAITFORONE,
    SO_RCVLOWAT,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_STREAM,
)
from asynckvm.linux.sockets.message import Incoming, Outgoing
from asynckvm.linux.syscalls.control import ControlWriter, Header, carried, read_control, read_header, write_header
from asynckvm.linux.syscalls.sockets import Patience, get_socket, read_address, socket_caller, write_address
from asynckvm.linux.syscalls.transfer import broken_pipe
from asynckvm.linux.usercopy import TRANSFER_MAX, Buffer, gather, read_timespec, scatter, write_timespec

if TYPE_CHECKING:
    from asynckvm.linux.sockets.base import Socket
    from asynckvm.linux.task import Task

# struct mmsghdr: a struct msghdr and how many bytes its message had.
_MMSGHDR: Final = 64
_MMSG_LENGTH: Final = 56
_MMSG_MAX: Final = 1024
_UINT: Final = struct.Struct("<I")
# No socket takes a longer message.
_MESSAGE_MAX: Final = CHUNK


# ---------------------------------------------------------------- sending


async def sendto(task: Task, fd: int, pointer: int, length: int, flags: int, name: int, name_length: int) -> int:
    socket = get_socket(task, fd)
    address = read_address(task, name, name_length) if name else None
    message = Outgoing(b"", flags, address, caller=socket_caller(task))
    return await _send(task, socket, [(pointer, min(length, TRANSFER_MAX))], message)


async def sendmsg(task: Task, fd: int, pointer: int, flags: int) -> int:
    socket = get_socket(task, fd)
    return await _send_header(task, socket, read_header(task, pointer), flags)


async def sendmmsg(task: Task, fd: int, vector: int, count: int, flags: int) -> int:
    socket = get_socket(task, fd)
    sent = 0
    with socket.held():
        for at in range(vector, vector + min(count, _MMSG_MAX) * _MMSGHDR, _MMSGHDR):
            try:
                length = await _send_header(task, socket, read_header(task, at), flags)
                task.space.write(at + _MMSG_LENGTH, _UINT.pack(length))
            except (SyscallError, OSError, GuestMemoryError):
                if not sent:
                    raise
                break
            sent += 1
            await task.turn()
    return sent


async def _send_header(task: Task, socket: Socket, header: Header, flags: int) -> int:
    address = read_address(task, header.name, header.name_length) if header.name_length else None
    control = read_control(task, header)
    files, credentials = carried(task, socket, control)
    limit = task.process.files.limit
    message = Outgoing(b"", flags, address, files, credentials, control, socket_caller(task), limit)
    with contextlib.ExitStack() as held:
        for file in files:
            held.enter_context(file.held())
        return await _send(task, socket, header.buffers, message)


async def _send(task: Task, socket: Socket, buffers: list[Buffer], message: Outgoing) -> int:
    with Patience(task, socket, SO_SNDTIMEO, message.flags) as patience:
        if patience.none:
            message.flags |= MSG_DONTWAIT
        while message.address and (deciding := socket.deciding(message.address, "send")) is not None:
            await task.wait(deciding)
        if socket.kind == SOCK_STREAM:
            return await _send_stream(task, socket, buffers, message, patience)
        if sum(length for _, length in buffers) > _MESSAGE_MAX:
            raise SyscallError(errno.EMSGSIZE)
        message.data = b"".join(task.space.read(address, length) for address, length in buffers if length)
        while True:
            try:
                return socket.send(message)
            except BlockingIOError:
                await patience.wait()


async def _send_stream(task: Task, socket: Socket, buffers: list[Buffer], message: Outgoing, patience: Patience) -> int:
    done = 0
    try:
        for piece in gather(task.space, buffers, CHUNK):
            taken = 0
            while taken < len(piece) or not piece:
                try:
                    count = socket.send(dataclasses.replace(message, data=piece[taken:] if taken else piece))
                except BlockingIOError:
                    await patience.wait()
                    continue
                # The descriptors went with the first bytes.
                message.files = ()
                taken += count
                done += count
                if not piece:
                    break
            if done >= CHUNK:
                await task.turn()
    except (SyscallError, OSError, GuestMemoryError) as error:
        if done:
            return done
        if isinstance(error, BrokenPipeError) and not message.flags & MSG_NOSIGNAL:
            broken_pipe(task)
        raise
    return done


# ---------------------------------------------------------------- receiving


async def recvfrom(task: Task, fd: int, pointer: int, length: int, flags: int, name: int, name_length: int) -> int:
    socket = get_socket(task, fd)
    incoming = await _receive(task, socket, [(pointer, min(length, TRANSFER_MAX))], flags)
    if incoming.rights is not None:
        incoming.rights.drop()
    if name:
        write_address(task, incoming.address, name, name_length)
    return _result(socket, incoming, flags)


async def recvmsg(task: Task, fd: int, pointer: int, flags: int) -> int:
    socket = get_socket(task, fd)
    return await _receive_header(task, socket, read_header(task, pointer), flags)


async def recvmmsg(task: Task, fd: int, vector: int, count: int, flags: int, limit: int) -> int:
    socket = get_socket(task, fd)
    until = time.monotonic_ns() + read_timespec(task.space, limit) if limit else None
    received = 0
    with socket.held():
        for at in range(vector, vector + min(count, _MMSG_MAX) * _MMSGHDR, _MMSGHDR):
            try:
                length = await _receive_header(task, socket, read_header(task, at), flags & ~MSG_WAITFORONE)
                task.space.write(at + _MMSG_LENGTH, _UINT.pack(length))
            except (SyscallError, OSError, GuestMemoryError):
                if not received:
                    raise
                break
            received += 1
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            # As in Linux the time is only looked at between messages.
            if until is not None:
                left = max(until - time.monotonic_ns(), 0)
                write_timespec(task.space, limit, left)
                if not left:
                    break
            await task.turn()
    return received


async def _receive_header(task: Task, socket: Socket, header: Header, flags: int) -> int:
    incoming = await _receive(task, socket, header.buffers, flags)
    control = ControlWriter(task, header)
    control.write(incoming, flags)
    told = incoming.flags | control.flags | (flags & MSG_CMSG_CLOEXEC)
    if control.flags & MSG_CTRUNC:
        told |= MSG_CTRUNC
    write_header(task, header, incoming, control.used, told)
    return _result(socket, incoming, flags)


def _result(socket: Socket, incoming: Incoming, flags: int) -> int:
    """Bytes received; with MSG_TRUNC the length of the whole message."""
    return incoming.length if socket.kind == SOCK_STREAM or flags & MSG_TRUNC else len(incoming.data)


async def _receive(task: Task, socket: Socket, buffers: list[Buffer], flags: int) -> Incoming:
    """Receive into the buffers. Of a stream, `length` is how much was put there, and `data` the beginning of it."""
    length = sum(length for _, length in buffers)
    with Patience(task, socket, SO_RCVTIMEO, flags) as patience:
        if patience.none:
            flags |= MSG_DONTWAIT
        if socket.kind == SOCK_STREAM:
            return await _receive_stream(task, socket, buffers, flags, patience)
        while True:
            try:
                incoming = socket.receive(length, flags)
                break
            except BlockingIOError:
                await patience.wait()
    _scatter(task, buffers, 0, incoming)
    return incoming


async def _receive_stream(task: Task, socket: Socket, buffers: list[Buffer], flags: int, patience: Patience) -> Incoming:
    """Until there is something, or for MSG_WAITALL and SO_RCVLOWAT until there is enough of it."""
    length = sum(length for _, length in buffers)
    target = length if flags & MSG_WAITALL else max(min(socket.setting(SO_RCVLOWAT), length), 1)
    whole: Incoming | None = None
    done = 0
    try:
        while True:
            try:
                incoming = socket.receive(min(length - done, CHUNK), flags)
            except BlockingIOError:
                await patience.wait()
                continue
            _scatter(task, buffers, done, incoming)
            done += len(incoming.data)
            if whole is None:
                whole = incoming
            else:
                whole.rights = incoming.rights
            if done >= target or not incoming.data or incoming.rights is not None or flags & MSG_PEEK:
                break
    except (SyscallError, OSError, GuestMemoryError):
        if whole is None:
            raise
    whole.length = done
    return whole


def _scatter(task: Task, buffers: list[Buffer], skipped: int, incoming: Incoming) -> None:
    """Put the data into the buffers, behind the first `skipped` bytes of them; without room for it the rights are lost."""
    if scatter(task.space, buffers, skipped, incoming.data) < len(incoming.data):
        if incoming.rights is not None:
            incoming.rights.drop()
        raise SyscallError(errno.EFAULT)
