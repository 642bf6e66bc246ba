"""System V message queues. Source: msgget(2), msgop(2), msgctl(2), ipc/msg.c."""

from __future__ import annotations

import errno
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import IPC_NOWAIT, IpcTable, Permissions
from asynckvm.linux.wait import WaitQueue

if TYPE_CHECKING:
    from asynckvm.linux.task import Task

# /proc/sys/kernel/msgmax, msgmnb and msgmni; fewer queues than Linux's 32000, for what they hold is memory of the host.
MESSAGE_MAX: Final = 8192
QUEUE_BYTES: Final = 16384
QUEUES_MAX: Final = 256
# What all messages of a sandbox may take, each with what it costs to keep it.
_TOTAL_MAX: Final = 16 << 20
_OVERHEAD: Final = 256
MSG_NOERROR, MSG_EXCEPT, MSG_COPY = 0o10000, 0o20000, 0o40000
# struct msqid64_ds after its permissions, and struct msginfo.
_STATUS: Final = struct.Struct("<qqqQQQii16x")
_INFO: Final = struct.Struct("<7iH2x")


class Message(NamedTuple):
    """`type` is positive."""

    type: int
    text: bytes


class MessageQueue:
    """One queue. Times in seconds."""

    def __init__(self, permissions: Permissions) -> None:
        self.permissions = permissions
        self.messages: deque[Message] = deque()
        self.size = 0
        self.size_max = QUEUE_BYTES
        self.removed = False
        self.queue = WaitQueue()
        self.sent_at = self.received_at = 0
        self.changed_at = int(time.time())
        self.last_sender = self.last_receiver = 0

    def has_room(self, length: int) -> bool:
        return self.size + length <= self.size_max and len(self.messages) < self.size_max

    def choose(self, kind: int, flags: int) -> int | None:
        """The place of the message that msgrcv(2) is to give."""
        messages = self.messages
        if flags & MSG_COPY:
            return kind if 0 <= kind < len(messages) else None
        if not kind:
            return 0 if messages else None
        if kind > 0:
            wanted = not flags & MSG_EXCEPT
            return next((place for place, message in enumerate(messages) if (message.type == kind) is wanted), None)
        found = min(enumerate(messages), key=lambda item: item[1].type, default=None)
        return found[0] if found is not None and found[1].type <= -kind else None

    def status(self) -> bytes:
        """struct msqid64_ds."""
        times = self.sent_at, self.received_at, self.changed_at
        sizes = self.size, len(self.messages), self.size_max
        return self.permissions.pack() + _STATUS.pack(*times, *sizes, self.last_sender, self.last_receiver)


class MessageQueues(IpcTable[MessageQueue]):
    """All queues of a sandbox."""

    def __init__(self) -> None:
        super().__init__(QUEUES_MAX)
        self._used = 0

    async def send(self, task: Task, number: int, message: Message, flags: int) -> None:
        """msgsnd(2). EAGAIN, EIDRM, ENOMEM."""
        queue, length = self.find(number), len(message.text)
        while True:
            queue.permissions.check(task.process.credentials, 0o222)
            if queue.has_room(length):
                break
            await self._wait(task, queue, flags, errno.EAGAIN)
        if self._used + length + _OVERHEAD > _TOTAL_MAX:
            raise SyscallError(errno.ENOMEM)
        self._used += length + _OVERHEAD
        queue.messages.append(message)
        queue.size += length
        queue.sent_at, queue.last_sender = int(time.time()), task.process.pid
        queue.queue.wake()

    async def receive(self, task: Task, number: int, size: int, kind: int, flags: int) -> Message:
        """msgrcv(2): the message, cut to `size` with MSG_NOERROR. E2BIG, ENOMSG, EIDRM."""
        if flags & MSG_COPY and (flags & MSG_EXCEPT or not flags & IPC_NOWAIT):
            raise SyscallError(errno.EINVAL)
        queue = self.find(number)
        while True:
            queue.permissions.check(task.process.credentials, 0o444)
            place = queue.choose(kind, flags)
            if place is not None:
                break
            await self._wait(task, queue, flags, errno.ENOMSG)
        message = queue.messages[place]
        if len(message.text) > size and not flags & MSG_NOERROR:
            raise SyscallError(errno.E2BIG)
        if not flags & MSG_COPY:
            del queue.messages[place]
            queue.size -= len(message.text)
            self._used -= len(message.text) + _OVERHEAD
            queue.received_at, queue.last_receiver = int(time.time()), task.process.pid
            queue.queue.wake()
        return message._replace(text=message.text[:size])

    @staticmethod
    async def _wait(task: Task, queue: MessageQueue, flags: int, number: int) -> None:
        if flags & IPC_NOWAIT:
            raise SyscallError(number)
        await task.wait(queue.queue)
        if queue.removed:
            raise SyscallError(errno.EIDRM)

    def remove(self, number: int) -> MessageQueue:
        """IPC_RMID: who waits for it is told."""
        queue = super().remove(number)
        self._used -= queue.size + len(queue.messages) * _OVERHEAD
        queue.messages.clear()
        queue.removed = True
        queue.queue.wake()
        return queue

    def info(self, *, used: bool) -> bytes:
        """struct msginfo: limits, or what is `used` of them."""
        messages = sum(len(queue.messages) for queue in self)
        size = sum(queue.size for queue in self)
        pool, table, total = (len(self), messages, size) if used else (QUEUES_MAX * QUEUE_BYTES // 1024, QUEUE_BYTES, QUEUE_BYTES)
        return _INFO.pack(pool, table, MESSAGE_MAX, QUEUE_BYTES, QUEUES_MAX, 16, total, 0xFFFF)
