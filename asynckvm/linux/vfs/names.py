"""Making, removing and renaming names, with Linux's checks in Linux's order; the file systems only do what is allowed by then.

Source: mkdir(2), mknod(2), unlink(2), rmdir(2), link(2), symlink(2), rename(2); fs/namei.c for the order of errors.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.files.inotify import IN_DELETE_SELF
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.mounts import holds_mounts
from asynckvm.linux.vfs.node import RENAME_EXCHANGE, RENAME_NOREPLACE, Owner
from asynckvm.linux.vfs.resolve import PATH_MAX, Walk

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.vfs.caller import Caller

_SPECIAL = (b"", b".", b"..")
_MAY_CHANGE = os.W_OK | os.X_OK


def make(caller: Caller, start: Location, path: bytes, mode: int, target: bytes = b"") -> Location:
    """A new file of the type in `mode`, its permissions less the umask; `target` for a symbolic link."""
    if stat.S_ISLNK(mode):
        if not target:
            raise SyscallError(errno.ENOENT)
        if len(target) >= PATH_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
    walk = Walk(caller, start)
    name, slash = walk.to_parent(path)
    if name in _SPECIAL or find_child(walk, name) is not None:
        raise SyscallError(errno.EEXIST)
    if slash and not stat.S_ISDIR(mode):
        raise SyscallError(errno.ENOENT)
    return make_in(caller, walk.location, name, mode, target)


def make_in(caller: Caller, parent: Location, name: bytes, mode: int, target: bytes = b"") -> Location:
    """The same for a name that is known not to exist in the directory `parent`."""
    attributes = check_changes(caller, parent)
    owner, mode = new_owner(caller, attributes, mode)
    entry = parent.node.make(parent.entry, name, mode, owner, target)
    caller.fs.mounts.watches.created(parent, name, directory=stat.S_ISDIR(mode))
    return Location(parent.mount, entry)


def unlink(caller: Caller, start: Location, path: bytes) -> None:
    walk = Walk(caller, start)
    name, slash = walk.to_parent(path)
    if name in _SPECIAL:
        raise SyscallError(errno.EISDIR)
    check_writable(walk.location)
    child = walk.child(name)
    if slash:
        raise SyscallError(errno.EISDIR if child.node.is_directory else errno.ENOTDIR)
    _check_removal(caller, walk.location, child)
    if child.node.is_directory:
        raise SyscallError(errno.EISDIR)
    watches = caller.fs.mounts.watches
    known = (child.node.identity, child.node.attributes().links) if watches.files else None
    walk.location.node.unlink(walk.location.entry, child.entry)
    if known is not None:
        watches.removed(walk.location, name, known[0], directory=False, last=known[1] <= 1)


def remove_directory(caller: Caller, start: Location, path: bytes) -> None:
    walk = Walk(caller, start)
    name, _ = walk.to_parent(path)
    if name in _SPECIAL:
        raise SyscallError({b"": errno.EBUSY, b".": errno.EINVAL, b"..": errno.ENOTEMPTY}[name])
    check_writable(walk.location)
    child = walk.child(name)
    _check_removal(caller, walk.location, child)
    if not child.node.is_directory:
        raise SyscallError(errno.ENOTDIR)
    watches = caller.fs.mounts.watches
    identity = child.node.identity if watches.files else None
    walk.location.node.remove_directory(walk.location.entry, child.entry)
    if identity is not None:
        watches.removed(walk.location, name, identity, directory=True, last=True)


def link(caller: Caller, old: Location, start: Location, path: bytes) -> None:
    """A further name for the file at `old`."""
    walk = Walk(caller, start)
    name, slash = walk.to_parent(path)
    if name in _SPECIAL or find_child(walk, name) is not None:
        raise SyscallError(errno.EEXIST)
    if slash:
        raise SyscallError(errno.ENOENT)
    if old.mount is not walk.location.mount:
        raise SyscallError(errno.EXDEV)
    check_writable(walk.location)
    attributes = old.node.attributes()
    if not caller.owns(attributes):
        _check_safe_source(caller, attributes)
    check_changes(caller, walk.location)
    if old.node.is_directory:
        raise SyscallError(errno.EPERM)
    if not attributes.links and not old.node.linkable:
        raise SyscallError(errno.ENOENT)
    walk.location.node.link(walk.location.entry, name, old.node)
    caller.fs.mounts.watches.created(walk.location, name)


def rename(caller: Caller, start: Location, path: bytes, target_start: Location, target_path: bytes, flags: int = 0) -> None:
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
        raise SyscallError(errno.EINVAL)
    source, target = Walk(caller, start), Walk(caller, target_start)
    old, old_slash = source.to_parent(path)
    new, new_slash = target.to_parent(target_path)
    if source.location.mount is not target.location.mount:
        raise SyscallError(errno.EXDEV)
    if old in _SPECIAL or new in _SPECIAL:
        raise SyscallError(errno.EEXIST if flags & RENAME_NOREPLACE and old not in _SPECIAL else errno.EBUSY)
    check_writable(source.location)
    child, replaced = source.child(old), find_child(target, new)
    _check_types(child, replaced, flags, old_slash=old_slash, new_slash=new_slash)
    if target.location.entry.is_below(child.entry):
        raise SyscallError(errno.EINVAL)
    if replaced is not None and source.location.entry.is_below(replaced.entry):
        raise SyscallError(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)
    if replaced is not None and replaced.node.identity == child.node.identity:
        return  # two names of one file: nothing changes
    _check_rename(caller, source.location, child, target.location, replaced, flags)
    watches = caller.fs.mounts.watches
    known = [(item.node.identity, item.node.is_directory) for item in (child, replaced) if item is not None and watches.files]
    source.location.node.rename(
        source.location.entry, child.entry, target.location.entry, new, replaced.entry if replaced is not None else None, flags
    )
    if not known:
        return
    watches.moved(source.location, old, target.location, new, known[0][0], directory=known[0][1])
    if len(known) > 1 and flags & RENAME_EXCHANGE:
        watches.moved(target.location, new, source.location, old, known[1][0], directory=known[1][1])
    elif len(known) > 1:
        watches.notify(known[1][0], IN_DELETE_SELF)


def _check_types(child: Location, replaced: Location | None, flags: int, *, old_slash: bool, new_slash: bool) -> None:
    """Whether both names are there, or not, as `flags` want it, and directories where a slash follows."""
    if flags & RENAME_NOREPLACE and replaced is not None:
        raise SyscallError(errno.EEXIST)
    if flags & RENAME_EXCHANGE:
        if replaced is None:
            raise SyscallError(errno.ENOENT)
        if new_slash and not replaced.node.is_directory:
            raise SyscallError(errno.ENOTDIR)
    if not child.node.is_directory and (old_slash or (new_slash and not flags & RENAME_EXCHANGE)):
        raise SyscallError(errno.ENOTDIR)


def _check_rename(
    caller: Caller, parent: Location, child: Location, into: Location, replaced: Location | None, flags: int
) -> None:
    _check_removal(caller, parent, child)
    if replaced is None:
        check_changes(caller, into)
    else:
        _check_removal(caller, into, replaced)
        if not flags & RENAME_EXCHANGE and child.node.is_directory != replaced.node.is_directory:
            raise SyscallError(errno.ENOTDIR if child.node.is_directory else errno.EISDIR)
    if parent.entry != into.entry:
        # What changes its parent has its ".." changed.
        if child.node.is_directory:
            caller.check(child.node.attributes(), os.W_OK)
        if flags & RENAME_EXCHANGE and replaced is not None and replaced.node.is_directory:
            caller.check(replaced.node.attributes(), os.W_OK)


# ---------------------------------------------------------------- checks


def find_child(walk: Walk, name: bytes) -> Location | None:
    """What the name is now; None when there is nothing."""
    try:
        return walk.child(name)
    except SyscallError as error:
        if error.number != errno.ENOENT:
            raise
        return None


def check_writable(location: Location) -> None:
    """EROFS."""
    if location.mount.read_only:
        raise SyscallError(errno.EROFS)


def check_changes(caller: Caller, parent: Location) -> Attributes:
    """Whether names may be added to the directory; its attributes."""
    check_writable(parent)
    if parent.entry.deleted:
        raise SyscallError(errno.ENOENT)
    attributes = parent.node.attributes()
    caller.check(attributes, _MAY_CHANGE)
    return attributes


def new_owner(caller: Caller, parent: Attributes, mode: int) -> tuple[Owner, int]:
    """Who owns a new file in the directory, and its mode after the umask."""
    if not stat.S_ISLNK(mode):
        mode &= ~caller.fs.umask
    group = caller.credentials.egid
    if parent.mode & stat.S_ISGID:
        group = parent.group
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    return Owner(caller.credentials.euid, group), mode


def _check_removal(caller: Caller, parent: Location, child: Location) -> None:
    attributes = check_changes(caller, parent)
    if attributes.mode & stat.S_ISVTX and not caller.owns(attributes) and not caller.owns(child.node.attributes()):
        raise SyscallError(errno.EPERM)
    if child.mount is not parent.mount or (parent.mount.children and holds_mounts(child)):
        raise SyscallError(errno.EBUSY)


def _check_safe_source(caller: Caller, attributes: Attributes) -> None:
    """As with fs.protected_hardlinks=1: what one could not write, one does not link."""
    mode = attributes.mode
    runs_as_others = mode & stat.S_ISUID or mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP
    if not stat.S_ISREG(mode) or runs_as_others or not caller.may(attributes, os.R_OK | os.W_OK):
        raise SyscallError(errno.EPERM)
