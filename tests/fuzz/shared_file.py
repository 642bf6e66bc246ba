"""A host file that every attacker may map, and that is cut short and grown again under their mappings."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Final

from fuzz.places import PAGE

if TYPE_CHECKING:
    from asynckvm.platform import Access, AddressSpace, Machine

_PAGES: Final = 8


class SharedFile:
    """Without a name: gone with its last descriptor."""

    def __init__(self, machine: Machine) -> None:
        self._file = tempfile.TemporaryFile(prefix="asynckvm-fuzz-")  # noqa: SIM115 - lives as long as this
        self._file.write(b"\x0f\x05\xf3\x90" * (_PAGES * PAGE // 4))
        self._file.flush()
        self._mapping = machine.open_file(self._file.fileno())

    def map(self, space: AddressSpace, address: int, length: int, access: Access) -> None:
        space.map(address, length, access, file=self._mapping)

    def cut(self, number: int) -> None:
        """To some length, often a part of a page."""
        os.ftruncate(self._file.fileno(), number % (_PAGES * PAGE))

    def close(self) -> None:
        self._mapping.close()
        self._file.close()
