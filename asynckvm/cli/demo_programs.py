"""What the demonstration runs: real programs on real files of this host, each with what a native run of it gives.

Finding, compiling and native runs live here; running guests and comparing is `demo`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS: Final = 60
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_FOLDERS: Final = ("/usr/share", "/usr/lib")
_FILE_BYTES: Final = range(2_000, 400_000)
_FILES: Final = 6

_PRIMES: Final = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
	long limit = argc > 1 ? atol(argv[1]) : 1000, count = 0, last = 0;
	char *composite = calloc(limit + 1, 1);
	for (long i = 2; i <= limit; i++) {
		if (composite[i])
			continue;
		count++, last = i;
		for (long j = i * i; j <= limit; j += i)
			composite[j] = 1;
	}
	printf("%ld primes up to %ld, the last is %ld\n", count, limit, last);
	return (int)(count % 100);
}
"""
_QUEENS: Final = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static int solve(unsigned all, unsigned columns, unsigned left, unsigned right)
{
	int found = columns == all;
	for (unsigned free = all & ~(columns | left | right); free; free &= free - 1) {
		unsigned bit = free & -free;
		found += solve(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return found;
}
int main(void)
{
	double sum = 0;
	for (int n = 1; n <= 9; n++)
		printf("%d queens: %d ways\n", n, solve((1u << n) - 1, 0, 0, 0));
	for (int i = 1; i < 20000; i++)
		sum += sin(i) / i;
	printf("sum %.12f\n", sum);
	return 0;
}
"""
_CRASH: Final = r"""
#include <stdio.h>
int main(void)
{
	fprintf(stderr, "about to follow a null pointer\n");
	return *(volatile int *)0;
}
"""
# name, source, compiler and flags
_SOURCES: Final = (
    ("primes", _PRIMES, ("gcc", "-static")),
    ("primes-pie", _PRIMES, ("gcc", "-static-pie", "-fPIE")),
    ("primes-musl", _PRIMES, ("musl-gcc", "-static")),
    ("queens", _QUEENS, ("gcc", "-static")),
    ("queens-musl", _QUEENS, ("musl-gcc", "-static")),
    ("crash", _CRASH, ("gcc", "-static")),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended; `returncode` as subprocess counts."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """One command, and what it must give. `name` is what the summary groups by."""

    name: str
    argv: tuple[str, ...]
    stdin: bytes = b""

    def run_natively(self) -> Ended:
        """Run it on the host."""
        done = subprocess.run(
            self.argv, input=self.stdin, capture_output=True, env=ENVIRONMENT, cwd="/", timeout=_SECONDS, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)


def collect(folder: Path) -> list[Job]:
    """Everything this host has to show: busybox applets on its files, and C programs compiled into `folder`."""
    jobs = _busybox_jobs() + _compiled_jobs(folder)
    if not jobs:
        raise FileNotFoundError(2, "neither a static busybox (package busybox-static) nor gcc is installed", "busybox, gcc")
    return jobs


def _busybox_jobs() -> list[Job]:
    path = shutil.which("busybox")
    if path is None or b"ld-linux" in Path(path).read_bytes()[:4096]:
        return []
    jobs = [
        Job("busybox echo", (path, "echo", "hello", "from", "ring", "3")),
        Job("busybox sha256sum", (path, "sha256sum", path)),
        Job("busybox ls", (path, "ls", "-l", "/usr/bin")),
        Job("busybox ls", (path, "ls", "/etc")),
        Job("busybox sort", (path, "sort"), stdin=b"".join(b"%d\n" % (n * 7919 % 1000) for n in range(1000))),
        Job("busybox cat", (path, "cat", "/nowhere/at/all")),
    ]
    for file in _files():
        jobs += [
            Job("busybox sha256sum", (path, "sha256sum", file)),
            Job("busybox wc", (path, "wc", file)),
            Job("busybox sort", (path, "sort", file)),
            Job("busybox cat", (path, "cat", file)),
        ]
    return jobs


def _files() -> list[str]:
    """A few regular files of moderate size, from different folders."""
    found = []
    for folder in _FOLDERS:
        for _, names, files in islice(os.walk(folder), 400):
            names.sort()
            for name in sorted(files):
                path = Path(_, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size in _FILE_BYTES:
                    found.append(str(path))
                    break
            if len(found) == _FILES:
                return found
    return found


def _compiled_jobs(folder: Path) -> list[Job]:
    jobs = []
    for name, path in _compile(folder):
        sizes = ("1000", "300000", "2000000") if name.startswith("primes") else ("",)
        jobs += [Job(name, (str(path), *([size] if size else []))) for size in sizes]
    return jobs


def _compile(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, source, (compiler, *flags) in _SOURCES:
        if shutil.which(compiler) is None:
            continue
        path = folder / name
        command = [compiler, *flags, "-O2", "-x", "c", "-", "-o", str(path), "-lm"]
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=_SECONDS, check=False)
        # A compiler without a static C library compiles nothing for us.
        if done.returncode == 0:
            yield name, path
