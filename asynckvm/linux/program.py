"""Program files of the host: found as execvp(3) does, opened and checked, ready to be loaded into many address spaces."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asynckvm.linux import loader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from asynckvm.linux.loader import Executable
    from asynckvm.platform import HostFile, Machine


@dataclass(frozen=True, slots=True)
class _Attributes:
    size: int


class HostExecutable:
    """An executable regular file of the host, for the loader. Raises OSError as execve(2) would."""

    def __init__(self, name: bytes) -> None:
        self._mapped: HostFile | None = None
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(self.fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(21, "Is a directory", os.fsdecode(name))
            if not stat.S_ISREG(status.st_mode) or not os.access(name, os.X_OK):
                raise PermissionError(13, "Permission denied", os.fsdecode(name))
        except BaseException:
            os.close(self.fd)
            raise

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def attributes(self) -> _Attributes:
        return _Attributes(os.fstat(self.fd).st_size)

    def map_file(self, machine: Machine) -> HostFile:
        return machine.open_file(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Program:
    """An open, checked program file; many processes may be made from one. Close it, or use it in `with`.

    `name` is what was executed (AT_EXECFN), `path` where the file really is (/proc/self/exe).
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        """Open and check. Raises OSError as execve(2) would (IsADirectoryError for a directory), and ElfError."""
        self.name = os.fsencode(name)
        self.path = os.fsencode(Path(os.fsdecode(name)).resolve())
        self._file = HostExecutable(self.name)
        try:
            self.prepare([self.name], []).close()
        except BaseException:
            self._file.close()
            raise

    def prepare(self, arguments: Sequence[bytes], environment: Sequence[bytes]) -> Executable:
        """To be loaded, then closed."""
        return loader.prepare(self._file, HostExecutable, self.name, arguments, environment)

    def duplicate(self) -> int:
        """A host descriptor of the file, owned by the caller, with an offset of its own."""
        return os.open(f"/proc/self/fd/{self._file.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self._file.close()

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
