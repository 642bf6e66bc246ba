"""What the documents show works: the README's program runs, and the commands and files that documents name exist."""

import re
import subprocess
import sys

import pytest

from support import tree

DOCUMENTS = tree.files("*.md")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", tree.read("README.md"), re.DOTALL | re.MULTILINE)


@pytest.mark.kvm
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_example_runs(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the guest is off its vCPU again\n"


def test_there_is_an_example() -> None:
    assert len(PROGRAMS) == 1


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
