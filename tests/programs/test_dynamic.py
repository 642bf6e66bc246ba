"""Dynamically linked programs and scripts: started by their own interpreters, as natively."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
SOURCE = Path(__file__).parent / "sources" / "vector.c"
LINKS = {
    "dynamic-pie": ["gcc", "-pie", "-fPIE"],
    "dynamic": ["gcc", "-no-pie"],
    "static": ["gcc", "-static"],
    "static-pie": ["gcc", "-static-pie", "-fPIE"],
    "musl": ["musl-gcc"],
}


@pytest.mark.parametrize("link", LINKS)
async def test_what_a_program_is_told(link: str, tmp_path: Path, native: Native, inside: Inside) -> None:
    compiler, *options = LINKS[link]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    target = tmp_path / link
    subprocess.run([compiler, *options, "-O1", "-w", str(SOURCE), "-o", str(target)], check=True, timeout=60)
    argv = [str(target), "one", "", "three and a half"]
    result = native(argv)
    assert result.returncode == 0
    assert await inside(argv) == result


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/echo", "hello"],
        ["/bin/ls", "text", "folder"],
        ["/bin/cat", "text", "missing"],
        ["/usr/bin/sha256sum", "big"],
        ["/bin/dash", "-c", "for i in 1 2 3; do echo $i; done; exit 3"],
        ["/usr/bin/python3", "-S", "-c", "import sys; print(sum(range(1000)), sys.argv, sys.byteorder)", "x"],
    ],
    ids=lambda argv: argv[0],
)
async def test_programs_of_the_host(argv: list[str], native: Native, inside: Inside) -> None:
    if not os.access(argv[0], os.X_OK):
        pytest.skip(f"{argv[0]} is not installed")
    assert await inside(argv) == native(argv)


async def test_the_linker_itself_runs_a_program(native: Native, inside: Inside) -> None:
    argv = ["/lib64/ld-linux-x86-64.so.2", "/bin/echo", "by hand"]
    assert await inside(argv) == native(argv)


@pytest.mark.parametrize("line", ["/bin/echo", "/bin/echo -n  a b ", "{0}/inner -x", "/bin/cat"])
async def test_scripts(line: str, tmp_path: Path, native: Native, inside: Inside) -> None:
    for name, first in (("inner", "/bin/echo"), ("script", line.format(tmp_path))):
        (tmp_path / name).write_text(f"#!{first}\nthe rest\n")
        (tmp_path / name).chmod(0o755)
    argv = [str(tmp_path / "script"), "one", "two"]
    assert await inside(argv) == native(argv)
