"""The guest's file systems, as squashfs: everything lies at the same absolute path as on the host.

The base holds this Python and a few Debian packages and changes rarely; the project's image holds the tree, its virtual
environment and the C tests, and is made anew in a few seconds whenever one of those files changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hwvm import packages, program
from hwvm.emulator import CYLINDER
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SECONDS = 600
# What the tests call by name, and what is needed to run and to compile those.
TOOLS = (
    "bash", "binutils", "busybox-static", "coreutils", "dash", "debianutils", "diffutils", "findutils", "gcc", "grep", "libc-bin",
    "libc6-dev", "mawk", "musl-tools", "procps", "sed", "util-linux",
)  # fmt: skip
# Made by packages' scripts rather than shipped in them.
CONFIGURATION = (
    "/etc/alternatives", "/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/nsswitch.conf", "/etc/passwd", "/usr/bin/awk", "/usr/bin/cc", "/usr/bin/sh", "/bin", "/sbin", "/lib", "/lib64",
)  # fmt: skip
NOT_FROM_PACKAGES = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/var/cache/",
)
NOT_FROM_PYTHON = {"test", "tests", "idlelib", "turtledemo", "site-packages", "dist-packages", "ensurepip", "lib2to3"}
# Large, and of no use to tests: checkers, formatters and the builder of the module.
NOT_FROM_VENV = {"mypy", "mypyc", "pip", "setuptools", "ruff", "clang_format", "grimp", "scikit_build_core", "importlinter"}
TRUNK = re.compile(r"config-3\.|.*mypyc\.cpython.*|ruff$|clang-format$")


def base(cache: Path) -> Path:
    """The image of Python and the tools; made anew only when a package or Python changed."""
    python = [sys.version, sys.base_prefix, sysconfig.get_path("stdlib"), Path(__file__).read_text(encoding="utf-8")]
    digest = hashlib.sha256("\n".join([*python, packages.versions()]).encode()).hexdigest()
    image = cache / f"base-{digest[:16]}"
    if not image.exists():
        names = packages.closure(TOOLS, packages.status())
        found = [path for path in packages.files(names) if not path.startswith(NOT_FROM_PACKAGES)]
        found += [path for start in CONFIGURATION for path in tree(Path(start))]
        found += python_files()
        make(image, found)
    return image


def project(cache: Path, root: Path, builds: Iterable[str], extra: Iterable[Path]) -> Path:
    """The image of the tree as it is now, with its virtual environment and the C tests of these builds."""
    found = [str(root / name) for name in listed(root)]
    found += [path for folder in {Path(name).parent for name in found} for path in tree(folder / "__pycache__")]
    found += tree(root / ".venv", NOT_FROM_VENV)
    for build in builds:
        found += [str(path) for path in (root / "build" / build).glob("test_*") if os.access(path, os.X_OK)]
    for path in (root / "build" / "assembled", *extra):
        found += tree(path)
    image = cache / f"project-{state(found)[:16]}"
    if not image.exists():
        make(image, found)
    return image


def listed(root: Path) -> list[str]:
    """Files of the tree that are under version control or could be; without those that were deleted."""
    if not (root / ".git").exists():  # a source archive
        found = tree(root, {".venv", "build", "__pycache__"})
        return sorted(os.path.relpath(path, root) for path in found if not Path(path).is_dir())
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
    command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    return sorted(name for name in set(program.output(command).split("\0")) if name and os.path.lexists(root / name))


def tree(start: Path, without: Iterable[str] = ()) -> Iterator[str]:
    """A file, or a folder and all below it, except files and folders of these names."""
    without = set(without)
    if start.is_symlink() or start.is_file():
        yield str(start)
        return
    for folder, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name not in without and not TRUNK.match(name)]
        yield folder
        yield from (f"{folder}/{name}" for name in folders if Path(folder, name).is_symlink())
        yield from (f"{folder}/{name}" for name in names if not TRUNK.match(name))


def python_files() -> list[str]:
    """The interpreter that the virtual environment stands on, its library, and the shared libraries these need."""
    executable = Path(sys.executable)
    found = [str(path) for path in chain(executable)]
    for name in ("stdlib", "platstdlib"):
        found += tree(Path(sysconfig.get_path(name)), NOT_FROM_PYTHON)
    venv = Path(sys.prefix)
    objects = [path for path in found if path.endswith(".so") or "/bin/" in path]
    objects += [str(path) for path in venv.rglob("*.so")]
    libraries = subprocess.run(["ldd", *objects], capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    for library in sorted(set(re.findall(r"(/\S+) \(0x", libraries))):
        found += [str(path) for path in chain(Path(library))]
    return [path for path in found if not path.startswith(f"{venv}/")]


def chain(path: Path) -> Iterator[Path]:
    """A path and what it leads to, one symbolic link after another; links of folders on the way are resolved."""
    for _ in range(16):
        yield path.parent.resolve() / path.name
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
    raise HarnessError(f"too many symbolic links at {path}")


def state(paths: Iterable[str]) -> str:
    """Digest of names, sizes and times of change, which takes a second where the contents would take ten."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        digest.update(f"{path}\0{status.st_mode}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def members(paths: Iterable[str]) -> list[str]:
    """Relative to /, each once, parents first, with folders' links resolved (/lib may be /usr/lib); those that exist."""
    found: set[str] = set()
    real_folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(os.path.normpath(path))
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(folder)
        real = f"{real_folders[folder].rstrip('/')}/{name}"
        if name and os.path.lexists(real):
            found.add(real[1:])
            found.update(str(parent) for parent in Path(real[1:]).parents)
    return sorted(found - {"."})


def make(image: Path, paths: Iterable[str]) -> None:
    """Write a squashfs of these paths. Not compressed: the guest would pay ten times for what the host saves."""
    partial = image.with_suffix(".new")
    partial.unlink(missing_ok=True)
    # Names come as a list, which squashfs-tools 4.5 does not survive by itself; from tar it takes them well.
    archive = ["tar", "--create", "--directory=/", "--no-recursion", "--null", "--verbatim-files-from", "--files-from=-"]
    squash = ["mksquashfs", "-", str(partial), "-tar", "-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-no-progress", "-quiet"]
    names = b"".join(os.fsencode(name) + b"\0" for name in members(paths))
    with tempfile.TemporaryFile() as list_of_names, tempfile.TemporaryFile() as complaints:
        list_of_names.write(names)
        list_of_names.seek(0)
        try:
            with subprocess.Popen(archive, stdin=list_of_names, stdout=subprocess.PIPE, stderr=complaints) as packing:
                done = subprocess.run(
                    squash, stdin=packing.stdout, stdout=complaints, stderr=complaints, timeout=SECONDS, check=False
                )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise HarnessError(f"no image was made: {error}") from error
        if done.returncode != 0 or packing.returncode != 0:
            complaints.seek(0)
            raise HarnessError(f"mksquashfs failed: {complaints.read().decode(errors='replace').strip()}")
    size = partial.stat().st_size
    os.truncate(partial, size + -size % CYLINDER)
    partial.rename(image)
