"""The table and the JUnit file, for runs that passed, failed and died."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from unit.hwvm.machines import job

from hwvm import report, results
from hwvm.session import Session
from hwvm.variants import VARIANTS

FILES = {
    "doctor.status": b"0",
    "doctor.json": b'{"usable": true, "capabilities": {"kvm_module": "kvm_amd", "smap": true}}',
    "c-tests": b"plain test_ring 0 1.5\nplain test_kick 1 2.5\nplain test_pcid 77 0.1\n",
    "plain.test_kick.output": b"too late\n",
    "pytest.status": b"1",
    "pytest.xml": b'<testsuites><testsuite name="pytest" tests="2" failures="1" errors="0" skipped="0"><testcase name="a"/>'
    b'<testcase name="b"><failure message="no"/></testcase></testsuite></testsuites>',
}
RAN = Session(VARIANTS[0], results.read(FILES, job()), "", 12.4)
DIED = Session(VARIANTS[1], None, "the machine died after 3 s\nthe end of its console", 3)


def test_the_table() -> None:
    assert report.table([RAN, DIED]).splitlines() == [
        "variant     C tests  pytest  seconds  exit  KVM",
        "amd-npt     1/1/1    1/1/0   12       1     kvm_amd smap",
        "amd-shadow  -        -       3        125   the machine died after 3 s",
    ]


def test_junit_holds_both_kinds_of_tests_and_the_dead_machine() -> None:
    root = report.junit([RAN, DIED]).getroot()
    assert root is not None
    again = ET.fromstring(ET.tostring(root))
    suites = [(suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors")) for suite in again]
    assert suites == [("amd-npt.c", "3", "1", "0"), ("amd-npt.pytest", "2", "1", "0"), ("amd-shadow", "1", "0", "1")]
    assert [case.get("name") for case in again.iter("testcase")] == ["test_ring", "test_kick", "test_pcid", "a", "b", "machine"]
    assert again.findtext("testsuite/testcase[@name='test_kick']/failure") == "too late\n"
    assert again.find("testsuite/testcase[@name='test_pcid']/skipped") is not None


def test_junit_tells_what_is_missing() -> None:
    partial = results.read({name: data for name, data in FILES.items() if name != "pytest.status"}, job())
    root = report.junit([Session(VARIANTS[0], partial, partial.missing, 1)]).getroot()
    assert root is not None
    errors = [error.get("message") for error in root.iter("error")]
    assert errors == ["pytest did not end"]


def test_a_host_without_guests_is_told() -> None:
    broken = {**FILES, "doctor.json": b'{"usable": false, "error": "KVM_RUN: EFAULT"}'}
    assert results.read(broken, job()).host == "no guest runs: KVM_RUN: EFAULT"
