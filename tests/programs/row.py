"""One row of the table of real programs: what is run natively and inside, and what may differ between the two, with the reason.

A row runs in a folder made anew for each side, at one path, so that whatever a program prints about its files is the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from support.native import Command, Outcome

SOURCES = Path(__file__).parent / "sources"
# Input files are as old as this on both sides; what a program writes is as new as its run, and is not compared.
_EPOCH_NS = 1_500_000_000_000_000_000
_SHOWN_BYTES = 4096
_INTERPRETER = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()


class Normal(NamedTuple):
    """What is replaced in stdout, stderr and small files before they are compared, and why it may differ."""

    pattern: bytes
    by: bytes
    why: str


PIDS = Normal(rb"\b[1-9]\d{0,6}\b", b"PID", "process numbers")
ADDRESSES = Normal(rb"\b0x[0-9a-f]{6,16}\b", b"ADDRESS", "address space layout is random")
SECONDS = Normal(rb"\d+[.]\d+ ?s\w*", b"SECONDS", "durations")
JOB_PIDS = Normal(rb"(?m)^(\[\d+\]) \d+$", rb"\1 PID", "process numbers of background jobs")
SHELL_PIDS = Normal(rb"line \d+: +\d+ ", b"line N: PID ", "process numbers in messages about dead jobs")


@dataclass(frozen=True, slots=True)
class Row:
    """`run` is an argument list, or a script for `shell`. `status` is how it ends natively: another one is a wrong row."""

    name: str
    run: tuple[str, ...] | str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    normal: tuple[Normal, ...] = ()
    status: int = 0
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    # Names in the folder, as shell patterns, whose content may differ.
    unlike: tuple[str, ...] = ()
    seconds: float = 60.0
    # What must be installed for it, besides what it runs.
    needs: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self.shell, self.run) if isinstance(self.run, str) else self.run

    def missing(self) -> str | None:
        """A program that it needs and that is not installed here."""
        return next((program for program in (self.argv[0], *self.needs) if shutil.which(program) is None), None)

    def command(self, folder: Path) -> Command:
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            **self.env,
        }
        return Command(self.argv, str(folder), env, self.stdin, self.seconds)

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """The folder of one run, filled, and gone afterwards."""
        path.mkdir(mode=0o755)
        try:
            for name, content in self.files.items():
                file = path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.encode() if isinstance(content, str) else content)
                file.chmod(0o755 if file.suffix in (".sh", ".pl") else 0o644)
            for place in (path, *path.rglob("*")):
                os.utime(place, ns=(_EPOCH_NS, _EPOCH_NS), follow_symlinks=False)
            yield path
        finally:
            shutil.rmtree(path)

    def seen(self, outcome: Outcome, folder: Path) -> Seen:
        """What is compared."""
        return Seen(outcome.status, self._normalized(outcome.stdout), self._normalized(outcome.stderr), dict(self._tree(folder)))

    def _normalized(self, data: bytes) -> bytes:
        for normal in self.normal:
            data = re.sub(normal.pattern, normal.by, data)
        return data

    def _tree(self, folder: Path) -> Iterator[tuple[str, str]]:
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            status = path.lstat()
            content = ""
            if path.is_symlink():
                content = f"-> {path.readlink()}"
            elif path.is_file() and not any(path.match(pattern) for pattern in self.unlike):
                data = path.read_bytes()
                content = _brief(self._normalized(data) if len(data) <= _SHOWN_BYTES else data)
            yield name, f"{status.st_mode:06o} {content}"


class Seen(NamedTuple):
    """What one side of a row showed."""

    status: str
    stdout: bytes
    stderr: bytes
    files: dict[str, str]


def _brief(data: bytes) -> str:
    return repr(data) if len(data) <= _SHOWN_BYTES else f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


@contextmanager
def place() -> Iterator[Path]:
    """A path of its own for the folders of one row: short, because addresses of Unix sockets are."""
    with tempfile.TemporaryDirectory(prefix="row-", dir="/tmp") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent, "work")


def source(name: str) -> bytes:
    """A file of sources/."""
    return (SOURCES / name).read_bytes()


def bash(name: str, script: str, **more: object) -> Row:
    return Row(name, script, shell=("/bin/bash", "-c"), **more)  # type: ignore[arg-type]


def busybox(name: str, script: str, **more: object) -> Row:
    """A script for busybox's shell, which finds the other applets in itself."""
    return Row(name, script, shell=("busybox", "sh", "-c"), **more)  # type: ignore[arg-type]


def interpreters() -> dict[str, Path]:
    """Python as Debian has it and the one that this runs in."""
    return {"debian": Path("/usr/bin/python3"), "project": _INTERPRETER}


def reads() -> tuple[str, ...]:
    """What rows read beyond the programs of the system: the project's interpreter, when it is not one of these."""
    prefix = _INTERPRETER.parent.parent
    return () if str(prefix) == "/usr" else (str(prefix),)
