"""The system-call tests of the Linux Test Project: each line of runtest/syscalls is a case, its directory the area.

A test passes when it exits with 0 and said TPASS at least once; TCONF, not for this configuration, is skipped. Whoever runs
them natively, they run without privileges, because a sandbox has none over its host. Source: tst_res_flags.h of LTP.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conformance.runner import Case, Verdict
from support.native import Outcome

HOW_TO_GET: Final = "a checkout of github.com/linux-test-project/ltp; building it needs autoconf, automake, m4 and pkg-config"
_NOBODY: Final = 65534
_SKIPPED_BIT: Final = 32
_LINE: Final = re.compile(r"\b(TPASS|TFAIL|TBROK|TCONF|TWARN)\b\s*:?\s*(.*)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# They want a machine of their own: memory or processes until none are left, or many minutes.
_LEFT_OUT: Final = re.compile(r"^(fork13|fork14|oom|set_mempolicy|move_pages12|min_free_kbytes|swapping)")


def build(source: Path, work: Path, jobs: int) -> None:
    """Configures and builds lib and syscalls in a copy of the source, once, and installs them below `work`."""
    if (work / "install/testcases/bin").is_dir():
        return
    copy = work / "build"
    if not copy.exists():
        shutil.copytree(source, copy, symlinks=True)
    log = work / "build.log"
    steps = (
        ["make", "autotools"],
        ["./configure", f"--prefix={work / 'install'}"],
        ["make", "-C", "lib", f"-j{jobs}"],
        # A test that does not compile here is missing, which the report shows; it stops no other.
        ["make", "-k", "-C", "testcases/kernel/syscalls", f"-j{jobs}"],
        ["make", "-k", "-C", "testcases/kernel/syscalls", "install"],
    )
    with log.open("wb") as output:
        for step in steps:
            print(f"{' '.join(step)}", flush=True)
            if (
                subprocess.call(["nice", *step], cwd=copy, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
                and "-k" not in step
            ):
                raise SystemExit(f"{' '.join(step)} failed; see {log}")
    shutil.copy(copy / "runtest/syscalls", work / "install/syscalls")


def cases(work: Path, seconds: float) -> Iterator[Case]:
    """Every line of the run file whose program was built."""
    install = work / "install"
    folder = install / "testcases/bin"
    areas = {path.stem: path.parent.name for path in (work / "build/testcases/kernel/syscalls").glob("*/**/*.c")}
    env = {
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LTPROOT": str(install),
        "TMPDIR": "{folder}",
        "HOME": "{folder}",
        "LC_ALL": "C",
        "LTP_COLORIZE_OUTPUT": "n",
        "LTP_RUNTIME_MUL": "0.1",
        # The configuration of the host's kernel says nothing about a sandbox.
        "KCONFIG_SKIP_CHECK": "1",
    }
    for line in (install / "syscalls").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not rest or line.startswith("#") or _LEFT_OUT.match(name):
            continue
        argv = shlex.split(rest)
        if not (folder / argv[0]).exists():
            continue
        area = areas.get(argv[0]) or areas.get(re.sub(r"_(16|64)$", "", argv[0])) or re.sub(r"_?\d+.*$", "", argv[0])
        shell = ("/bin/sh", "-c", rest) if re.search(r"[;|&>$]", rest) else tuple(argv)
        yield Case(area, name, shell, env, seconds, reads=(str(install),), user=_NOBODY if os.getuid() == 0 else None)


def judge(case: Case, outcome: Outcome) -> dict[str, Verdict]:
    """One verdict; the reason is the first line that says more than TPASS."""
    said = _COLOUR.sub("", (outcome.stdout + outcome.stderr).decode(errors="replace"))
    found = [(match[1], match[2].strip()) for line in said.splitlines() if (match := _LINE.search(line))]
    reason = next((f"{kind}: {text}" for kind, text in found if kind not in ("TPASS", "TCONF")), "")
    if outcome.returncode is None:
        return {case.name: ("failed", f"no end within {case.seconds:g} s; {reason}")}
    if outcome.returncode == 0 and any(kind == "TPASS" for kind, _ in found):
        return {case.name: ("passed", "")}
    if outcome.returncode == _SKIPPED_BIT or (outcome.returncode == 0 and any(kind == "TCONF" for kind, _ in found)):
        return {case.name: ("skipped", next((text for kind, text in found if kind == "TCONF"), ""))}
    if not reason:
        reason = outcome.stderr.decode(errors="replace").strip()[-200:] or "no output"
    return {case.name: ("failed", f"{outcome.status}; {reason}")}
