"""What a run has begun, in a file that survives it: when the process dies or hangs, this is what was on the vCPUs."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

WINDOW: Final = 64
_ENTRY: Final = struct.Struct("<QQ")
_COUNT: Final = struct.Struct("<Q")


class Journal:
    """The last WINDOW cases that were begun. One process writes, another may read at any time."""

    def __init__(self, path: Path) -> None:
        size = _COUNT.size + WINDOW * _ENTRY.size
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)

    def note(self, seed: int, index: int) -> None:
        count = self.begun
        _ENTRY.pack_into(self._memory, _COUNT.size + count % WINDOW * _ENTRY.size, seed, index)
        _COUNT.pack_into(self._memory, 0, count + 1)

    @property
    def begun(self) -> int:
        """How many cases were begun."""
        count: int = _COUNT.unpack_from(self._memory, 0)[0]
        return count

    def window(self) -> list[tuple[int, int]]:
        """(seed, index) of the last ones, oldest first."""
        count = self.begun
        numbers = range(max(0, count - WINDOW), count)
        return [_ENTRY.unpack_from(self._memory, _COUNT.size + number % WINDOW * _ENTRY.size) for number in numbers]

    def close(self) -> None:
        self._memory.close()
