"""One noun a file, one thought a function: files of at most 500 lines, functions of at most 70."""

import ast

from support import c_source, tree

FILE_LINES = 500
FUNCTION_LINES = 70
CODE = tree.files("asynckvm/*.py", "asynckvm/*.pyi", "tests/*.py", "native/*.c", "native/*.h", "native/*.S", "scripts/*")


def python_functions(text: str) -> list[c_source.Function]:
    """Function definitions, nested ones too; the docstring counts for nothing, decorators and signature do."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            found.append(c_source.Function(node.name, node.lineno, lines))
    return found


def test_files_are_short() -> None:
    """A longer file has a second noun in it, which wants a file of its own."""
    lengths = {path: len(tree.read(path).splitlines()) for path in CODE}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES} == {}


def test_functions_are_short() -> None:
    """Control flow belongs in the parent, work in helpers."""
    long = []
    for path in CODE:
        if path.endswith((".py", ".c", ".h")):
            text = tree.read(path)
            functions = python_functions(text) if path.endswith(".py") else c_source.functions(text)
            long += [f"{path}:{item.line} {item.name}: {item.lines} lines" for item in functions if item.lines > FUNCTION_LINES]
    assert long == []


C_SAMPLE = """\
/* a comment with { and } */
struct pair {
	int a;
};

static int
add(const char *text, int b)
{
	if (b) {
		return '}';
	}
	return text[0] == '{';
}

int twice(int a)
{
	return 2 * a; /* } */
}
"""


def test_c_functions_are_found() -> None:
    assert c_source.functions(C_SAMPLE) == [("add", 6, 8), ("twice", 15, 4)]


def test_python_functions_are_found() -> None:
    sample = "class A:\n    def f(self):\n        '''Two\n        lines.'''\n        return 1\n\n\nasync def g():\n    pass\n"
    assert sorted(python_functions(sample)) == [("f", 2, 2), ("g", 8, 2)]
