"""CPython's own regression tests: a module is a case, so is each module of a package, and every unittest in it is a test.

Run for two interpreters: Debian's, whose package libpython3.11-testsuite brings the tests, and the one this runs in.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from conformance.runner import Case, Verdict
from support.native import Outcome

MODULES: Final = (
    "test_grammar", "test_builtin", "test_json", "test_re", "test_struct", "test_threading", "test_thread", "test_subprocess",
    "test_os", "test_posix", "test_signal", "test_asyncio", "test_socket", "test_select", "test_epoll", "test_mmap",
    "test_tempfile", "test_shutil", "test_sqlite3", "test_multiprocessing_fork",
    # Beyond what was promised: what else leans on the kernel.
    "test_fcntl", "test_poll", "test_selectors", "test_pty", "test_io", "test_fileio", "test_resource", "test_time",
    "test_pathlib", "test_threadsignals", "test_fork1", "test_wait3", "test_wait4", "test_popen", "test_glob", "test_ctypes",
    "test_venv",
    "test_multiprocessing_spawn", "test_concurrent_futures", "test_faulthandler", "test_eintr", "test_contextvars", "test_stat",
    "test_queue", "test_ioctl", "test_sched", "test_memoryio", "test_zlib", "test_hashlib",
)  # fmt: skip
# Packages that take so long that each module of theirs is a case of its own.
_LONG: Final = ("test_asyncio",)
_START_METHODS: Final = "test_multiprocessing_"
# No sandbox has sockets to a hypervisor, and natively their tests wait for ever in some virtual machines.
_IGNORED: Final = ("-i", "*VSOCK*")
_LINE: Final = re.compile(r"^(\w+) \(([\w.<>]+)\)")
_OUTCOME: Final = re.compile(r"\.\.\. (ok|FAIL|ERROR|skipped .*|expected failure|unexpected success)$")
_ABOUT: Final = re.compile(r"^(FAIL|ERROR): (.*)$")
_VERDICTS: Final = {
    "ok": "passed",
    "expected failure": "passed",
    "FAIL": "failed",
    "ERROR": "failed",
    "unexpected success": "failed",
}


def interpreters() -> dict[str, Path]:
    """By name; Debian's only where its tests are installed."""
    found = {"project": Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()}
    debian = Path("/usr/bin/python3")
    if debian.exists() and subprocess.call([debian, "-c", "import test.test_os"], stderr=subprocess.DEVNULL, timeout=60) == 0:
        found["debian"] = debian.resolve()
    return found


def cases(python: Path, seconds: float, work: Path) -> Iterator[Case]:
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "{folder}",
        "TMPDIR": "{folder}",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    prefix = python.parent.parent
    reads = () if str(prefix) == "/usr" else (str(prefix),)
    tests = prefix / "lib" / python.name / "test"
    for area in dict.fromkeys(MODULES):
        if area.startswith(_START_METHODS) and not any(tests.glob(f"{area}*")):
            argv: tuple[str, ...] = (str(python), "-m", "unittest", "-v", area)
            yield Case(area, area, argv, env, seconds, reads, files=_multiprocessing(area, work))
            continue
        parts = sorted(path.stem for path in (tests / area).glob("test_*.py")) if area in _LONG else []
        for module in [f"{area}.{part}" for part in parts] or [area]:
            # -u none: no network, no large files, no display. Its own bound is shorter than ours, and prints where threads are.
            argv = (str(python), "-m", "test", "-v", "-u", "none", f"--timeout={seconds - 10:g}", *_IGNORED, module)
            yield Case(area, module, argv, env, seconds, reads)


def _multiprocessing(module: str, work: Path) -> Path:
    """A folder with the module, for releases that do not install it: it only chooses how the processes of other tests start."""
    folder = work / "multiprocessing" / module
    folder.mkdir(parents=True, exist_ok=True)
    method = module.removeprefix(_START_METHODS)
    install = f"test._test_multiprocessing.install_tests_in_module_dict(globals(), {method!r})"
    (folder / f"{module}.py").write_text(f"import test._test_multiprocessing\n{install}\n")
    return folder


def judge(case: Case, outcome: Outcome) -> dict[str, Verdict]:
    """unittest's verbose lines; a test that prints something ends on a later line."""
    tests: dict[str, Verdict] = {}
    reasons: dict[str, str] = {}
    current = about = ""
    for line in (outcome.stdout + b"\n" + outcome.stderr).decode(errors="replace").splitlines():
        if match := _ABOUT.match(line):
            about = _name(match[2])
        elif match := _LINE.match(line):
            current = _name(line)
        if about and re.match(r"^\w[\w.]*(Error|Exception|Timeout|Skip)\b", line):
            reasons.setdefault(about, line[:300])
            about = ""
        if current and (ended := _OUTCOME.search(line)):
            said = ended[1]
            tests[current] = ("skipped", said[8:]) if said.startswith("skipped") else (_VERDICTS[said], "")
            current = ""
    for name, reason in reasons.items():
        tests[name] = ("failed", reason)
    if outcome.returncode is None:
        tests[f"{case.name} as a whole"] = ("failed", f"no end within {case.seconds:g} s, in {current or 'no test'}")
    elif not tests:
        last = (outcome.stdout + outcome.stderr).decode(errors="replace").strip().splitlines()[-1:]
        verdict = "skipped" if outcome.returncode == 0 else "failed"
        tests[f"{case.name} as a whole"] = (verdict, f"{outcome.status}; {''.join(last)[:300]}")
    return tests


def _name(line: str) -> str:
    """`test_x (test.test_os.Class.test_x)`: one name a test."""
    match = _LINE.match(line)
    if not match:
        return line.strip()
    method, where = match[1], match[2].removeprefix("test.")
    return where if where.endswith(f".{method}") else f"{where}.{method}"
