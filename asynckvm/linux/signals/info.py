"""siginfo_t: why a signal was sent, as a frozen value and as the 128 bytes of the x86-64 ABI.

Three numbers and a union. The union is kept as its bytes, because a program may queue what it likes (rt_sigqueueinfo(2)) and must
get the same back; constructors and properties know its members. Source: sigaction(2), include/uapi/asm-generic/siginfo.h.
"""

from __future__ import annotations

import enum
import signal
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from asynckvm.linux.signals.numbers import SI_KERNEL, SI_SIGIO, SI_TIMER, SI_TKILL, SI_USER, SIGNALS

if TYPE_CHECKING:
    from asynckvm.model.exits import Fault

BYTES: Final = 128
# What a kernel keeps of one; the rest of the 128 bytes is zero, or the info is refused.
_UNION_BYTES: Final = 32
_HEAD: Final = struct.Struct("<iii4x")
_KEPT: Final = _HEAD.size + _UNION_BYTES
_SIGPOLL_CODES: Final = 6
_SIGSYS: Final = 31
_SI_DETHREAD, _SI_ASYNCNL = -7, -60
# Highest code of those signals whose codes have a meaning of their own.
_CODES: Final = {
    signal.SIGILL: 11,
    signal.SIGFPE: 15,
    signal.SIGSEGV: 10,
    signal.SIGBUS: 5,
    signal.SIGTRAP: 6,
    signal.SIGCHLD: 6,
    signal.SIGPOLL: _SIGPOLL_CODES,
    _SIGSYS: 2,
}


class Layout(enum.Enum):
    """Which member of the union is in use."""

    KILL = "pid, uid"
    TIMER = "timer, overrun, value"
    POLL = "band, descriptor"
    FAULT = "address"
    CHILD = "pid, uid, status, times"
    RT = "pid, uid, value"
    SYSTEM_CALL = "address, number, architecture"


class Source(Protocol):
    """Who sent a signal and wants to know when it is taken: a timer, which counts what expired meanwhile."""

    def collected(self, info: SigInfo) -> SigInfo:
        """The info as the program is to see it. Called once, when it stops being pending."""

    def discarded(self) -> None:
        """The pending signal was thrown away unseen."""


@dataclass(frozen=True, slots=True)
class SigInfo:
    """One signal. `fault` and `reason` are for the report on a program that dies of it, and not part of the ABI."""

    number: int
    code: int = SI_USER
    errno: int = 0
    union: bytes = bytes(_UNION_BYTES)
    source: Source | None = field(default=None, compare=False)
    fault: Fault | None = field(default=None, compare=False)
    reason: str = field(default="", compare=False)

    @property
    def layout(self) -> Layout:
        if SI_USER < self.code < SI_KERNEL:
            if self.code <= _CODES.get(self.number, 0):
                return _OWN_LAYOUTS.get(self.number, Layout.FAULT)
            return Layout.POLL if self.code <= _SIGPOLL_CODES else Layout.KILL
        if self.code == SI_TIMER:
            return Layout.TIMER
        if self.code == SI_SIGIO:
            return Layout.POLL
        return Layout.RT if self.code < 0 else Layout.KILL

    @property
    def pid(self) -> int:
        return self._int32(0)

    @property
    def uid(self) -> int:
        return self._int32(4) & 0xFFFF_FFFF

    @property
    def value(self) -> int:
        """sigval, as an unsigned 64-bit word."""
        return self._word(8)

    @property
    def status(self) -> int:
        return self._int32(8)

    @property
    def times(self) -> tuple[int, int]:
        """User and system time of a child, in clock ticks."""
        return self._word(16), self._word(24)

    @property
    def timer(self) -> int:
        return self._int32(0)

    @property
    def overrun(self) -> int:
        return self._int32(4)

    @property
    def address(self) -> int:
        return self._word(0)

    @property
    def band(self) -> int:
        return self._word(0)

    @property
    def descriptor(self) -> int:
        return self._int32(8)

    def pack(self) -> bytes:
        return (_HEAD.pack(self.number, self.errno, self.code) + self.union).ljust(BYTES, b"\0")

    def with_overrun(self, overrun: int) -> SigInfo:
        return replace(self, union=self.union[:4] + struct.pack("<i", overrun) + self.union[8:])

    def _int32(self, offset: int) -> int:
        value: int = struct.unpack_from("<i", self.union, offset)[0]
        return value

    def _word(self, offset: int) -> int:
        value: int = struct.unpack_from("<Q", self.union, offset)[0]
        return value


_OWN_LAYOUTS: Final = {signal.SIGCHLD: Layout.CHILD, signal.SIGPOLL: Layout.POLL, _SIGSYS: Layout.SYSTEM_CALL}


def unpack(number: int, image: bytes) -> SigInfo | None:
    """What a program queues as signal `number`; None when it has more to say than a kernel keeps, in a way that nobody knows."""
    _, errno, code = _HEAD.unpack_from(image)
    if not _is_known(number, code) and any(image[_KEPT:BYTES]):
        return None
    return SigInfo(number, code, errno, image[_HEAD.size : _KEPT])


def _is_known(number: int, code: int) -> bool:
    if code > SI_USER:
        return code == SI_KERNEL or code <= _CODES.get(number, _SIGPOLL_CODES)
    return code >= _SI_DETHREAD or code == _SI_ASYNCNL


def _union(layout: str, *values: int) -> bytes:
    return struct.pack("<" + layout, *values).ljust(_UNION_BYTES, b"\0")


def from_kernel(number: int, *, reason: str = "") -> SigInfo:
    """Sent by the kernel for no process's sake."""
    return SigInfo(number, SI_KERNEL, reason=reason)


def from_user(number: int, pid: int, uid: int, *, reason: str = "") -> SigInfo:
    """kill(2)."""
    return SigInfo(number, SI_USER, union=_union("iI", pid, uid), reason=reason)


def from_thread(number: int, pid: int, uid: int) -> SigInfo:
    """tkill(2), tgkill(2)."""
    return SigInfo(number, SI_TKILL, union=_union("iI", pid, uid))


def from_timer(number: int, timer: int, value: int, source: Source) -> SigInfo:
    """timer_create(2) with SIGEV_SIGNAL."""
    return SigInfo(number, SI_TIMER, union=_union("iiQ", timer, 0, value), source=source)


def from_child(code: int, pid: int, uid: int, status: int, times: tuple[int, int]) -> SigInfo:
    """SIGCHLD: `code` is CLD_*, `status` an exit code or a signal, `times` user and system time in clock ticks."""
    return SigInfo(signal.SIGCHLD, code, union=_union("iIi4xqq", pid, uid, status, *times))


def from_descriptor(number: int, code: int, band: int, descriptor: int) -> SigInfo:
    """SIGIO with F_SETSIG."""
    return SigInfo(number, code, union=_union("qi", band, descriptor))


def from_fault(fault: Fault, *, reason: str = "") -> SigInfo:
    """What an exception of the processor sends; SI_KERNEL has no address to tell."""
    address = fault.address if fault.code != SI_KERNEL else 0
    return SigInfo(fault.signal, fault.code, union=_union("Q", address), fault=fault, reason=reason)


def is_valid(number: int) -> bool:
    return 1 <= number <= SIGNALS
