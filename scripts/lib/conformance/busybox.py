"""busybox's own test-suite, applet by applet, with the busybox of the system: its source package brings the tests.

Applets that are about devices, mounts or the network outside are not for a sandbox, natively unprivileged or not.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conformance.runner import Case, Verdict
from support.native import Outcome

HOW_TO_GET: Final = "the source package of busybox: apt-get source busybox, with a deb-src line in the sources of apt"
_LINE: Final = re.compile(r"^(PASS|FAIL|SKIPPED|UNTESTED): (.*)$")
_VERDICTS: Final = {"PASS": "passed", "FAIL": "failed", "SKIPPED": "skipped", "UNTESTED": "skipped"}
_LEFT_OUT: Final = frozenset(("all_sourcecode", "mount", "makedevs", "mdev", "mkfs.minix", "wget", "start-stop-daemon"))


def prepare(source: Path, work: Path) -> None:
    """A folder with the suite, its configuration and the system's busybox, as the suite expects them to lie."""
    tree = work / "tree"
    if tree.exists():
        return
    program = shutil.which("busybox")
    if program is None:
        raise SystemExit("busybox is not installed")
    tree.mkdir(parents=True)
    shutil.copytree(source / "testsuite", tree / "testsuite", symlinks=True)
    shutil.copytree(source / "scripts", tree / "scripts", symlinks=True)
    shutil.copy(program, tree / "busybox")
    shutil.copy(source / "debian/config/pkg/static", tree / ".config")


def cases(work: Path, seconds: float) -> Iterator[Case]:
    suite = work / "tree/testsuite"
    names = {path.stem for path in suite.glob("*.tests")} | {path.name for path in suite.iterdir() if path.is_dir()}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "{folder}", "LC_ALL": "C.UTF-8", "ECHO": "/bin/echo"}
    for name in sorted(names - _LEFT_OUT):
        argv = ("/bin/sh", "-c", f'cd testsuite && exec ./runtest -v "{name}"')
        yield Case(name, name, argv, env, seconds, files=work / "tree")


def judge(case: Case, outcome: Outcome) -> dict[str, Verdict]:
    tests: dict[str, Verdict] = {}
    for line in outcome.stdout.decode(errors="replace").splitlines():
        if match := _LINE.match(line):
            tests[f"{case.name}: {match[2]}"] = (_VERDICTS[match[1]], "")
    if outcome.returncode is None:
        tests[f"{case.name} as a whole"] = ("failed", f"no end within {case.seconds:g} s, after {len(tests)} tests")
    elif not tests and outcome.returncode:
        said = outcome.stderr.decode(errors="replace").strip().splitlines()[-1:]
        tests[f"{case.name} as a whole"] = ("failed", f"{outcome.status}; {''.join(said)[:200]}")
    return tests
