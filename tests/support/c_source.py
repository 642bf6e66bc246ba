"""Just enough of C's lexical structure for house rules: text without comments and strings, and where functions lie."""

from __future__ import annotations

import re
from typing import NamedTuple

# Order matters: whichever starts first swallows the others.
TOKENS = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


class Function(NamedTuple):
    """A function definition: its name, the line it starts on (1-based) and how many lines it has, braces included."""

    name: str
    line: int
    lines: int


def bare(text: str) -> str:
    """`text` with comments and the contents of strings blanked; every line stays where it was."""

    def blank(match: re.Match[str]) -> str:
        token = match.group()
        kept = token[0] if token[0] in "\"'" else " "
        return kept + re.sub(r"[^\n]", " ", token[1:-1]) + kept

    return TOKENS.sub(blank, text)


def functions(text: str) -> list[Function]:
    """Function definitions at file level: a brace in the first column, opened after a line that ends a parameter list.

    That is the brace style .clang-format enforces, so nothing more clever is needed; preprocessor branches that open a
    function twice are not understood.
    """
    lines = bare(text).splitlines()
    found = []
    head = start = 0
    for number, line in enumerate(lines):
        if line == "{":
            start = number
            head = number - 1
            while head > 0 and lines[head - 1].strip() and not lines[head - 1].rstrip().endswith((";", "}")):
                if lines[head - 1].lstrip().startswith("#"):
                    break
                head -= 1
        elif line == "}" and start:
            signature = " ".join(lines[head:start])
            if match := re.search(r"(\w+)\s*\(", signature):
                found.append(Function(match.group(1), head + 1, number - head + 1))
            start = 0
    return found
