"""A session: retried when the machine never came up, judged by what came back, and never silent about trouble."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit.hwvm.machines import Bash, job, limits

from hwvm import emulator, session
from hwvm.kernels import Kernel
from hwvm.variants import VARIANTS

if TYPE_CHECKING:
    from pathlib import Path

    from hwvm.exchange import Job
    from hwvm.session import Session

READY = "echo 'hwvm: ready' >>$console\n"
DONE = "echo 'hwvm: done' >>$console\n"
RESULTS = """
mkdir out
echo 0 >out/doctor.status
echo '{"usable": true, "capabilities": {"kvm_module": "kvm_amd", "pcid": false, "smap": true}}' >out/doctor.json
printf 'npt:Y\\nsev:N\\n' >out/parameters
echo 'plain test_ring 0 1.5' >out/c-tests
echo 0 >out/pytest.status
echo '<testsuites><testsuite tests="3" failures="0" errors="0" skipped="1"/></testsuites>' >out/pytest.xml
"""
BRING = "tar -cf $exchange -C out .\n"


class Held:
    """A session in a folder, with what was told on the way."""

    def __init__(self, cache: Path, script: str, what: Job | None = None) -> None:
        self.cache = cache
        self.emulator = Bash(script)
        self.lines: list[str] = []
        image = cache / "image"
        image.write_bytes(b"hsqs")
        parts = session.Parts(self.emulator, Kernel("1.2", cache), cache / "initrd", (image,), 512, limits())
        self.session: Session = session.hold(VARIANTS[1], parts, what or job(), cache, self.lines.append)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "POWEROFF_SECONDS", 0.2)


def test_results_come_back(tmp_path: Path) -> None:
    held = Held(tmp_path, READY + RESULTS + BRING + DONE)
    results = held.session.results
    assert results is not None
    assert (held.session.status, held.session.trouble) == (0, "")
    assert (str(results.c_counts), str(results.pytest_counts)) == ("1/0/0", "2/0/1")
    assert results.host == "kvm_amd npt=Y smap"
    assert held.lines == ["hwvm: ready", "hwvm: done"]


def test_the_machine_is_what_the_variant_says(tmp_path: Path) -> None:
    # The job is read where the guest would read it.
    held = Held(tmp_path, f"{READY}mkdir in\ntar -xf $exchange -C in\ncat in/machine >>$console\nls in >>$console\n{DONE}")
    (machine,) = held.emulator.booted
    assert machine.model == VARIANTS[1].model
    assert machine.command_line.endswith("hwvm.disks=2")
    assert [disk.writable for disk in machine.disks] == [False, True]
    assert all(disk.path.stat().st_size % emulator.CYLINDER == 0 for disk in machine.disks[1:] if disk.path.exists())
    assert held.lines == ["hwvm: ready", "module=kvm_amd", "parameters=npt=0", "job", "machine", "run", "hwvm: done"]


def test_a_machine_that_never_came_up_is_booted_once_more(tmp_path: Path) -> None:
    held = Held(
        tmp_path, f"echo once >>{tmp_path}/boots\n[ $(wc -l <{tmp_path}/boots) = 2 ] || exit\n{READY}{RESULTS}{BRING}{DONE}"
    )
    assert held.session.status == 0
    assert held.lines[0] == "the machine died before the job began"


def test_a_machine_that_never_comes_up(tmp_path: Path) -> None:
    held = Held(tmp_path, "echo 'no bootable device' >>$console\necho 'warning: of the emulator'")
    assert held.session.status == 125
    assert len(held.emulator.booted) == 2
    assert "the machine died" in held.session.trouble
    assert "no bootable device" in held.session.trouble
    assert "warning: of the emulator" in held.session.trouble


def test_a_machine_that_died_during_the_job_is_not_booted_again(tmp_path: Path) -> None:
    held = Held(tmp_path, f"{READY}echo 'Kernel panic' >>$console\nexit 1")
    assert held.session.status == 125
    assert len(held.emulator.booted) == 1
    assert "Kernel panic" in held.session.trouble
    assert "Kernel panic" in (tmp_path / "amd-shadow.console").read_text()


def test_no_results(tmp_path: Path) -> None:
    held = Held(tmp_path, READY + DONE)
    assert (held.session.status, held.session.trouble) == (125, "the guest brought no results back")


@pytest.mark.parametrize("damage", ["head -c 100000 /dev/urandom >$exchange", ": >$exchange", "rm $exchange"])
def test_broken_results(tmp_path: Path, damage: str) -> None:
    held = Held(tmp_path, f"{READY}{damage}\n{DONE}")
    assert held.session.status == 125
    assert held.session.trouble


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        ("doctor.status", "doctor did not end"),
        ("pytest.status", "pytest did not end"),
        ("pytest.xml", "pytest wrote no JUnit file"),
        ("c-tests", "no C test of build/plain ran"),
    ],
)
def test_results_with_something_missing_are_no_verdict(tmp_path: Path, without: str, complaint: str) -> None:
    held = Held(tmp_path, f"{READY}{RESULTS}rm out/{without}\n{BRING}{DONE}")
    assert (held.session.status, held.session.trouble) == (125, complaint)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("echo 1 >out/pytest.status", 1),
        ("echo 5 >out/pytest.status", 5),
        ("echo 124 >out/pytest.status", 125),
        ("echo 134 >out/pytest.status; rm out/pytest.xml", 125),
        ("echo 1 >out/doctor.status", 1),
        ("echo 'plain test_kick 134 1.0' >>out/c-tests", 1),
        ("echo 'plain test_kick 77 1.0' >>out/c-tests", 0),
    ],
)
def test_the_exit_status(tmp_path: Path, change: str, status: int) -> None:
    assert Held(tmp_path, f"{READY}{RESULTS}{change}\n{BRING}{DONE}").session.status == status


@pytest.mark.parametrize(("told", "status"), [(0, 0), (42, 42), (124, 125)])
def test_a_command_instead(tmp_path: Path, told: int, status: int) -> None:
    held = Held(tmp_path, f"{READY}mkdir out\necho {told} >out/command.status\n{BRING}{DONE}", job(instead=("false",)))
    assert held.session.status == status
