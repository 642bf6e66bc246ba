"""What the documents show works: the README's program runs, and the commands and files that documents name exist."""

import re
import subprocess
import sys

import pytest

from support import tree

DOCUMENTS = tree.files("*.md")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", tree.read("README.md"), re.DOTALL | re.MULTILINE)


# What each of them prints, in the order of the document.
PRINTED = (
    "exited with 1 b'45\\n' b\"FileNotFoundError: [Errno 2] No such file or directory: '/etc/shadow'\"\nstopped: timeout\n",
    "the guest is off its vCPU again\n",
)


@pytest.mark.guests
@pytest.mark.parametrize(("program", "printed"), list(zip(PROGRAMS, PRINTED, strict=False)))
def test_the_example_runs(program: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == printed


def test_every_example_is_run() -> None:
    assert len(PROGRAMS) == len(PRINTED)


def test_files_named_in_documents_exist() -> None:
    names = {
        (path, name)
        for path in DOCUMENTS
        for name in re.findall(r"`?\b((?:scripts|tests|native|asynckvm)/[\w./-]+\w)", tree.read(path))
    }
    assert {(path, name) for path, name in names if not (tree.ROOT / name).exists()} == set()


def test_scripts_are_executable() -> None:
    scripts = [tree.ROOT / path for path in tree.files("scripts/*", ".ci/run") if "." not in path.split("/")[-1]]
    assert [script for script in scripts if not script.stat().st_mode & 0o100] == []
