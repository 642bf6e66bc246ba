"""The Bochs program, built once from Debian's source package.

The packaged binary carries a debugger that looks at every instruction, which makes it four times slower than this build: the
difference between minutes and hours of tests. And it keeps no translation across a switch, so that no missing flush would
ever show; bochs-tags.patch changes that. Nothing is installed: the program stays in the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The first release with Bochs 3.
SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_HELPER = "/usr/lib/apt/apt-helper"
SECONDS = 120
BUILD_SECONDS = 3600
# Everything that a processor with VMX needs, every speed-up, no debugger, no screen.
FEATURES = (
    "--enable-cpu-level=6", "--enable-x86-64", "--enable-vmx=2", "--enable-avx", "--enable-evex", "--enable-protection-keys",
    "--enable-monitor-mwait", "--enable-alignment-check", "--enable-memtype", "--enable-configurable-msrs", "--enable-pci",
    "--enable-cdrom", "--enable-all-optimizations", "--disable-docbook", "--disable-xpm", "--without-x", "--with-nogui",
)  # fmt: skip
FLAGS = "-O2 -fomit-frame-pointer"
PATCH = Path(__file__).with_name("bochs-tags.patch")


class Source(NamedTuple):
    """The original source in the archive, as its signed index says."""

    address: str
    name: str
    digest: str  # with the kind before it, as apt likes it: SHA256:...


def build(cache: Path) -> Path:
    """The program, from the cache or made now, which takes several minutes; one maker at a time."""
    program = cache / f"bochs-{recipe()}" / "bochs"
    with _locked(cache):
        if not program.exists():
            _make(cache, program)
    return program


def recipe() -> str:
    """Names what the program is made from, so that a change of it makes another one."""
    return hashlib.sha256("\n".join([SUITE, *FEATURES, FLAGS, PATCH.read_text(encoding="utf-8")]).encode()).hexdigest()[:16]


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".bochs-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(cache: Path, program: Path) -> None:
    work = cache / "bochs.new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    found = source(apt_sources(work))
    archive = work / found.name
    _run([APT_HELPER, "download-file", found.address, str(archive), found.digest], work)
    tree = work / "tree"
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    (folder,) = tree.iterdir()
    _run(["patch", "--strip=1", "--batch", f"--input={PATCH}"], folder)
    _run(["./configure", *FEATURES], folder, {"CFLAGS": FLAGS, "CXXFLAGS": FLAGS})
    _run(["make", f"-j{len(os.sched_getaffinity(0))}"], folder, seconds=BUILD_SECONDS)
    program.parent.mkdir(exist_ok=True)
    (folder / "bochs").rename(program)
    shutil.rmtree(work)


def apt_sources(folder: Path) -> str:
    """Where the archive has it, from apt with a state of its own beside the host's, which stays as it is."""
    lines = _run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(LABEL) $(REPO_URI)", "Created-By: Packages"], folder
    )
    mirrors = re.findall(r"^Debian main Debian (\S+)$", lines, re.MULTILINE)
    if not mirrors:
        raise HarnessError("apt knows no archive of Debian's main section; this needs Debian 12 or 13")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n", encoding="utf-8")
    options = []
    for name, value in (
        ("Dir::Etc::sourcelist", folder / "sources.list"),
        ("Dir::Etc::sourceparts", "-"),
        ("Dir::State::lists", folder / "lists"),
        ("Dir::Cache", folder / "cache"),
        ("APT::Sandbox::User", "root"),
    ):
        options += ["-o", f"{name}={value}"]
    _run(["apt-get", *options, "update", "-q"], folder)
    return _run(["apt-get", *options, "source", "--print-uris", "-q", "bochs"], folder)


def source(told: str) -> Source:
    """The original source among what `apt-get source --print-uris` told."""
    found = re.search(r"^'(\S+)' (bochs_\S+\.orig\.tar\.xz) \d+ (SHA256:[0-9a-f]{64})$", told, re.MULTILINE)
    if found is None:
        raise HarnessError(f"apt does not know where the source of bochs is: {told.strip()}")
    return Source(*found.groups())


def _run(command: list[str], folder: Path, environment: Mapping[str, str] | None = None, seconds: int = SECONDS) -> str:
    """Its output; when it fails, the end of what it said is the error's text."""
    both = {**os.environ, "LC_ALL": "C", **(environment or {})}
    try:
        done = subprocess.run(
            command, cwd=folder, env=both, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"building Bochs: {error}") from error
    if done.returncode != 0:
        raise HarnessError(f"building Bochs: {' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout
