"""The project speaks of itself alone, says at the top of a file why it exists, and leaves nothing unfinished."""

import ast
import re

from support import c_source, tree

TEXT = tree.files("*.py", "*.pyi", "*.c", "*.h", "*.S", "*.md", "*.txt", "*.toml", "scripts/*", ".ci/*")
# Put together from pieces, so that this file does not contain what it looks for.
ELSEWHERE = re.compile(r"(?<![\w.])/(?:work|home/\w+|root)/(?:[\w.])|\b" + "iss" + r"ue \d|" + "/" + r"tmp/\w")
TITLE_WORDS = 3
UNFINISHED = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b|\braise Not" + "ImplementedError")


def lines_with(pattern: re.Pattern[str], paths: list[str]) -> list[str]:
    """Where the pattern occurs, as "path:line text"."""
    return [
        f"{path}:{number} {line.strip()}"
        for path in paths
        for number, line in enumerate(tree.read(path).splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_path_of_somebody_s_machine() -> None:
    assert lines_with(ELSEWHERE, [path for path in TEXT if not path.startswith(("tests/", "scripts/"))]) == []


def test_nothing_is_left_for_later() -> None:
    assert lines_with(UNFINISHED, [path for path in TEXT if not path.startswith("tests/")]) == []


def test_python_files_say_why_they_exist() -> None:
    texts = {path: tree.read(path) for path in tree.files("asynckvm/*.py", "tests/*.py", "scripts/*.py")}
    assert [path for path, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))] == []


def test_c_files_say_why_they_exist() -> None:
    """The first thing in the file is a comment, and more than a title."""
    texts = {path: tree.read(path) for path in tree.files("native/*.c", "native/*.h", "native/*.S")}
    heads = {path: re.match(r"/\*(.*?)\*/", text, re.DOTALL) for path, text in texts.items()}
    assert [path for path, head in heads.items() if head is None or len(re.findall(r"\w+", head[1])) < TITLE_WORDS] == []


def test_assembly_asks_for_no_executable_stack() -> None:
    assert [path for path in tree.files("native/*.S") if ".note.GNU-stack" not in tree.read(path)] == []


def test_bare_text_keeps_lines_and_drops_words() -> None:
    text = 'a = "b /* c */"; // d\n/* e\nf */ g\n'
    assert c_source.bare(text).split() == ["a", "=", '"', '";', "g"]
    assert c_source.bare(text).count("\n") == text.count("\n")
