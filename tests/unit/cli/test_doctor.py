"""`asynckvm doctor` without KVM: what it makes of each platform, which one it says is taken, and what it advises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asynckvm.cli import doctor, doctor_host, main
from asynckvm.cli.statuses import Status
from asynckvm.errors import (
    AsyncKvmError,
    CapabilityError,
    DeviceMissingError,
    DevicePermissionError,
    InternalError,
    OutOfMemoryError,
    TraceDeniedError,
)
from asynckvm.platform import choice

if TYPE_CHECKING:
    from pathlib import Path

    from asynckvm.model.config import PlatformName

MISSING = DeviceMissingError("open the KVM device (/dev/kvm)", 2, "load the module")
DENIED = TraceDeniedError("ptrace", 1, "allow ptrace")
FOUND: dict[str, dict[str, Any]] = {
    "kvm": {"platform": "kvm", "round_trip_ns": 1234, "smap": True, "kvm_module": "kvm_amd", "kernel_base": 1 << 47},
    "ptrace": {"platform": "ptrace", "round_trip_ns": 5678, "xcr0": 7},
}
KVM_FACTS: dict[str, Any] = {
    "device": {"path": "/dev/kvm", "present": False, "error": "No such file or directory"},
    "modules": [],
    "virtualization": None,
    "virtual_machine": True,
}
PTRACE_FACTS: dict[str, Any] = {
    "yama": 1,
    "cap_sys_ptrace": False,
    "under_seccomp": False,
    "seccomp_kill_process": True,
    "memfd": True,
    "kernel": "5.10.0-13-amd64",
}


class Host:
    """What opening a machine ends with on each platform; None: it opens."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception | None] = {"kvm": None, "ptrace": None}
        self.opened: list[str] = []

    async def probe(self, name: PlatformName) -> dict[str, Any]:
        self.opened.append(name)
        error = self.errors[name]
        if error is not None:
            raise error
        return FOUND[name]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setattr(doctor, "_probe", host.probe)
    monkeypatch.setitem(doctor._FACTS, "kvm", lambda: KVM_FACTS)
    monkeypatch.setitem(doctor._FACTS, "ptrace", lambda: PTRACE_FACTS)
    return host


