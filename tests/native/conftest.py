"""Builds the C core once for each way the C tests run; see scripts/lib/build-native for the ways."""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUILD_SECONDS = 600


@functools.cache
def build(variant: str) -> Path:
    """Folder of an up-to-date build; quick when scripts/test has built it already."""
    command = [str(ROOT / "scripts/lib/build-native"), variant]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, f"the {variant} build failed:\n{done.stdout}{done.stderr}"
    return ROOT / "build" / variant


@pytest.fixture(scope="session")
def native_build() -> Callable[[str], Path]:
    return build
