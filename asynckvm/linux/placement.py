"""Where new mappings go in an address space, when the program leaves that to the kernel. Source: mmap(2), mm/mmap.c."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.layout import MMAP_WINDOWS, page_down, page_up
from asynckvm.model.memory import HUGE_PAGE, PAGE, USER_MAX, USER_MIN

if TYPE_CHECKING:
    from asynckvm.platform import AddressSpace

_WINDOW_32BIT: Final = (0x4000_0000, 0x8000_0000)


def find_room(space: AddressSpace, hint: int, length: int, *, low: bool = False) -> int:
    """For `length` bytes: at the hint when there is some, else the lowest in a window; below 2 GiB when `low`. ENOMEM."""
    hint = page_down(hint)
    if hint and in_user_space(hint, length) and not space.mapped(hint, length):
        return hint
    # Where 2 MiB pages fit, they are a hundred times cheaper to touch first.
    align = HUGE_PAGE if length >= HUGE_PAGE else PAGE
    for start, end in (_WINDOW_32BIT,) if low else MMAP_WINDOWS:
        found = space.room(start, end, length, align)
        if found is not None:
            return found
    raise SyscallError(errno.ENOMEM)


def in_user_space(address: int, length: int) -> bool:
    return address >= USER_MIN and page_up(address + length) <= USER_MAX
