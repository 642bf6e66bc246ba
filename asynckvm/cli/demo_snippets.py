"""What the demonstration runs: untrusted Python snippets, and how each of them has to end.

Some are honest, some wrong, some hostile: the way in which one ends is known beforehand, so that every verdict can be checked.
Running them is `demo`'s work.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.sandbox import Limits, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asynckvm.sandbox import CompletedProcess

VARIABLE: Final = "ASYNCKVM_DEMO_SECRET"
_MEBIBYTE: Final = 1 << 20
LIMITS: Final = Limits(memory=96 * _MEBIBYTE, processes=24, output=_MEBIBYTE, files=16 * _MEBIBYTE)
# For one that has to end by itself, whatever else this machine does meanwhile; and for one that never does.
PATIENCE: Final = 60.0
_PATIENCE_WITH_LOOPS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Snippet:
    """`kind` is what the summary groups by, `expected` how it is told there; `check` returns what is wrong, or nothing."""

    kind: str
    expected: str
    code: str
    check: Callable[[CompletedProcess], str]
    seconds: float = PATIENCE


def snippets(secrets: str) -> Iterator[Snippet]:
    """Without end, every kind in turn. `secrets`: a file of the host that exists and that none of them may read."""
    for number in itertools.count():
        yield from (make(number) for make in _HONEST)
        yield from _crashes(number)
        yield from _endless()
        yield from _greedy()
        yield from _curious(secrets)


# ---------------------------------------------------------------- verdicts


def _prints(text: str) -> Callable[[CompletedProcess], str]:
    def check(result: CompletedProcess) -> str:
        right = result.reason is Reason.EXITED and result.returncode == 0 and result.stdout == text.encode()
        return "" if right else f"{result}, {_shown(result)}"

    return check


def _fails(error: str) -> Callable[[CompletedProcess], str]:
    """With status 1 and this last line on standard error."""

    def check(result: CompletedProcess) -> str:
        last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return "" if result.returncode == 1 and last.startswith(error) else f"{result}, {_shown(result)}"

    return check


def _stopped(reason: Reason) -> Callable[[CompletedProcess], str]:
    return lambda result: "" if result.reason is reason else f"{result}, {_shown(result)}"


def _killed(number: int) -> Callable[[CompletedProcess], str]:
    def check(result: CompletedProcess) -> str:
        return "" if result.reason is Reason.SIGNALED and result.signal == number else f"{result}, {_shown(result)}"

    return check


def _exits(status: int) -> Callable[[CompletedProcess], str]:
    def check(result: CompletedProcess) -> str:
        return "" if result.reason is Reason.EXITED and result.returncode == status else f"{result}, {_shown(result)}"

    return check


def _shown(result: CompletedProcess) -> str:
    return f"stdout {result.stdout[-80:]!r}, stderr {result.stderr[-160:]!r}"


# ---------------------------------------------------------------- honest


def _hello(number: int) -> Snippet:
    text = f"hello from snippet {number}"
    return Snippet("print", "its output", f"print({text!r})", _prints(text + "\n"))


def _compute(number: int) -> Snippet:
    limit = 20_000 + number
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, 2000 + number))
    code = (
        "print(sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, "
        f"{2000 + number})), sum(n * n for n in range({limit})))"
    )
    return Snippet("compute", "its output", code, _prints(f"{primes} {sum(n * n for n in range(limit))}\n"))


def _files(number: int) -> Snippet:
    code = (
        "import json, pathlib, tempfile\n"
        "with tempfile.TemporaryDirectory() as name:\n"
        "    path = pathlib.Path(name, 'data.json')\n"
        f"    path.write_text(json.dumps(list(range({number + 10}))))\n"
        "    print(sum(json.loads(path.read_text())))"
    )
    return Snippet("files", "its output", code, _prints(f"{sum(range(number + 10))}\n"))


def _processes(number: int) -> Snippet:
    code = f"import subprocess\nprint(subprocess.run(['sh', '-c', 'echo {number} | rev | rev'], capture_output=True).stdout)"
    return Snippet("processes", "its output", code, _prints(f"b'{number}\\n'\n".replace("\n'", "\\n'")))


def _threads(number: int) -> Snippet:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"with ThreadPoolExecutor(4) as pool:\n    print(sum(pool.map(len, ['x' * n for n in range({number + 50})])))"
    )
    return Snippet("threads", "its output", code, _prints(f"{sum(range(number + 50))}\n"))


_HONEST: Final = (_hello, _compute, _hello, _files, _processes, _compute, _threads)


# ---------------------------------------------------------------- wrong


def _crashes(number: int) -> Iterator[Snippet]:
    yield Snippet("exception", "status 1", "print(1 // 0)", _fails("ZeroDivisionError"))
    yield Snippet("exit", "its status", f"import sys; sys.exit({number % 100 + 1})", _exits(number % 100 + 1))
    yield Snippet("segfault", "SIGSEGV", "import ctypes; ctypes.string_at(0)", _killed(11))
    yield Snippet("abort", "SIGABRT", "import os; os.abort()", _killed(6))


# ---------------------------------------------------------------- hostile


def _endless() -> Iterator[Snippet]:
    loop = "while True: pass"
    deaf = "import signal\nfor n in set(range(1, 32)) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: signal.pause()"
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    for kind, code in (("endless loop", loop), ("sleeps for ever", deaf), ("fork bomb", bomb)):
        yield Snippet(kind, "timeout", f"print('begun', flush=True)\n{code}", _never_ends, _PATIENCE_WITH_LOOPS)


def _never_ends(result: CompletedProcess) -> str:
    return _stopped(Reason.TIMEOUT)(result) or ("" if result.stdout == b"begun\n" else "stopped before it had begun")


def _greedy() -> Iterator[Snippet]:
    yield Snippet("eats memory", "memory limit", "x = []\nwhile True: x.append(bytearray(1 << 20))", _eaten)
    yield Snippet("endless output", "output limit", "while True: print('x' * 1000)", _stopped(Reason.OUTPUT))
    code = "with open('big', 'wb', 0) as file:\n    while True: file.write(bytes(1 << 20))"
    yield Snippet("fills the disk", "ENOSPC", code, _fails("OSError: [Errno 28]"))


def _eaten(result: CompletedProcess) -> str:
    """Killed at its limit, or told before that there is no more."""
    return "" if not _fails("MemoryError")(result) else _stopped(Reason.MEMORY)(result)


def _curious(secrets: str) -> Iterator[Snippet]:
    yield Snippet("reads /etc/shadow", "ENOENT", "print(open('/etc/shadow').read())", _fails("FileNotFoundError"))
    yield Snippet("reads host files", "ENOENT", f"print(open({secrets!r}).read())", _fails("FileNotFoundError"))
    code = (
        "import os, pathlib\nfound = str(dict(os.environ))\n"
        "for path in pathlib.Path('/proc').glob('[0-9]*/environ'): found += path.read_text()\n"
        f"print({VARIABLE!r} in found)"
    )
    yield Snippet("reads environments", "finds nothing", code, _prints("False\n"))
    code = "import socket\nsocket.create_connection(('1.1.1.1', 80), 5)"
    yield Snippet("connects out", "unreachable", code, _fails("OSError: [Errno 101]"))
    code = "open('/usr/bin/python3', 'ab')"
    yield Snippet("changes programs", "EROFS", code, _fails("OSError: [Errno 30]"))
    code = (
        "import os\nfor pid in range(1, 500):\n"
        "    try: pid != os.getpid() and os.kill(pid, 9)\n"
        "    except (ProcessLookupError, PermissionError): pass\n"
        "print('alone')"
    )
    yield Snippet("kills others", "finds nobody", code, _prints("alone\n"))
