"""What is pending: of a thread, or of a process as a whole.

A standard signal is pending once, whoever sends it; real-time signals queue, each with its info, up to RLIMIT_SIGPENDING. Which
comes first is decided here, whether it is delivered elsewhere. Source: signal(7), kernel/signal.c (__send_signal_locked,
next_signal, collect_signal).
"""

from __future__ import annotations

import collections
import errno
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals.info import SigInfo
from asynckvm.linux.signals.numbers import SI_USER, SIGRTMIN, SYNCHRONOUS, bit, lowest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.signals.info import Source

# Whatever limit a guest sets itself: what all queues of a sandbox may hold of this process's memory.
QUEUED_MAX: Final = 1 << 16


class Account:
    """How many signals are queued by those who share a limit: all processes of a user, in Linux."""

    def __init__(self) -> None:
        self.queued = 0


class SignalQueue:
    """Pending signals. `mask` has a bit for each."""

    def __init__(self, account: Account | None = None) -> None:
        self.mask = 0
        self.account = account if account is not None else Account()
        self._infos: dict[int, collections.deque[SigInfo]] = {}

    def put(self, info: SigInfo, limit: int = QUEUED_MAX) -> bool:
        """Make it pending; False when a standard signal already was.

        Beyond `limit` a signal loses its info, and a real-time signal that somebody queued is refused with EAGAIN.
        """
        number = info.number
        if number < SIGRTMIN and self.mask & bit(number):
            return False
        # The kernel's own standard signals are few: one of each is always kept.
        exempt = number < SIGRTMIN and info.code >= 0
        if exempt or info.source is not None or self.account.queued < min(limit, QUEUED_MAX):
            self._infos.setdefault(number, collections.deque()).append(info)
            self.account.queued += 1
        elif number >= SIGRTMIN and info.code != SI_USER:
            raise SyscallError(errno.EAGAIN)
        self.mask |= bit(number)
        return True

    def take(self, blocked: int = 0) -> SigInfo | None:
        """The next signal that is not blocked: those of faults first, then the lowest."""
        ready = self.mask & ~blocked
        number = lowest(ready & SYNCHRONOUS or ready)
        return self.take_number(number) if number else None

    def take_fault(self, blocked: int) -> SigInfo | None:
        """A signal that an instruction of the thread caused, before any other."""
        ready = self.mask & ~blocked & SYNCHRONOUS
        while ready:
            number = lowest(ready)
            infos = self._infos.get(number)
            if infos and infos[0].code > SI_USER:
                return self.take_number(number)
            ready &= ~bit(number)
        return None

    def take_number(self, number: int) -> SigInfo | None:
        """The oldest one of this number."""
        if not self.mask & bit(number):
            return None
        infos = self._infos.get(number)
        # What lost its info looks as if sent by nobody.
        info = infos.popleft() if infos else SigInfo(number)
        if not infos:
            self._infos.pop(number, None)
            self.mask &= ~bit(number)
        if infos is not None:
            self.account.queued -= 1
        return info.source.collected(info) if info.source is not None else info

    def discard(self, mask: int) -> None:
        """Forget all signals of a mask."""
        found = self.mask & mask
        while found:
            number = lowest(found)
            found &= ~bit(number)
            for info in self._infos.pop(number, ()):
                self.account.queued -= 1
                if info.source is not None:
                    info.source.discarded()
        self.mask &= ~mask

    def withdraw(self, source: Source) -> None:
        """Forget what `source` sent; it knows."""
        for number, queued in tuple(self._infos.items()):
            left = collections.deque(info for info in queued if info.source is not source)
            self.account.queued -= len(queued) - len(left)
            if left:
                self._infos[number] = left
            elif len(left) < len(queued):
                del self._infos[number]
                self.mask &= ~bit(number)

    def __iter__(self) -> Iterator[SigInfo]:
        for number in sorted(self._infos):
            yield from self._infos[number]
