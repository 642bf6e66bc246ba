"""On whose behalf a path is walked: root, working directory and umask of a process, its credentials, and its task for procfs.

`FileSystemContext` is what fork(2) copies and CLONE_FS shares. Source: credentials(7), path_resolution(7), umask(2).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.task import Task
    from asynckvm.linux.vfs.location import Location
    from asynckvm.linux.vfs.mounts import Mounts

ROOT_USER: Final = 0
UMASK: Final = 0o022
_EXECUTABLE: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Credentials(Protocol):
    """What decides about access to files."""

    @property
    def euid(self) -> int: ...
    @property
    def egid(self) -> int: ...
    @property
    def groups(self) -> tuple[int, ...]: ...


class FileSystemContext:
    """Where a process's paths begin. `root` and `directory` are changed by chroot(2) and chdir(2)."""

    __slots__ = ("directory", "mounts", "root", "umask")

    def __init__(
        self, mounts: Mounts, root: Location | None = None, directory: Location | None = None, umask: int = UMASK
    ) -> None:
        self.mounts = mounts
        self.root = root if root is not None else mounts.root
        self.directory = directory if directory is not None else self.root
        self.umask = umask

    def copy(self) -> FileSystemContext:
        """For fork(2)."""
        return FileSystemContext(self.mounts, self.root, self.directory, self.umask)


class Caller(NamedTuple):
    """Who makes a call. `task` is None for the host's own use of a sandbox's files."""

    fs: FileSystemContext
    credentials: Credentials
    task: Task | None = None

    @property
    def is_root(self) -> bool:
        return self.credentials.euid == ROOT_USER

    def may(self, attributes: Attributes, wanted: int) -> bool:
        """Whether R_OK, W_OK, X_OK (any of them) are granted by the file's mode. The root user lacks only X on plain files."""
        credentials, mode = self.credentials, attributes.mode
        if credentials.euid == ROOT_USER:
            return not wanted & os.X_OK or stat.S_ISDIR(mode) or bool(mode & _EXECUTABLE)
        if attributes.user == credentials.euid:
            mode >>= 6
        elif attributes.group == credentials.egid or attributes.group in credentials.groups:
            mode >>= 3
        return not wanted & ~mode & 7

    def check(self, attributes: Attributes, wanted: int) -> None:
        """EACCES when it is not granted."""
        if not self.may(attributes, wanted):
            raise SyscallError(errno.EACCES)

    def owns(self, attributes: Attributes) -> bool:
        return self.credentials.euid in (ROOT_USER, attributes.user)

    def is_member(self, group: int) -> bool:
        return group == self.credentials.egid or group in self.credentials.groups
