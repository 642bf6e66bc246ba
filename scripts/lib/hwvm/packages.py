"""Which files belong to installed Debian packages and to all that these depend on: how the guest gets its tools."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hwvm import program
from hwvm.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterable

FIELDS = "${binary:Package}\t${Pre-Depends}, ${Depends}\t${Provides}\t${db:Status-Status}\n"


class Package:
    """An installed package: the name dpkg knows it by, and for each thing it needs, the names that would do."""

    def __init__(self, line: str) -> None:
        self.name, needs, provides, self.status = line.split("\t")
        self.needs = [[_bare(choice) for choice in need.split("|")] for need in needs.split(",") if need.strip()]
        self.provides = [_bare(name) for name in provides.split(",") if name.strip()]


def _bare(name: str) -> str:
    """Without version and architecture: "libc6:amd64 (>= 2.36)" is libc6."""
    return re.split(r"[ :(]", name.strip(), maxsplit=1)[0]


def closure(wanted: Iterable[str], status: str) -> list[str]:
    """The wanted packages and what they need, as far as installed; status is dpkg-query's answer in FIELDS."""
    known: dict[str, Package] = {}
    for line in status.splitlines():
        package = Package(line)
        if package.status == "installed":
            known.setdefault(_bare(package.name), package)
            for name in package.provides:
                known.setdefault(name, package)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise HarnessError(f"these packages are needed and not installed: {' '.join(missing)}")
    found: dict[str, None] = {}
    pending = [known[name] for name in wanted]
    while pending:
        package = pending.pop()
        if package.name in found:
            continue
        found[package.name] = None
        pending += [known[name] for need in package.needs for name in need if name in known]
    return sorted(found)


def status() -> str:
    """Every package that dpkg knows, in FIELDS."""
    return program.output(["dpkg-query", "-W", "-f", FIELDS])


def versions() -> str:
    """Every installed package with its version: changes whenever files of packages do."""
    return program.output(["dpkg-query", "-W"])


def files(names: list[str]) -> list[str]:
    """Paths of the packages' files and folders; some may not exist any more."""
    return [line for line in program.output(["dpkg-query", "-L", *names]).splitlines() if line.startswith("/")]