def test_with_both_platforms(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("auto takes KVM, which is usable\nguests run here, on KVM\n")
    assert "what to do" not in text
    kvm, ptrace = text.split("ptrace: usable")
    assert "smap              yes" in kvm
    assert "0x800000000000" in kvm
    assert "round_trip_ns     5678" in ptrace
    assert "smap" not in ptrace
    assert host.opened == ["kvm", "ptrace"]


def test_without_kvm_it_names_the_weaker_wall(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.errors["kvm"] = MISSING
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "KVM: not usable: open the KVM device (/dev/kvm): No such file or directory" in text
    assert "what to do: this is a virtual machine" in text
    assert "auto takes ptrace, because KVM is not usable" in text
    assert "guests run here on the ptrace platform, the weaker wall" in text.splitlines()[-1]


def test_without_any(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.errors |= {"kvm": MISSING, "ptrace": DENIED}
    assert main(["doctor"]) == Status.UNUSABLE
    text = capsys.readouterr().out
    assert "no guest runs here: open the KVM device" in text
    assert "ptrace: not usable: ptrace: Operation not permitted\n  what to do: allow ptrace" in text


def test_as_json(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["usable"], report["platform"], report["capabilities"]) == (True, "kvm", FOUND["kvm"])
    host.errors["kvm"] = MISSING
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["usable"], report["platform"], report["capabilities"]) == (True, "ptrace", FOUND["ptrace"])
    assert (report["error"], report["hint"]) == (None, None)
    kvm = report["platforms"]["kvm"]
    assert (kvm["usable"], kvm["capabilities"], kvm["host"]) == (False, None, KVM_FACTS)
    assert "nested" in kvm["hint"]
    assert report["platforms"]["ptrace"]["host"] == PTRACE_FACTS


@pytest.mark.parametrize("name", ["kvm", "ptrace"])
def test_a_name_is_all_that_counts(host: Host, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an option, or in the environment."""
    other = {"kvm": "ptrace", "ptrace": "kvm"}[name]
    host.errors[name] = CapabilityError("something", 95)
    assert main(["doctor", "--platform", name]) == Status.UNUSABLE
    assert main(["doctor", "--platform", other]) == 0
    assert doctor.examine()["usable"] is (name == "kvm" or host.errors["kvm"] is None)
    host.opened.clear()
    monkeypatch.setenv(choice.VARIABLE, name)
    report = doctor.examine()
    assert report["usable"] is False
    assert report["because"] == f"ASYNCKVM_PLATFORM asks for {name}"
    assert host.opened == [name]


def test_an_odd_name_in_the_environment(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(choice.VARIABLE, "xen")
    assert main(["doctor"]) == Status.UNUSABLE
    assert "no guest runs here: ASYNCKVM_PLATFORM must be one of auto, kvm, ptrace" in capsys.readouterr().out
    assert host.opened == []


@pytest.mark.parametrize("error", [OutOfMemoryError("mmap", 12, "use less"), InternalError("odd"), ImportError("_ffi")])
def test_what_auto_does_not_forgive(host: Host, error: Exception) -> None:
    """ptrace would do, and is shown; but opening a machine ends with that error, and so does this."""
    host.errors["kvm"] = error
    report = doctor.examine()
    assert report["usable"] is False
    assert report["platforms"]["ptrace"]["usable"] is True
    assert report["error"] == report["platforms"]["kvm"]["error"]
    assert report["hint"]


@pytest.mark.parametrize("error", [MISSING, DENIED, ImportError("_ffi"), AsyncKvmError("odd")])
def test_it_reports_instead_of_failing(host: Host, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    host.errors |= {"kvm": error, "ptrace": error}
    for as_json in (False, True):
        assert doctor.main(as_json=as_json) == Status.UNUSABLE
    report = doctor.examine()
    assert report["usable"] is False
    assert report["error"]
    assert report["hint"]


def test_another_architecture(host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.host_platform, "machine", lambda: "riscv64")
    assert main(["doctor"]) == Status.UNUSABLE
    assert "use an x86-64 host" in capsys.readouterr().out
    assert host.opened == []


ABSENT = {"path": "/dev/kvm", "present": False, "error": "No such file or directory"}
LOCKED = {"path": "/dev/kvm", "present": True, "accessible": False}
OPEN = {"path": "/dev/kvm", "present": True, "accessible": True}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"device": LOCKED}, "usermod -aG kvm"),
        ({"device": OPEN}, ""),
        ({"device": ABSENT, "modules": ["kvm", "kvm_intel"], "virtualization": "vmx"}, "--device /dev/kvm"),
        ({"device": ABSENT, "modules": ["kvm"], "virtualization": "vmx"}, "modprobe kvm_intel"),
        ({"device": ABSENT, "virtualization": "svm", "virtual_machine": True}, "modprobe kvm_amd"),
        ({"device": ABSENT, "virtual_machine": True}, "nested virtualization"),
        ({"device": ABSENT}, "firmware"),
    ],
)
def test_advice_about_kvm(facts: dict[str, Any], word: str) -> None:
    advice = doctor_host.kvm_advice({"modules": [], "virtualization": None, "virtual_machine": False, **facts})
    assert word in advice
    assert bool(advice) is bool(word)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, ""),
        ({"yama": None}, ""),
        ({"yama": 2}, "sysctl kernel.yama.ptrace_scope=1"),
        ({"yama": 2, "cap_sys_ptrace": True}, ""),
        ({"yama": 3, "cap_sys_ptrace": True}, "next boot"),
        ({"under_seccomp": True}, "docker run --cap-add SYS_PTRACE"),
        ({"yama": 3, "under_seccomp": True}, "next boot"),
        ({"memfd": False}, "memfd_create"),
        ({"seccomp_kill_process": False}, "4.14"),
        ({"kernel": "5.8.0-13-amd64"}, "5.9"),
        ({"kernel": "odd"}, ""),
    ],
)
def test_advice_about_ptrace(facts: dict[str, Any], word: str) -> None:
    advice = doctor_host.ptrace_advice(PTRACE_FACTS | facts)
    assert word in advice
    assert bool(advice) is bool(word)


def test_advice_comes_before_the_hint_of_the_error(host: Host) -> None:
    host.errors["kvm"] = DevicePermissionError("open the KVM device", 13, "the hint")
    assert "nested" in doctor.examine("kvm")["hint"]
    host.errors["ptrace"] = DENIED
    assert doctor.examine("ptrace")["hint"] == DENIED.hint
    host.errors["ptrace"] = CapabilityError("seccomp", 22, "ask the doctor")
    assert "gVisor" in doctor.examine("ptrace")["hint"]


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_facts_of_a_host(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "model name\t: x\nflags\t\t: fpu svm hypervisor\n\nflags\t\t: fpu\n")
    write(tmp_path, "proc/sys/kernel/yama/ptrace_scope", "2\n")
    write(tmp_path, "proc/self/status", f"Name:\tx\nCapEff:\t{1 << 19:016x}\nSeccomp:\t2\n")
    write(tmp_path, "proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread errno\n")
    write(tmp_path, "proc/sys/kernel/osrelease", "6.1.0\n")
    write(tmp_path, "dev/kvm")
    for module in ("kvm_amd", "kvm", "ext4"):
        (tmp_path / "sys/module" / module).mkdir(parents=True)
    facts = doctor_host.kvm_facts(tmp_path)
    assert facts.pop("device")["present"] is False  # a regular file is no device
    assert facts == {"modules": ["kvm", "kvm_amd"], "virtualization": "svm", "virtual_machine": True}
    assert doctor_host.ptrace_facts(tmp_path) == {
        "yama": 2,
        "cap_sys_ptrace": True,
        "under_seccomp": True,
        "seccomp_kill_process": True,
        "memfd": True,
        "kernel": "6.1.0",
    }


def test_facts_of_a_host_that_shows_nothing(tmp_path: Path) -> None:
    facts = doctor_host.kvm_facts(tmp_path)
    assert facts["device"]["error"] == "No such file or directory"
    assert (facts["modules"], facts["virtualization"], facts["virtual_machine"]) == ([], None, False)
    facts = doctor_host.ptrace_facts(tmp_path)
    assert (facts["yama"], facts["cap_sys_ptrace"], facts["under_seccomp"]) == (None, False, False)


def test_facts_of_this_host() -> None:
    """Whatever it is, they are there and can be printed."""
    assert doctor._kvm_lines(doctor_host.kvm_facts())
    assert doctor._ptrace_lines(doctor_host.ptrace_facts())
