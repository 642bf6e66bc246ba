"""Runs the host's programs that make kernels and images, so that each either worked or says what is wrong, within a bound."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SECONDS = 120


def output(
    command: Sequence[str], seconds: float = SECONDS, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Standard output of a program that must succeed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, cwd=cwd, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise HarnessError(f"{command[0]} is not installed: run scripts/hwtest without --no-build, which installs it") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"{shlex.join(command)} did not end within {seconds:.0f} s") from error
    if done.returncode != 0:
        raise HarnessError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
