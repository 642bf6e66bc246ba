"""System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2)."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import ERESTARTNOHAND, INT64_MAX, SyscallError
from asynckvm.linux.ipc.ids import PERMISSIONS_BYTES
from asynckvm.linux.ipc.messages import MESSAGE_MAX, QUEUE_BYTES, Message, MessageQueue
from asynckvm.linux.usercopy import read_int64

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

_IPC_RMID, _IPC_SET, _IPC_STAT, _IPC_INFO = 0, 1, 2, 3
_MSG_STAT, _MSG_INFO, _MSG_STAT_ANY = 11, 12, 13
_STATUS_BYTES: Final = 120
# Where struct msqid64_ds has msg_qbytes.
_QBYTES_AT: Final = PERMISSIONS_BYTES + 40
_TYPE: Final = struct.Struct("<q")


def msgget(task: Task, key: int, flags: int) -> int:
    return task.process.kernel.message_queues.get(key, flags, task.process.credentials, MessageQueue, lambda _: None)


async def msgsnd(task: Task, number: int, address: int, size: int, flags: int) -> int:
    if size > MESSAGE_MAX or number < 0:
        raise SyscallError(errno.EINVAL)
    kind = read_int64(task.space, address)
    if kind < 1:
        raise SyscallError(errno.EINVAL)
    message = Message(kind, task.space.read(address + _TYPE.size, size))
    try:
        await task.process.kernel.message_queues.send(task, number, message, flags)
    except SyscallError as error:
        raise error.instead_of_restart(ERESTARTNOHAND) from None
    return 0


async def msgrcv(task: Task, number: int, address: int, size: int, kind: int, flags: int) -> int:
    if size > INT64_MAX or number < 0:
        raise SyscallError(errno.EINVAL)
    try:
        message = await task.process.kernel.message_queues.receive(task, number, size, kind, flags)
    except SyscallError as error:
        raise error.instead_of_restart(ERESTARTNOHAND) from None
    task.space.write(address, _TYPE.pack(message.type) + message.text)
    return len(message.text)


def msgctl(task: Task, number: int, command: int, buffer: int) -> int:
    queues, credentials = task.process.kernel.message_queues, task.process.credentials
    if number < 0 or command < 0:
        raise SyscallError(errno.EINVAL)
    if command in (_IPC_INFO, _MSG_INFO):
        task.space.write(buffer, queues.info(used=command == _MSG_INFO))
        return queues.highest
    if command in (_MSG_STAT, _MSG_STAT_ANY):
        number, queue = queues.at(number)
        if command == _MSG_STAT:
            queue.permissions.check(credentials, 0o444)
        task.space.write(buffer, queue.status())
        return number
    queue = queues.find(number)
    if command == _IPC_STAT:
        queue.permissions.check(credentials, 0o444)
        task.space.write(buffer, queue.status())
    elif command == _IPC_SET:
        _set(task, queue, task.space.read(buffer, _STATUS_BYTES))
    elif command == _IPC_RMID:
        queue.permissions.check_owner(credentials)
        queues.remove(number)
    else:
        raise SyscallError(errno.EINVAL)
    return 0


def _set(task: Task, queue: MessageQueue, image: bytes) -> None:
    queue.permissions.check_owner(task.process.credentials)
    size = int.from_bytes(image[_QBYTES_AT : _QBYTES_AT + 8], "little")
    if size > QUEUE_BYTES:
        raise SyscallError(errno.EPERM)
    queue.permissions.change(image)
    queue.size_max = size
    queue.changed_at = int(time.time())
    queue.queue.wake()
