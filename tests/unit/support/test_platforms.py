"""Which platforms a test run uses: what works, what is demanded, and never less than was said, in silence."""

from __future__ import annotations

import os

import pytest

from support import platforms
from support.platforms import Verdict

KVM, PTRACE = Verdict(usable=True, name="kvm", report="fine"), Verdict(usable=True, name="ptrace", report="fine")
NO_KVM, NO_PTRACE = KVM._replace(usable=False, report="absent"), PTRACE._replace(usable=False, report="denied")


@pytest.fixture(autouse=True)
def nothing_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCKVM_REQUIRE_KVM", raising=False)
    monkeypatch.delenv("ASYNCKVM_REQUIRE_GUESTS", raising=False)
    monkeypatch.setattr(platforms, "GIVEN", "auto")


def found(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """What the probes would say."""
    taken = next((verdict for verdict in verdicts if verdict.usable), verdicts[0])
    monkeypatch.setattr(platforms, "_found", {"auto": taken, **{verdict.name: verdict for verdict in verdicts}})


def test_each_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, KVM, PTRACE)
    assert platforms.chosen(["kvm", "ptrace"]) == platforms.usable() == ("kvm", "ptrace")
    assert platforms.chosen(["ptrace"]) == ("ptrace",)
    found(monkeypatch, NO_KVM, PTRACE)
    assert platforms.chosen(["kvm", "ptrace"]) == platforms.usable() == ("ptrace",)


def test_where_none_works_all_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, NO_KVM, NO_PTRACE)
    assert platforms.chosen(["kvm", "ptrace"]) == ("kvm", "ptrace")
    assert platforms.usable() == ()


def test_what_is_demanded_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, NO_KVM, NO_PTRACE)
    monkeypatch.setenv("ASYNCKVM_REQUIRE_KVM", "1")
    found(monkeypatch, NO_KVM, PTRACE)
    assert platforms.chosen(["kvm", "ptrace"]) == ("kvm", "ptrace")
    assert (platforms.required("kvm"), platforms.required("ptrace")) == ("ASYNCKVM_REQUIRE_KVM=1", "")
    monkeypatch.setenv("ASYNCKVM_REQUIRE_GUESTS", "1")
    found(monkeypatch, KVM, NO_PTRACE)
    assert platforms.chosen(["kvm", "ptrace"]) == ("kvm", "ptrace")
    assert platforms.required("ptrace") == "ASYNCKVM_REQUIRE_GUESTS=1"


def test_who_asks_for_ptrace_demands_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCKVM_REQUIRE_KVM", "1")
    assert platforms.kvm_required()
    monkeypatch.setattr(platforms, "GIVEN", "ptrace")
    assert not platforms.kvm_required()
    assert platforms.required("kvm") == ""
    found(monkeypatch, KVM, PTRACE)
    assert platforms.usable() == ("ptrace",)
    assert platforms.probe() == PTRACE


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ValueError, match="no platform"):
        platforms.chosen(["kvm", "xen"])


def test_a_probe_that_ran_elsewhere_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest on the platform that was not asked for says nothing about the one that was."""

    class Done:
        returncode = 0
        stdout = "kvm Capabilities()\n"

    monkeypatch.setattr(platforms.subprocess, "run", lambda *_, **__: Done)
    assert platforms._run("auto") == Verdict(usable=True, name="kvm", report="Capabilities()")
    assert platforms._run("kvm").usable
    elsewhere = platforms._run("ptrace")
    assert (elsewhere.usable, elsewhere.name) == (False, "ptrace")


def test_what_one_process_found_another_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, NO_KVM, PTRACE)
    told = {name: list(values) for name, values in platforms.known().items()}
    monkeypatch.setattr(platforms, "_found", {})
    platforms.remember(told)
    assert platforms.probe("kvm") == NO_KVM
    assert platforms.probe() == PTRACE


@pytest.mark.parametrize("before", [None, "kvm"])
def test_programs_started_in_the_block_get_the_platform(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.delenv(platforms.VARIABLE, raising=False)
    if before:
        monkeypatch.setenv(platforms.VARIABLE, before)
    with platforms.using("ptrace"):
        assert os.environ[platforms.VARIABLE] == "ptrace"
    assert os.environ.get(platforms.VARIABLE) == before
