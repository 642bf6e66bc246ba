"""Program files of the host: found as execvp(3) does, opened and checked, ready to be loaded into many address spaces."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from asynckvm.linux import loader
from asynckvm.linux.files.host import HostDescriptor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from asynckvm.linux.loader import Executable
    from asynckvm.platform import HostFile, Machine


class HostExecutable(HostDescriptor):
    """An executable regular file of the host, for the loader. Raises OSError as execve(2) would."""

    def __init__(self, name: bytes) -> None:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        super().__init__(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), os.O_RDONLY)
        try:
            status = os.fstat(self.fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(name))
            if not stat.S_ISREG(status.st_mode) or not os.access(name, os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(name))
        except BaseException:
            self.close()
            raise

    def map_file(self, machine: Machine, *, writable: bool, length: int) -> HostFile:  # noqa: ARG002
        """A view of its own each time: the programs of several machines are made from one file."""
        return machine.open_file(self.fd)


class Program:
    """An open, checked program file; many processes may be made from one. Close it, or use it in `with`.

    `name` is what was executed (AT_EXECFN), `path` where the file really is (/proc/self/exe).
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        """Open and check. Raises OSError as execve(2) would (IsADirectoryError for a directory), and ElfError."""
        self.name = os.fsencode(name)
        self.path = os.fsencode(Path(os.fsdecode(name)).resolve())
        self._file = HostExecutable(self.name)
        self._file.hold()
        self._closed = False
        try:
            self.prepare([self.name], []).close()
        except BaseException:
            self._file.release()
            raise

    def prepare(self, arguments: Sequence[bytes], environment: Sequence[bytes]) -> Executable:
        """To be loaded, then closed."""
        return loader.prepare(self._file, HostExecutable, self.name, arguments, environment)

    def duplicate(self) -> int:
        """A host descriptor of the file, owned by the caller, with an offset of its own."""
        return os.open(f"/proc/self/fd/{self._file.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._file.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find(name: str, search: str | None = None) -> str:
    """The path execvp(3) would try for `name`; `search` is a PATH. Raises FileNotFoundError or PermissionError."""
    if "/" in name:
        return name
    denied = False
    for folder in (search if search is not None else os.defpath).split(os.pathsep):
        path = Path(folder or ".") / name
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            denied = True
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return str(path)
        denied = True
    if denied:
        raise PermissionError(13, "Permission denied", name)
    raise FileNotFoundError(2, "No such file or directory", name)
