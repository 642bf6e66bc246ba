"""The vDSO of guests: a shared object in C that is mapped into each process, and in front of it the page with the clocks.

Mapping only: what the object does is told in native/vdso, what the page says in `clock_page`. Source: vdso(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.linux.layout import page_up
from asynckvm.model.memory import PAGE, Access
from asynckvm.platform.binding import vdso_image

if TYPE_CHECKING:
    from asynckvm.linux.clock_page import ClockPage
    from asynckvm.platform import AddressSpace, Machine


class Vdso:
    """The files of one machine's guests. Close it when nothing more is to be mapped; what is mapped stays."""

    def __init__(self, machine: Machine, page: ClockPage) -> None:
        image = vdso_image()
        self._image_bytes: Final = page_up(image.stat().st_size)
        self._page: Final = machine.open_file(page.fd)
        self._image: Final = machine.open_file(image)

    @property
    def size(self) -> int:
        """Bytes to find room for."""
        return PAGE + self._image_bytes

    def map(self, space: AddressSpace, address: int) -> int:
        """Map page and object at `address`; returns where the object's ELF header is (AT_SYSINFO_EHDR)."""
        space.map(address, PAGE, Access.READ, file=self._page)
        space.map(address + PAGE, self._image_bytes, Access.READ | Access.EXECUTE, file=self._image)
        return address + PAGE

    def close(self) -> None:
        self._page.close()
        self._image.close()
