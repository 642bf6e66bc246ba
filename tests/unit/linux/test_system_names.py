"""What a sandbox's machine is called: uname(2), and who may change it with sethostname(2) and setdomainname(2)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.syscalls import system
from support.fake_tasks import DATA, lone_task
from support.sandbox_files import failure


def fields(task: Any) -> list[bytes]:
    assert system.uname(task, DATA + 0x1000) == 0
    data: bytes = task.space.read(DATA + 0x1000, 6 * 65)
    return [data[at : at + 65].rstrip(b"\0") for at in range(0, len(data), 65)]


def test_the_names_are_the_hosts_at_first() -> None:
    host = os.uname()
    expected = [host.sysname, "sandbox", host.release, host.version, "x86_64", "(none)"]
    assert fields(lone_task()) == [os.fsencode(text) for text in expected]


def test_root_gives_others() -> None:
    task, other = lone_task(credentials=Credentials()), lone_task()
    before = fields(other)
    task.space.write(DATA, b"x" * 64 + b"more")
    assert system.sethostname(task, DATA, 64) == 0
    assert system.setdomainname(task, DATA, 3) == 0
    assert fields(task)[1] == b"x" * 64
    assert fields(task)[5] == b"xxx"
    assert fields(other) == before
    assert system.sethostname(task, 0, 0) == 0
    task.space.write(DATA, b"a\0b")
    assert system.setdomainname(task, DATA, 3) == 0
    assert fields(task)[1::4] == [b"", b"a"]


@pytest.mark.parametrize("call", [system.sethostname, system.setdomainname])
def test_what_is_refused(call: Any) -> None:
    task = lone_task(credentials=Credentials())
    assert failure(call, task, DATA, 65) == "EINVAL"
    assert failure(call, task, DATA, -1) == "EINVAL"
    task.process.credentials = Credentials(effective=0)
    assert failure(call, task, DATA, 65) == "EPERM"
