"""Every C test, built plainly, for memory errors and for data races, as one test here.

A C test that exits with 77 could not run on this machine: it is skipped, or fails where KVM is demanded.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import platforms, tree

if TYPE_CHECKING:
    from collections.abc import Callable

# Above the time limit that CMakeLists.txt gives each test, so that ctest's own verdict is seen.
CTEST_SECONDS = 330
NAMES = [Path(path).stem for path in tree.files("native/tests/test_*.c")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["plain", "asan", "tsan"])
@pytest.mark.parametrize("name", NAMES)
def test_c(name: str, variant: str, native_build: Callable[[str], Path]) -> None:
    command = ["ctest", "--test-dir", str(native_build(variant)), "--tests-regex", f"^{re.escape(name)}$", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CTEST_SECONDS, check=False)
    assert "tests failed out of 1" in done.stdout, f"ctest did not run {name}:\n{done.stdout}{done.stderr}"
    if "***Skipped" in done.stdout:
        assert not platforms.kvm_required(), f"ASYNCKVM_REQUIRE_KVM=1, but {name} skipped itself:\n{done.stdout}"
        pytest.skip(f"{name} says it cannot run on this machine")
    assert done.returncode == 0, done.stdout


def test_there_are_c_tests() -> None:
    assert NAMES
