"""The root file system of a sandbox: the default one, and what is bound into it."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.vfs import default
from asynckvm.linux.vfs.devfs import DevFileSystem, TerminalFileSystem
from asynckvm.linux.vfs.procfs import ProcFileSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.kernel import Kernel
    from asynckvm.sandbox.binds import Bind
    from asynckvm.sandbox.limits import Limits


def default_credentials() -> Credentials:
    """The numbers of the host's user: files of a bind then belong to whom they belong outside."""
    return Credentials.of(os.geteuid(), os.getegid(), tuple(os.getgroups()))


def build(kernel: Kernel, binds: Sequence[Bind], limits: Limits, credentials: Credentials) -> None:
    """Give the kernel its mounts. OSError for a bind whose source is not there."""
    kernel.mounts = default.build(
        user=_user(credentials),
        binds=[default.Bind(bind.source, bind.target, bind.writable) for bind in binds],
        proc=ProcFileSystem(kernel),
        devices=DevFileSystem(kernel.terminals),
        size=limits.files,
        resolver=kernel.network.outside.has_policy,
    )
    kernel.terminals.user = credentials.ruid
    default.Builder(kernel.mounts).mount(TerminalFileSystem(kernel.terminals), "/dev/pts")


def bind(kernel: Kernel, bind: Bind) -> None:
    """One more bind, on top of what is there."""
    default.Builder(kernel.mounts).bind(default.Bind(bind.source, bind.target, bind.writable))


def has(kernel: Kernel, path: str) -> bool:
    """Whether the path leads to anything."""
    return default.Builder(kernel.mounts).has(path)


def _user(credentials: Credentials) -> default.User:
    if credentials.ruid == 0:
        return default.User()
    try:
        name = pwd.getpwuid(credentials.ruid).pw_name
    except KeyError:
        name = "user"
    return default.User(name, credentials.ruid, credentials.rgid)
