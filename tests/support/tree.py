"""The files of this project, for the tests that hold house rules over them."""

from __future__ import annotations

import functools
import os
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What tools leave behind; the same as .gitignore.
NOT_OURS = {
    ".git", ".venv", "build", "dist", "__pycache__", ".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache",
    ".ruff_cache",
}  # fmt: skip


@functools.cache
def all_files() -> tuple[str, ...]:
    """Every file of the project, as a path relative to ROOT; sorted."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in names]
    return tuple(sorted(found))


def files(*patterns: str) -> list[str]:
    """Those that match one of the patterns; `*` matches slashes as well, so "asynckvm/*.py" is every module."""
    return [path for path in all_files() if any(fnmatchcase(path, pattern) for pattern in patterns)]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
