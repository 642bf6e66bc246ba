"""`scripts/hwtest`, once everything is installed and built: prepares the images, holds the sessions, tells how they went."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hwvm import image, initrd, kernels, options, program, report, session
from hwvm.bochs import Bochs
from hwvm.emulator import Limits
from hwvm.errors import HarnessError
from hwvm.qemu import Qemu
from hwvm.results import NO_VERDICT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwvm.emulator import Emulator
    from hwvm.session import Parts, Session
    from hwvm.variants import Variant

CACHE = options.ROOT / "build" / "hwvm"
BOOT_SECONDS = {"amd": 120, "intel": 400}
MEMORY = {"amd": 2048, "intel": 1024}
# What the harness itself needs of Debian.
PACKAGES = ("busybox-static", "git", "kmod", "lz4", "squashfs-tools", "tar", "xz-utils", "zstd", *image.TOOLS)
EMULATOR_PACKAGES = {
    "amd": ("qemu-system-x86",),
    "intel": ("bochsbios", "vgabios", "xorriso", "isolinux", "syslinux-common"),
}
CANCELLED = threading.Event()
# Images that are kept for the next run, of each kind; and how long what a killed run left behind.
KEPT_IMAGES = 2
LEFTOVER_SECONDS = 24 * 3600


def emulator(cpu: str) -> Emulator:
    if cpu == "amd":
        return Qemu()
    return Bochs(CACHE)


def collect(arguments: tuple[str, ...]) -> None:
    """Have pytest find the tests here, which finds mistakes early, and leave all modules compiled for the image.

    Compiling them takes a minute in the guest; pytest's own compilations are made by nothing but pytest.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for command in (["compileall", "-q", "asynckvm"], ["pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]):
        python = [sys.executable, "-m", *command]
        program.output(python, cwd=options.ROOT, environment=environment)


@contextmanager
def locked() -> Iterator[None]:
    """One maker of images at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prune() -> None:
    """Remove images of earlier states of the tree, and what runs that were killed left behind."""
    for kind in ("base-*", "project-*", "initrd-*"):
        images = sorted(CACHE.glob(kind), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in images[KEPT_IMAGES:]:
            path.unlink()
    for folder in CACHE.glob("run-*"):
        if time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def prepare(wanted: argparse.Namespace, cpu: str, folder: Path) -> Parts:
    """Images for this processor, linked into a folder of this run, where no other run removes them."""
    of_cpu = emulator(cpu)
    builds = options.c_builds(wanted)
    with locked():
        kernel = kernels.newest(CACHE)
        made = [
            image.base(CACHE),
            image.project(CACHE, options.ROOT, builds, wanted.extra),
            initrd.make(kernel, of_cpu.drivers, f"kvm_{cpu}", CACHE),
        ]
        linked = []
        for path in made:
            os.utime(path)
            link = folder / path.name
            if not link.exists():
                link.hardlink_to(path)
            linked.append(link)
        prune()
    limits = Limits(BOOT_SECONDS[cpu], options.seconds(wanted, cpu), CANCELLED)
    return session.Parts(of_cpu, kernel, linked[2], tuple(linked[:2]), MEMORY[cpu], limits)


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def main() -> int:
    wanted, rest = options.parse(sys.argv[1:])
    chosen = wanted.variants
    if wanted.packages:
        needed = {package for variant in chosen for package in EMULATOR_PACKAGES[variant.cpu]}
        print(*sorted(needed.union(PACKAGES)))
        return 0
    try:
        if not wanted.command:
            collect(options.pytest_arguments(wanted, rest))
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="run-images-", dir=CACHE) as folder:
            say("making the images")
            parts = {cpu: prepare(wanted, cpu, Path(folder)) for cpu in dict.fromkeys(variant.cpu for variant in chosen)}
            sessions = hold_all(wanted, rest, chosen, parts)
    except HarnessError as error:
        print(f"scripts/hwtest: {error}", file=sys.stderr)
        return NO_VERDICT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return tell(wanted, sessions)


def hold_all(wanted: argparse.Namespace, rest: list[str], chosen: list[Variant], parts: dict[str, Parts]) -> list[Session]:
    """All variants, --jobs of them at a time."""

    def hold(variant: Variant) -> Session:
        say(f"{variant.name}: {variant.meaning}; kernel {parts[variant.cpu].kernel.release}")
        prefix = f"{variant.name}: " if wanted.jobs > 1 else ""
        job = options.job(wanted, rest, variant.cpu)
        held = session.hold(variant, parts[variant.cpu], job, CACHE, lambda line: print(prefix + line, flush=True))
        report.junit([held]).write(CACHE / f"{variant.name}.xml", encoding="unicode", xml_declaration=True)
        return held

    if wanted.jobs == 1:
        return [hold(variant) for variant in chosen]
    with ThreadPoolExecutor(wanted.jobs) as pool:
        try:
            return list(pool.map(hold, chosen))
        except BaseException:
            CANCELLED.set()
            raise


def tell(wanted: argparse.Namespace, sessions: list[Session]) -> int:
    """What went wrong, the table, the JUnit file; the exit status is the first that is not 0, or 125 if there is one."""
    for held in sessions:
        if held.trouble:
            print(f"{held.variant.name}: {held.trouble}", file=sys.stderr)
    if wanted.junit:
        report.junit(sessions).write(wanted.junit, encoding="unicode", xml_declaration=True)
    print(report.table(sessions), flush=True)
    statuses = [held.status for held in sessions]
    return NO_VERDICT if NO_VERDICT in statuses else next((status for status in statuses if status), 0)


if __name__ == "__main__":
    # An end from outside passes through every finally, so that emulators end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
