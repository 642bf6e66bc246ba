"""System V objects: numbers that are not reused, permissions, and the order in which messages come out."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_PRIVATE, IpcTable, Permissions
from asynckvm.linux.ipc.messages import MSG_COPY, MSG_EXCEPT, MSG_NOERROR, Message, MessageQueue, MessageQueues
from support.fake_tasks import lone_task

ALICE, BOB = Credentials.of(1000, 100), Credentials.of(1001, 101)


def thing(permissions: Permissions) -> Any:
    return SimpleNamespace(permissions=permissions)


def get(table: IpcTable[Any], key: int, flags: int, who: Credentials = ALICE) -> int:
    return table.get(key, flags, who, thing, lambda _: None)


def failing(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


def test_a_number_is_not_used_again_and_a_key_finds_its_object() -> None:
    table: IpcTable[Any] = IpcTable(2)
    first = get(table, 7, IPC_CREAT | 0o600)
    assert get(table, 7, IPC_CREAT | 0o600) == first
    with failing(errno.EEXIST):
        get(table, 7, IPC_CREAT | IPC_EXCL)
    table.remove(first)
    with failing(errno.EINVAL):
        table.find(first)
    second = get(table, 7, IPC_CREAT | 0o600)
    assert second != first
    with failing(errno.EIDRM):
        table.find(first)
    get(table, IPC_PRIVATE, 0o600)
    with failing(errno.ENOSPC):
        get(table, IPC_PRIVATE, 0o600)
    with failing(errno.ENOENT):
        get(table, 8, 0)


def test_who_may_do_what() -> None:
    permissions = Permissions(1, 0o640, ALICE)
    permissions.check(ALICE, 0o600)
    permissions.check(Credentials.of(1002, 100), 0o400)
    for who, wanted in ((BOB, 0o400), (Credentials.of(1002, 100), 0o200)):
        with failing(errno.EACCES):
            permissions.check(who, wanted)
    permissions.check(Credentials.of(0, 0), 0o777)
    with failing(errno.EPERM):
        permissions.check_owner(BOB)


async def test_messages_come_out_by_type() -> None:
    task: Any = lone_task(credentials=ALICE)
    queues = MessageQueues()
    number = queues.get(IPC_PRIVATE, 0o600, ALICE, MessageQueue, lambda _: None)
    for kind in (5, 3, 4):
        await queues.send(task, number, Message(kind, b"%d" % kind * 3), 0)
    assert (await queues.receive(task, number, 9, 1, MSG_COPY | IPC_NOWAIT)).type == 3
    assert (await queues.receive(task, number, 9, 5, MSG_EXCEPT)).type == 3
    with failing(errno.ENOMSG):
        await queues.receive(task, number, 9, -3, IPC_NOWAIT)
    with failing(errno.E2BIG):
        await queues.receive(task, number, 2, 0, 0)
    assert await queues.receive(task, number, 2, -9, MSG_NOERROR) == Message(4, b"44")
    assert (await queues.receive(task, number, 9, 0, 0)).type == 5
    with failing(errno.ENOMSG):
        await queues.receive(task, number, 9, 0, IPC_NOWAIT)


async def test_a_full_queue_makes_wait_and_a_removed_one_fail() -> None:
    task: Any = lone_task(credentials=ALICE)
    queues = MessageQueues()
    number = queues.get(IPC_PRIVATE, 0o600, ALICE, MessageQueue, lambda _: None)
    for _ in range(2):
        await queues.send(task, number, Message(1, bytes(8192)), 0)
    with failing(errno.EAGAIN):
        await queues.send(task, number, Message(1, b"x"), IPC_NOWAIT)

    async def send() -> int:
        await queues.send(task, number, Message(1, b"x"), 0)
        return 0

    waiting = await task.begin(send())
    queues.remove(number)
    with failing(errno.EIDRM):
        await waiting
    assert len(queues) == 0
