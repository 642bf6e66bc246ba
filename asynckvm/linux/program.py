"""What a process executes: the file, its arguments, and where its parts lie in memory. Values only; /proc shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asynckvm.linux.loader import Loaded
    from asynckvm.linux.vfs import Location


@dataclass(frozen=True, slots=True)
class Program:
    """`name` is what was executed, as AT_EXECFN has it; `location` the file that runs, for a script its interpreter, and
    `identity` its device and inode."""

    name: bytes
    location: Location | None
    identity: tuple[int, int]
    loaded: Loaded
