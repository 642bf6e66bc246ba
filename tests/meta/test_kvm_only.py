"""The tests that only KVM can pass are few, each with its reason, and the document lists them: reviews see it grow."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from support import tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    Functions = ast.FunctionDef | ast.AsyncFunctionDef
MARKER = "kvm_only"
LISTED = re.compile(r"^\| `(?P<test>\w+/\w+(?:/\w+)*\.py::\w+)` \| (?P<why>.+?) \|$", re.MULTILINE)


def reasons(node: ast.AST) -> Iterator[str]:
    """What uses of the marker in a piece of a program say."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == MARKER:
            assert len(call.args) == 1, ast.unparse(call)
            yield str(ast.literal_eval(call.args[0]))


def marked(path: str, text: str) -> set[tuple[str, str]]:
    """The tests of a file that have the marker, themselves or in one of their parameters, each with the reason."""
    module = ast.parse(text)
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {(function.name, why) for function in functions for part in function.decorator_list for why in reasons(part)}
    assert len(list(reasons(module))) == len(found), f"{path}: the marker belongs to tests, in their decorators"
    return {(f"{path.removeprefix('tests/')}::{name}", why) for name, why in found}


def test_the_document_lists_every_one_with_its_reason() -> None:
    found = {row for path in tree.files("tests/*.py") for row in marked(path, tree.read(path))}
    text = tree.read("tests/README.md")
    assert {(row["test"], row["why"]) for row in LISTED.finditer(text)} == found
    assert f"{len(found)} tests can only be true of KVM" in text


def test_marks_are_found_where_they_can_stand() -> None:
    text = """
        @pytest.mark.kvm_only("one")
        def test_a(): pass
        @pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.kvm_only("two"))])
        async def test_b(x): pass
        def test_c(): pass
    """
    assert marked("tests/kvm/test_x.py", "if True:" + text) == {
        ("kvm/test_x.py::test_a", "one"),
        ("kvm/test_x.py::test_b", "two"),
    }
    with pytest.raises(AssertionError, match="belongs to tests"):
        marked("tests/kvm/test_x.py", 'pytestmark = pytest.mark.kvm_only("everything")')
