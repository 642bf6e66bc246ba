"""A memory budget: one bound for the private memory and page tables of several address spaces.

Only the bound and what is charged to it; the counting is the core's, and what happens at the bound is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.errors import ClosedError, UsageError

if TYPE_CHECKING:
    from asynckvm.platform.binding import Handle
    from asynckvm.platform.core import Core

__all__ = ["MemoryBudget"]


class MemoryBudget:
    """Made by `Machine.create_memory_budget`; given to address spaces, whose forks inherit it. Pages of 4 KiB. Thread: any.

    A page of memory counts once, however many spaces share it copy-on-write; files' own pages do not count. A fault beyond the
    bound ends as Fault(SIGKILL), a copy by the host raises OutOfMemoryError.
    """

    def __init__(self, core: Core, pages: int) -> None:
        self._native: Handle = None
        self._core: Final = core
        if not 0 < pages < 1 << 52:
            raise UsageError(f"not a number of pages: {pages}")
        self.pages: Final = pages
        core.check()
        self._native = core.binding.create_budget(core.native, pages)

    def native_for(self, core: Core) -> Handle:
        """The handle, for that machine. Raises ClosedError, and UsageError for another machine's budget."""
        self._core.check()
        if core is not self._core:
            raise UsageError("the memory budget belongs to another machine")
        if self._native is None:
            raise ClosedError("the memory budget is closed")
        return self._native

    @property
    def used(self) -> int:
        """Pages charged now; those of closed spaces until the machine has them back."""
        return int(self._core.binding.lib.akvm_budget_used(self.native_for(self._core)))

    def charge(self, pages: int) -> None:
        """Charge memory that is kept elsewhere on the spaces' behalf. OutOfMemoryError when there is no room for all of it."""
        if not 0 <= pages < 1 << 52:
            raise UsageError(f"not a number of pages: {pages}")
        self._core.binding.check(self._core.binding.lib.akvm_budget_charge(self.native_for(self._core), pages))

    def release(self, pages: int) -> None:
        """Take back what was charged. Nothing happens once the budget or its machine is closed."""
        if self._native is not None and self._core.usable:
            self._core.binding.lib.akvm_budget_release(self._native, pages)

    def close(self) -> None:
        """The bound stays for the spaces that have it. Idempotent."""
        native, self._native = self._native, None
        if native is not None and self._core.usable:
            self._core.binding.lib.akvm_budget_destroy(native)

    def __del__(self) -> None:
        # No warning: spaces hold the budget, so letting go of the object is an ordinary way to end.
        self.close()
