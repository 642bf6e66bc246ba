"""busybox's own test-suites, applet by applet and by parts of its shell, with the busybox of the system: its source package
brings the tests.

Applets that are about devices, mounts or the network outside are not for a sandbox, natively unprivileged or not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conformance.runner import Case, Verdict
from support.native import Outcome

HOW_TO_GET: Final = "the source package of busybox: apt-get source busybox, with a deb-src line in the sources of apt"
_LINE: Final = re.compile(r"^(PASS|FAIL|SKIPPED|UNTESTED): (.*)$")
_SHELL_LINE: Final = re.compile(r"^(ash-\w+/\S+): (ok|fail)$")
_SHELL_VERDICTS: Final = {"ok": "passed", "fail": "failed"}
_VERDICTS: Final = {"PASS": "passed", "FAIL": "failed", "SKIPPED": "skipped", "UNTESTED": "skipped"}
# Also bc, which computes for minutes.
_LEFT_OUT: Final = frozenset(("all_sourcecode", "bc", "mount", "makedevs", "mdev", "mkfs.minix", "wget", "start-stop-daemon"))


# What the suite's `runtest` does for one applet, without the links to all applets and the list of options, which are made once.
_SCRIPT: Final = """
cd testsuite; export tsdir=$PWD bindir=${PWD%/*}; PATH=$bindir/links:$tsdir:$bindir:$PATH
if [ -d "$1" ]; then
	for test in "$1"/*; do
		mkdir .run; cd .run
		if d=$tsdir sh -x -e "../$test" >../.output 2>&1; then verdict=PASS; else verdict=FAIL; fi
		echo "$verdict: ${test##*/}"
		cd ..; rm -rf .run
	done
fi
if [ -f "$1.tests" ]; then "./$1.tests"; fi
"""


# The shell's tests bring their own runner; what differs follows the line that says so.
_SHELL_SCRIPT: Final = """
cd ash_test && ./run-all "$1"; for file in *.fail; do if [ -s "$file" ]; then echo "$file"; cat "$file"; fi; done >&2
"""


def prepare(source: Path, work: Path) -> None:
    """A folder with the suite, its configuration, the system's busybox and a link to it for each applet."""
    program = shutil.which("busybox")
    if program is None:
        raise SystemExit("busybox is not installed")
    if not (work / "tree").exists():
        _prepare_applets(source, program, work / "tree")
    if not (work / "shell").exists():
        _prepare_shell(source, program, work / "shell")


def _prepare_applets(source: Path, program: str, tree: Path) -> None:
    (tree / "links").mkdir(parents=True)
    shutil.copytree(source / "testsuite", tree / "testsuite", symlinks=True)
    shutil.copytree(source / "scripts", tree / "scripts", symlinks=True)
    shutil.copy(program, tree / "busybox")
    shutil.copy(source / "debian/config/pkg/static", tree / ".config")
    for applet in subprocess.check_output([program, "--list"], text=True).split():
        (tree / "links" / applet).symlink_to("../busybox")


def _prepare_shell(source: Path, program: str, tree: Path) -> None:
    folder = tree / "ash_test"
    shutil.copytree(source / "shell/ash_test", folder, symlinks=True)
    shutil.copy(program, folder / "ash")
    shutil.copy(source / "debian/config/pkg/static", folder / ".config")
    for name in ("printenv", "recho", "zecho"):
        subprocess.check_call(["gcc", "-w", "-O2", "-o", folder / name, folder / f"{name}.c"])


def cases(work: Path, seconds: float) -> Iterator[Case]:
    tree = work / "tree"
    tests = {path.stem for path in (tree / "testsuite").glob("*.tests")}
    tests |= {path.name for path in (tree / "testsuite").iterdir() if path.is_dir()}
    applets = {path.name for path in (tree / "links").iterdir()} | {"busybox", "rx", "parse"}
    options = re.findall(r"^CONFIG_(\w+)=", (tree / ".config").read_text(), re.MULTILINE)
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "{folder}",
        "LC_ALL": "C.UTF-8",
        "ECHO": "/bin/echo",
        "VERBOSE": "1",
        "OPTIONFLAGS": f":{':'.join(options)}:",
    }
    for name in sorted((tests & applets) - _LEFT_OUT):
        yield Case(name, name, ("/bin/sh", "-c", _SCRIPT, "sh", name), env, seconds, files=tree)
    shell = work / "shell"
    for name in sorted(path.name for path in (shell / "ash_test").glob("ash-*")):
        yield Case(name, name, ("/bin/sh", "-c", _SHELL_SCRIPT, "sh", name), env, seconds, files=shell)


def judge(case: Case, outcome: Outcome) -> dict[str, Verdict]:
    tests: dict[str, Verdict] = {}
    for line in outcome.stdout.decode(errors="replace").splitlines():
        if match := _LINE.match(line):
            tests[f"{case.name}: {match[2]}"] = (_VERDICTS[match[1]], "")
        elif match := _SHELL_LINE.match(line):
            tests[match[1]] = (_SHELL_VERDICTS[match[2]], "")
    if outcome.returncode is None:
        tests[f"{case.name} as a whole"] = ("failed", f"no end within {case.seconds:g} s, after {len(tests)} tests")
    elif not tests and outcome.returncode:
        said = outcome.stderr.decode(errors="replace").strip().splitlines()[-1:]
        tests[f"{case.name} as a whole"] = ("failed", f"{outcome.status}; {''.join(said)[:200]}")
    return tests
