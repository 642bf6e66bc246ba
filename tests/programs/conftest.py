"""Real programs, run natively and as guests: the same bytes out, the same status.

Compiled once a test run from sources/, in each kind of static linking; a test that needs a compiler that is not installed skips.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from asynckvm.platform import Machine
from asynckvm.sandbox import Sandbox

SOURCES = Path(__file__).parent / "sources"
SECONDS = 40
# How programs are linked: compiler and flags.
KINDS = {
    "glibc": ("gcc", "-static"),
    "glibc-pie": ("gcc", "-static-pie", "-fPIE"),
    "musl": ("musl-gcc", "-static"),
}
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TEST": "a value"}


class Result(NamedTuple):
    """How a program ended: returncode as subprocess has it."""

    returncode: int
    stdout: bytes
    stderr: bytes


Build = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs lie."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def build(built: Path) -> Build:
    """build(source, kind) gives a program of sources/, linked that way."""

    def building(source: str, kind: str = "glibc") -> Path:
        target = built / f"{source}-{kind}"
        if not target.exists():
            compiler, *flags = KINDS[kind]
            if shutil.which(compiler) is None:
                pytest.skip(f"{compiler} is not installed")
            command = [compiler, *flags, "-O1", "-w", str(SOURCES / f"{source}.c"), "-o", str(target), "-lm"]
            subprocess.run(command, check=True, timeout=SECONDS)
        return target

    return building


@pytest.fixture(scope="session")
def busybox() -> Path:
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("busybox is not installed")
    return Path(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose files programs may look at."""
    (tmp_path / "text").write_text("first line\nsecond line\nthird line, which is the last\n")
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "folder/sub").mkdir(parents=True)
    (tmp_path / "folder/inner").touch()
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    return tmp_path


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    async with Machine.open(vcpus=2, memory=512 << 20) as machine:
        yield machine


@pytest.fixture
def native(folder: Path) -> Callable[..., Result]:
    """native(argv, stdin=b"") runs a program on the host."""

    def running(argv: list[str], stdin: bytes = b"") -> Result:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, cwd=folder, env=ENVIRONMENT, timeout=SECONDS, preexec_fn=_no_core_file
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return running


@pytest.fixture
async def sandbox(folder: Path, built: Path, machine: Machine) -> AsyncIterator[Sandbox]:
    """It sees the folder and the compiled programs where they are, and may write neither."""
    binds = [(str(path), str(path)) for path in (folder, built)]
    async with Sandbox(machine=machine, binds=binds, env=ENVIRONMENT, cwd=str(folder)) as sandbox:
        yield sandbox


@pytest.fixture
def inside(sandbox: Sandbox) -> Callable[..., Awaitable[Result]]:
    """`await inside(argv, stdin=b"")` runs it in the sandbox."""

    async def running(argv: list[str], stdin: bytes = b"") -> Result:
        result = await sandbox.run(argv, input=stdin, timeout=SECONDS)
        return Result(result.returncode, result.stdout, result.stderr)

    return running


@pytest.fixture
def command(folder: Path) -> Callable[..., Result]:
    """command(*arguments, stdin=b"") runs the asynckvm command in a process of its own."""

    def running(*arguments: str, stdin: bytes = b"") -> Result:
        argv = [sys.executable, "-m", "asynckvm", *arguments]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(argv, input=stdin, capture_output=True, cwd=folder, env=environment, timeout=SECONDS)
        return Result(done.returncode, done.stdout, done.stderr)

    return running


def _no_core_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
