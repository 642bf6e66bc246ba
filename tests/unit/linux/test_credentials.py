"""User and group numbers and capabilities: who may become whom, and what is left of root's rights then."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from asynckvm.linux.credentials import CAPABILITIES_ALL, Credentials
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.syscalls import credentials as calls
from asynckvm.linux.syscalls.prctl import prctl
from support.fake_tasks import DATA, lone_task

KEEP = 0xFFFF_FFFF
VERSION_3 = 0x2008_0522
SET_KEEP, BOUNDING_READ, BOUNDING_DROP, NO_NEW_PRIVILEGES, AMBIENT = 8, 23, 24, 38, 47


@pytest.fixture
def root() -> Any:
    return lone_task(credentials=Credentials())


@pytest.fixture
def user() -> Any:
    """With a real, an effective and a saved number."""
    return lone_task(credentials=Credentials(10, 11, 12, 20, 21, 22))


def fails(number: int) -> Any:
    return pytest.raises(SyscallError, check=lambda error: error.number == number)


def users(task: Any) -> tuple[int, ...]:
    assert calls.getresuid(task, DATA, DATA + 4, DATA + 8) == 0
    return struct.unpack("<III", task.space.read(DATA, 12))


def groups(task: Any) -> tuple[int, ...]:
    assert calls.getresgid(task, DATA, DATA + 4, DATA + 8) == 0
    return struct.unpack("<III", task.space.read(DATA, 12))


def test_the_numbers_are_told(user: Any) -> None:
    told = calls.getuid(user), calls.geteuid(user), calls.getgid(user), calls.getegid(user)
    assert told == (10, 11, 20, 21)
    assert (users(user), groups(user)) == ((10, 11, 12), (20, 21, 22))
    assert (calls.setfsuid(user, 5), calls.setfsgid(user, 5)) == (11, 21)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [((KEEP, KEEP, KEEP), (10, 11, 12)), ((12, 10, 11), (12, 10, 11)), ((KEEP, 12, KEEP), (10, 12, 12)), ((10, 13, 10), None)],
)
def test_three_numbers_can_be_exchanged(wanted: tuple[int, int, int], found: tuple[int, ...] | None, user: Any) -> None:
    if found is None:
        with fails(errno.EPERM):
            calls.setresuid(user, *wanted)
    else:
        assert calls.setresuid(user, *wanted) == 0
    assert users(user) == (found or (10, 11, 12))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((KEEP, KEEP), (10, 11, 12)),
        ((11, 10), (11, 10, 10)),
        ((KEEP, 10), (10, 10, 12)),
        ((KEEP, 12), (10, 12, 12)),
        ((12, KEEP), None),
    ],
)
def test_the_saved_number_follows_sometimes(wanted: tuple[int, int], found: tuple[int, ...] | None, user: Any) -> None:
    if found is None:
        with fails(errno.EPERM):
            calls.setreuid(user, *wanted)
    else:
        assert calls.setreuid(user, *wanted) == 0
        assert users(user) == found


def test_the_same_for_groups(user: Any) -> None:
    assert calls.setregid(user, 21, 20) == 0
    assert groups(user) == (21, 20, 20)
    assert calls.setresgid(user, 20, 21, 20) == 0
    assert groups(user) == (20, 21, 20)
    assert calls.setgid(user, 20) == 0
    assert groups(user) == (20, 20, 20)
    for call in (calls.setgid, calls.setuid):
        with fails(errno.EINVAL):
            call(user, KEEP)
        with fails(errno.EPERM):
            call(user, 99)
    assert calls.setuid(user, 12) == 0
    assert users(user) == (10, 12, 12)


def test_root_becomes_somebody_for_good(root: Any) -> None:
    process = root.process
    process.death_signal = 9
    assert calls.setgid(root, 7) == 0
    assert calls.setuid(root, 5) == 0
    assert (users(root), groups(root)) == ((5, 5, 5), (7, 7, 7))
    assert (process.dumpable, process.death_signal) == (0, 0)
    assert process.credentials.permitted_capabilities == process.credentials.effective_capabilities == 0
    with fails(errno.EPERM):
        calls.setuid(root, 0)


def test_root_puts_its_rights_aside(root: Any) -> None:
    assert calls.setresuid(root, KEEP, 5, KEEP) == 0
    credentials = root.process.credentials
    assert (credentials.effective_capabilities, credentials.permitted_capabilities) == (0, CAPABILITIES_ALL)
    assert calls.setresuid(root, KEEP, 0, KEEP) == 0
    assert root.process.credentials.effective_capabilities == CAPABILITIES_ALL


def test_rights_can_be_kept_by_who_asks(root: Any) -> None:
    assert prctl(root, SET_KEEP, 1, 0, 0, 0) == 0
    assert prctl(root, 7, 0, 0, 0, 0) == 1
    assert calls.setuid(root, 5) == 0
    credentials = root.process.credentials
    assert (credentials.effective_capabilities, credentials.permitted_capabilities) == (0, CAPABILITIES_ALL)
    assert credentials.executed().permitted_capabilities == 0
    with fails(errno.EINVAL):
        prctl(root, SET_KEEP, 2, 0, 0, 0)


def test_groups(root: Any, user: Any) -> None:
    root.space.write(DATA, struct.pack("<III", 9, 3, 9))
    assert calls.setgroups(root, 3, DATA) == 0
    assert calls.getgroups(root, 0, 0) == 2
    assert calls.getgroups(root, 2, DATA + 64) == 2
    assert struct.unpack("<II", root.space.read(DATA + 64, 8)) == (3, 9)
    for size in (1, -1):
        with fails(errno.EINVAL):
            calls.getgroups(root, size, DATA)
    with fails(errno.EINVAL):
        calls.setgroups(root, 65537, DATA)
    with fails(errno.EPERM):
        calls.setgroups(user, 0, 0)
    assert calls.setgroups(root, 0, 0) == calls.getgroups(root, 0, 0) == 0


def test_capabilities_are_dropped_and_not_taken_back(root: Any) -> None:
    assert told(root) == (CAPABILITIES_ALL, CAPABILITIES_ALL, 0)
    give(root, 1, 3 | 1 << 40, 2)
    assert told(root) == (1, 3 | 1 << 40, 2)
    for refused in ((1, 7, 0), (4, 3, 0), (0, 0, 4)):
        with fails(errno.EPERM):
            give(root, *refused)
    with fails(errno.EPERM):
        give(root, 0, 0, 0, pid=999)
    give(root, 0, 0, 0)
    assert told(root) == (0, 0, 0)


def told(task: Any) -> tuple[int, ...]:
    task.space.write(DATA, struct.pack("<Ii", VERSION_3, 0))
    assert calls.capget(task, DATA, DATA + 8) == 0
    words = struct.unpack("<6I", task.space.read(DATA + 8, 24))
    return tuple(words[kind] | words[3 + kind] << 32 for kind in range(3))


def give(task: Any, *sets: int, pid: int = 0) -> None:
    words = [value >> 32 * half & 0xFFFF_FFFF for half in range(2) for value in sets]
    task.space.write(DATA, struct.pack("<Ii6I", VERSION_3, pid, *words))
    assert calls.capset(task, DATA, DATA + 8) == 0


def test_versions_of_capabilities(root: Any) -> None:
    root.space.write(DATA, struct.pack("<Ii", 1, 0))
    for call in (calls.capget, calls.capset):
        root.space.write(DATA, struct.pack("<Ii", 1, 0))
        with fails(errno.EINVAL):
            call(root, DATA, 0)
        assert struct.unpack("<I", root.space.read(DATA, 4)) == (VERSION_3,)
    for pid, error in ((-1, errno.EINVAL), (999, errno.ESRCH)):
        root.space.write(DATA, struct.pack("<Ii", VERSION_3, pid))
        with fails(error):
            calls.capget(root, DATA, 0)


def test_the_bounding_set(root: Any, user: Any) -> None:
    assert prctl(root, BOUNDING_READ, 3, 0, 0, 0) == 1
    assert prctl(root, BOUNDING_DROP, 3, 0, 0, 0) == 0
    assert prctl(root, BOUNDING_READ, 3, 0, 0, 0) == 0
    assert root.process.credentials.executed().permitted_capabilities == CAPABILITIES_ALL & ~8
    with fails(errno.EINVAL):
        prctl(root, BOUNDING_READ, 41, 0, 0, 0)
    with fails(errno.EPERM):
        prctl(user, BOUNDING_DROP, 3, 0, 0, 0)


def test_ambient_capabilities(root: Any) -> None:
    with fails(errno.EPERM):
        prctl(root, AMBIENT, 2, 5, 0, 0)
    give(root, CAPABILITIES_ALL, CAPABILITIES_ALL, 1 << 5)
    assert prctl(root, AMBIENT, 2, 5, 0, 0) == 0
    assert prctl(root, AMBIENT, 1, 5, 0, 0) == 1
    assert prctl(root, AMBIENT, 3, 5, 0, 0) == prctl(root, AMBIENT, 1, 5, 0, 0) == 0
    assert prctl(root, AMBIENT, 2, 5, 0, 0) == prctl(root, AMBIENT, 4, 0, 0, 0) == prctl(root, AMBIENT, 1, 5, 0, 0) == 0
    for arguments in ((4, 1, 0, 0), (1, 41, 0, 0), (5, 1, 0, 0), (1, 5, 1, 0)):
        with fails(errno.EINVAL):
            prctl(root, AMBIENT, *arguments)


def test_no_new_privileges_is_for_ever(user: Any) -> None:
    for arguments in ((0, 0, 0, 0), (1, 1, 0, 0)):
        with fails(errno.EINVAL):
            prctl(user, NO_NEW_PRIVILEGES, *arguments)
    assert prctl(user, 39, 0, 0, 0, 0) == 0
    assert prctl(user, NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert prctl(user, 39, 0, 0, 0, 0) == 1
