"""The table of real programs, by what they are. A row is added where its program belongs; programs/row.py says what one is."""

from __future__ import annotations

from programs.row import Row
from programs.table import (
    applets,
    archives,
    bash_scripts,
    compilers,
    files,
    languages,
    processes,
    python_modules,
    python_processes,
    shell_scripts,
    terminals,
    text,
    tools,
)

ROWS: tuple[Row, ...] = (
    *applets.ROWS,
    *shell_scripts.ROWS,
    *bash_scripts.ROWS,
    *files.ROWS,
    *text.ROWS,
    *archives.ROWS,
    *processes.ROWS,
    *terminals.ROWS,
    *tools.ROWS,
    *languages.ROWS,
    *python_modules.ROWS,
    *python_processes.ROWS,
    *compilers.ROWS,
)
