"""The disk between host and guest: a tar archive with the job goes in, one with the results comes back.

A raw disk, because that is what every emulator has and the guest needs nothing for it but tar.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hwvm.emulator import CYLINDER
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwvm.variants import Variant

RUN = Path(__file__).with_name("guest") / "run"
# Room for the results; sparse.
SIZE = 128 * CYLINDER
MOST_RESULTS = 10_000


class Job(NamedTuple):
    """What the guest is to do, beside telling what its KVM can do."""

    root: Path  # of the project
    pytest: tuple[str, ...]  # arguments; none: no pytest
    c_builds: tuple[str, ...]  # folders of build/ whose C tests run
    instead: tuple[str, ...]  # a command to run instead of all tests
    environment: Mapping[str, str]
    seconds: int  # for everything
    c_seconds: int  # for one C test
    c_without: tuple[str, ...] = ()  # C tests that do not run


def script(job: Job) -> str:
    """The job as bash reads it."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    lines += [f"root={shlex.quote(str(job.root))}", f"budget={job.seconds}", f"c_seconds={job.c_seconds}"]
    lines += [f"c_builds={shlex.quote(' '.join(job.c_builds))}", f"c_without={shlex.quote(' '.join(job.c_without))}"]
    lines += [f"pytest=({shlex.join(job.pytest)})", f"instead=({shlex.join(job.instead)})"]
    return "".join(f"{line}\n" for line in lines)


def write(disk: Path, job: Job, variant: Variant) -> None:
    """Make the disk; the guest will run the job with the variant's module."""
    machine = f"module={shlex.quote(variant.module)}\nparameters={shlex.quote(variant.parameters)}\n"
    with disk.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, text in (("machine", machine), ("job", script(job)), ("run", RUN.read_text(encoding="utf-8"))):
                data = text.encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        file.truncate(SIZE)


def read(disk: Path) -> dict[str, bytes]:
    """The files that the guest brought back, by name; nothing is unpacked here, as a guest may have been attacked."""
    try:
        with tarfile.open(disk, "r:") as archive:
            entries = [entry for entry in archive if entry.isfile()]
            if any(entry.name == "job" for entry in entries):
                raise HarnessError("the guest brought no results back")
            # A sparse file may be longer than the disk that it is on.
            if len(entries) > MOST_RESULTS or any(entry.issparse() or entry.size > SIZE for entry in entries):
                raise HarnessError("the guest's results are more than there can be")
            return {entry.name.removeprefix("./"): content(archive, entry) for entry in entries}
    except (tarfile.TarError, OSError) as error:
        raise HarnessError(f"the guest's results cannot be read: {error}") from error


def content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    return file.read() if file else b""
