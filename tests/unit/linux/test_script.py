"""The first line of scripts, with every way in which it can be odd; what is expected was seen on Linux."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.script import HEAD_BYTES, Script, parse

PATH = b"/" + b"x" * 251

LINES = [
    (b"#!/bin/sh\n", (b"/bin/sh", None)),
    (b"#! \t/bin/sh \t\n", (b"/bin/sh", None)),
    (b"#!/bin/sh -e\nrest", (b"/bin/sh", b"-e")),
    (b"#!/bin/sh  -e  -x \t\n", (b"/bin/sh", b"-e  -x")),
    (b"#!/bin/sh\t-e", (b"/bin/sh", b"-e")),
    (b"#!/bin/sh", (b"/bin/sh", None)),
    (b"#!/bin/sh ", (b"/bin/sh", b"")),
    (b"#!/bin/sh\r\n", (b"/bin/sh\r", None)),
    (b"#!/bin/sh\0junk -e\n", (b"/bin/sh", None)),
    (b"#!/bin/sh -e\0junk\n", (b"/bin/sh", b"-e")),
    (b"#!" + PATH + b"\n", (PATH, None)),
    (b"#!" + PATH + b" " + b"-e", (PATH, None)),
    (b"#!/bin/sh " + b"a" * 300, (b"/bin/sh", b"a" * 245)),
]


@pytest.mark.parametrize(("head", "expected"), LINES)
def test_an_interpreter_and_its_argument(head: bytes, expected: tuple[bytes, bytes | None]) -> None:
    assert parse(head[:HEAD_BYTES]) == Script(*expected)


@pytest.mark.parametrize("head", [b"", b"#", b"# !/bin/sh\n", b" #!/bin/sh\n", b"\x7fELF"])
def test_what_is_no_script(head: bytes) -> None:
    assert parse(head) is None


@pytest.mark.parametrize("head", [b"#!\n", b"#! \t \n", b"#!" + b" " * 254, b"#!/" + b"x" * 253])
def test_a_line_without_a_whole_name(head: bytes) -> None:
    with pytest.raises(ElfError) as caught:
        parse(head)
    assert caught.value.problem is ElfProblem.BAD_SCRIPT


@given(st.binary(max_size=HEAD_BYTES - 2))
def test_any_line_has_an_answer(line: bytes) -> None:
    try:
        found = parse(b"#!" + line)
    except ElfError:
        return
    assert found is not None
    assert found.interpreter in line
    assert not set(found.interpreter) & set(b" \t\0\n")


@pytest.mark.parametrize("tail", [b"\n", b" \n", b" ", b"", b" a  b \n", b"\ta", b" a\0b\n", b" " + b"a" * 300, b"\0 a\n"])
def test_this_kernel_agrees(tail: bytes, tmp_path: Path) -> None:
    """The arguments that a native run of a script hands to its interpreter."""
    echo = tmp_path / "echo"
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", echo],
        input=b'#include <stdio.h>\nint main(int n, char **v) { while (*v) printf("[%s]", *v++); return n < 0; }',
        check=True,
        timeout=30,
    )
    path = tmp_path / "script"
    path.write_bytes(b"#!" + os.fsencode(echo) + tail)
    path.chmod(0o755)
    found = parse(path.read_bytes()[:HEAD_BYTES])
    assert found is not None
    expected = [found.interpreter, *([] if found.argument is None else [found.argument]), os.fsencode(path), b"last"]
    result = subprocess.run([path, "last"], capture_output=True, check=True, timeout=10)
    assert result.stdout == b"".join(b"[%s]" % text for text in expected)
