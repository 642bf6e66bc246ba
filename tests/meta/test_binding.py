"""The hand-written types of the compiled module say what the module really has: every name, field and argument count."""

import ast
import re

import pytest

import asynckvm
from asynckvm._native import ffi, lib
from support import tree

STUB = "asynckvm/_native/_ffi.pyi"
CLASSES = {node.name: node for node in ast.parse(tree.read(STUB)).body if isinstance(node, ast.ClassDef)}


def constants(class_name: str) -> list[str]:
    """Annotated names in a class of the stub, in order."""
    return [node.target.id for node in CLASSES[class_name].body if isinstance(node, ast.AnnAssign)]


def functions(class_name: str) -> dict[str, int]:
    """Functions in a class of the stub and how many arguments each takes."""
    return {
        node.name: len(node.args.posonlyargs) + len(node.args.args) - 1
        for node in CLASSES[class_name].body
        if isinstance(node, ast.FunctionDef)
    }


def c_name(class_name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", class_name).lower()


def test_stub_lists_the_whole_module() -> None:
    assert sorted([*constants("_Lib"), *functions("_Lib")]) == sorted(dir(lib))


def test_stub_counts_arguments_as_the_module_does() -> None:
    for name, arguments in functions("_Lib").items():
        assert len(ffi.typeof(getattr(lib, name)).args) == arguments, name


@pytest.mark.parametrize("class_name", [name for name in CLASSES if not name.startswith("_")])
def test_stub_lists_the_fields_of_each_structure(class_name: str) -> None:
    struct = f"struct {c_name(class_name)}"
    try:
        ffi.sizeof(struct)
    except ffi.error:  # opaque: the header only declares it
        assert constants(class_name) == []
    else:
        assert constants(class_name) == [name for name, _ in ffi.typeof(struct).fields]


def test_versions_agree() -> None:
    assert ffi.string(lib.akvm_version()).decode() == asynckvm.__version__


def test_user_addresses_are_bounded_as_the_header_says() -> None:
    """The two macros that the preprocessor would drop arrive with the header's values."""
    header = tree.read("native/include/akvm/akvm.h")
    for name in ("AKVM_USER_MIN", "AKVM_USER_MAX"):
        assert f"#define {name} {getattr(lib, name):#x}" in re.sub(r"[ \t]+", " ", header)
