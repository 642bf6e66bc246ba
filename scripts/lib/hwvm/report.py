"""What is told at the end: a table, a line a variant, and everything as JUnit's XML for whoever keeps that."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from hwvm.results import SKIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwvm.session import Session

HEADINGS = ("variant", "C tests", "pytest", "seconds", "exit", "KVM")


def table(sessions: Iterable[Session]) -> str:
    """Counts are passed/failed/skipped."""
    rows = [HEADINGS, *(_row(session) for session in sessions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _row(session: Session) -> tuple[str, ...]:
    if session.results is None:
        return (session.variant.name, "-", "-", f"{session.seconds:.0f}", str(session.status), session.trouble.splitlines()[0])
    counts = (str(session.results.c_counts), str(session.results.pytest_counts))
    return (session.variant.name, *counts, f"{session.seconds:.0f}", str(session.status), session.results.host)


def junit(sessions: Iterable[Session]) -> ET.ElementTree[ET.Element]:
    """One testsuite for the C tests and one for pytest's, for each variant; a machine that died is an error of its own."""
    root = ET.Element("testsuites", name="hwtest")
    for session in sessions:
        name = session.variant.name
        if session.results is None:
            suite = ET.SubElement(root, "testsuite", name=name, tests="1", errors="1", failures="0", skipped="0")
            case = ET.SubElement(suite, "testcase", classname=name, name="machine", time=f"{session.seconds:.1f}")
            ET.SubElement(case, "error", message=session.trouble.splitlines()[0]).text = session.trouble
            continue
        if session.results.missing:
            suite = ET.SubElement(root, "testsuite", name=name, tests="1", errors="1", failures="0", skipped="0")
            case = ET.SubElement(suite, "testcase", classname=name, name="results")
            ET.SubElement(case, "error", message=session.results.missing)
        if session.results.c_tests:
            root.append(_c_suite(session))
        if session.results.pytest is not None:
            suite = copy.deepcopy(session.results.pytest)
            suite.set("name", f"{name}.pytest")
            root.append(suite)
    return ET.ElementTree(root)


def _c_suite(session: Session) -> ET.Element:
    assert session.results is not None
    counts = session.results.c_counts
    numbers = {"tests": str(sum(counts)), "failures": str(counts.failed), "skipped": str(counts.skipped), "errors": "0"}
    suite = ET.Element("testsuite", {"name": f"{session.variant.name}.c", **numbers})
    for test in session.results.c_tests:
        case = ET.SubElement(suite, "testcase", classname=test.build, name=test.name, time=str(test.seconds))
        if test.status == SKIPPED:
            ET.SubElement(case, "skipped", message="says it cannot run here")
        elif test.status != 0:
            ET.SubElement(case, "failure", message=f"exit status {test.status}").text = test.output
    return suite
