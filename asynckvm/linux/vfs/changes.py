"""Changing attributes: who may change the mode, owner, times and size of a file, and what follows from it.

Source: chmod(2), chown(2), utimensat(2), truncate(2), xattr(7); notify_change in fs/attr.c.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from asynckvm.linux import busy
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import IN_ATTRIB, IN_MODIFY
from asynckvm.linux.vfs.names import check_writable
from asynckvm.linux.vfs.node import NOW, Change

if TYPE_CHECKING:
    from asynckvm.linux.vfs.caller import Caller
    from asynckvm.linux.vfs.location import Location


def set_mode(caller: Caller, location: Location, mode: int) -> None:
    check_writable(location)
    attributes = location.node.attributes()
    if stat.S_ISLNK(attributes.mode):
        raise SyscallError(errno.EOPNOTSUPP)
    if not caller.owns(attributes):
        raise SyscallError(errno.EPERM)
    mode &= 0o7777
    if not caller.is_root and not caller.is_member(attributes.group):
        mode &= ~stat.S_ISGID
    location.node.change(Change(mode=mode))
    caller.fs.mounts.watches.about(location, IN_ATTRIB)


def set_owner(caller: Caller, location: Location, user: int | None, group: int | None) -> None:
    """None leaves one as it is."""
    check_writable(location)
    attributes = location.node.attributes()
    if not caller.is_root:
        gives_away = user is not None and user != attributes.user
        foreign = group is not None and group != attributes.group and not caller.is_member(group)
        unowned = (user is not None or group is not None) and not caller.owns(attributes)
        if gives_away or foreign or unowned:
            raise SyscallError(errno.EPERM)
    # A program that ran as its old owner must not run as the new one.
    mode = without_privileges(attributes.mode)
    location.node.change(Change(mode=mode, user=user, group=group))
    caller.fs.mounts.watches.about(location, IN_ATTRIB)


def set_times(caller: Caller, location: Location, accessed: int | None, modified: int | None) -> None:
    """None leaves one as it is, NOW is the current time."""
    if accessed is None and modified is None:
        return
    check_writable(location)
    attributes = location.node.attributes()
    if not caller.owns(attributes):
        if (accessed, modified) != (NOW, NOW):
            raise SyscallError(errno.EPERM)
        caller.check(attributes, os.W_OK)
    location.node.change(Change(accessed=accessed, modified=modified))
    caller.fs.mounts.watches.about(location, IN_ATTRIB)


def set_size(caller: Caller, location: Location, length: int) -> None:
    attributes = location.node.attributes()
    if stat.S_ISDIR(attributes.mode):
        raise SyscallError(errno.EISDIR)
    if not stat.S_ISREG(attributes.mode):
        raise SyscallError(errno.EINVAL)
    check_writable(location)
    caller.check(attributes, os.W_OK)
    if caller.task is not None:
        busy.check_not_executed(caller.task.process.kernel, attributes)
    location.node.truncate(length)
    if not caller.is_root and (mode := without_privileges(attributes.mode)) is not None:
        location.node.change(Change(mode=mode))
    caller.fs.mounts.watches.about(location, IN_MODIFY)


def without_privileges(mode: int) -> int | None:
    """The permissions of a regular file without those that let it run as its owner; None when it has none of those."""
    dropped = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return stat.S_IMODE(mode & ~dropped) if stat.S_ISREG(mode) and mode & dropped else None


def check_xattr(caller: Caller, location: Location, wanted: int) -> None:
    """Whether the caller may read (R_OK) or change (W_OK) extended attributes of users."""
    if wanted & os.W_OK:
        check_writable(location)
    attributes = location.node.attributes()
    if not (stat.S_ISREG(attributes.mode) or stat.S_ISDIR(attributes.mode)):
        raise SyscallError(errno.EPERM if wanted & os.W_OK else errno.ENODATA)
    caller.check(attributes, wanted)
