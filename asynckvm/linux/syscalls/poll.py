"""poll(2), select(2) and their kin: waiting for any of several files, and the signal mask some calls wait with."""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestMemoryError
from asynckvm.linux.errors import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTSYS, INT64_MAX, RESTARTS, SyscallError
from asynckvm.linux.signals import send
from asynckvm.linux.usercopy import NANOSECONDS, read_timespec, read_uint64, write_timespec
from asynckvm.linux.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

_POLLFD: Final = struct.Struct("<iHH")
_TIMEVAL: Final = struct.Struct("<qq")
_MASK_ARGUMENT: Final = struct.Struct("<QQ")
_SIGSET_BYTES: Final = 8
# personality(2): what is left of a timeout is not told.
_STICKY_TIMEOUTS: Final = 0x400_0000
_MICROSECONDS: Final = 1_000_000
_WORD_BITS: Final = 64
# What each of select's sets asks for: fs/select.c.
_READ: Final = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR | POLLNVAL
_WRITE: Final = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR | POLLNVAL
_EXCEPT: Final = POLLPRI | POLLNVAL
# A deadline that has passed already: look once, do not wait.
AT_ONCE: Final = 0


# ---------------------------------------------------------------- deadlines and masks


def deadline(nanoseconds: int) -> int:
    """The end of a wait that may take so long, as `Task.wait` wants it."""
    return time.monotonic_ns() + nanoseconds if nanoseconds else AT_ONCE


def deadline_at(task: Task, address: int) -> int | None:
    """The same of a struct timespec; None, for ever, of a null pointer."""
    return deadline(read_timespec(task.space, address)) if address else None


def deadline_ms(milliseconds: int) -> int | None:
    """The same of poll's argument: for ever if negative."""
    return deadline(milliseconds * 1_000_000) if milliseconds >= 0 else None


def _left(until: int) -> int:
    return max(0, until - time.monotonic_ns()) if until else 0


@contextlib.contextmanager
def signal_mask(task: Task, address: int, size: int) -> Iterator[None]:
    """Wait with the signal mask at `address`, if there is one. After a signal the old one is back when its handler has begun."""
    if not address:
        yield
        return
    if size != _SIGSET_BYTES:
        raise SyscallError(errno.EINVAL)
    mask = read_uint64(task.space, address)
    before = task.saved_mask = task.mask
    send.set_mask(task, mask)
    interrupted = False
    try:
        yield
    except SyscallError as error:
        interrupted = error.number == errno.EINTR or error.number in RESTARTS
        raise
    finally:
        if not interrupted:
            send.set_mask(task, before)
            task.saved_mask = None


@contextlib.contextmanager
def _not_restarted_by_handlers() -> Iterator[None]:
    try:
        yield
    except SyscallError as error:
        raise error.instead_of_restart(ERESTARTNOHAND) from None


# ---------------------------------------------------------------- waiting


async def wait_for(task: Task, files: Sequence[OpenFile], look: Callable[[], int], until: int | None) -> int:
    """Call `look` until it finds something, which is returned; 0 after the deadline. The files stay open that long."""
    for file in files:
        file.hold()
    try:
        waiting = until != AT_ONCE
        while not (found := look()) and waiting:
            waiting = await task.wait(*[file.queue_for(task) for file in files], until=until)
        return found
    finally:
        for file in files:
            file.release()


# ---------------------------------------------------------------- poll


async def poll(task: Task, address: int, count: int, milliseconds: int) -> int:
    return await _poll_again(task, address, count, deadline_ms(milliseconds))


async def _poll_again(task: Task, address: int, count: int, until: int | None) -> int:
    """After a signal without a handler it goes on for what is left of its time."""
    try:
        return await _poll(task, address, count, until)
    except SyscallError as error:
        if error.number != ERESTARTSYS:
            raise
        task.restart = lambda: _poll_again(task, address, count, until)
        raise SyscallError(ERESTART_RESTARTBLOCK) from None


async def ppoll(task: Task, address: int, count: int, timespec: int, mask: int, size: int) -> int:
    until = deadline_at(task, timespec)
    try:
        with _not_restarted_by_handlers(), signal_mask(task, mask, size):
            return await _poll(task, address, count, until)
    finally:
        _tell_left(task, timespec, until)


async def _poll(task: Task, address: int, count: int, until: int | None) -> int:
    files = task.process.files
    if count > files.limit:
        raise SyscallError(errno.EINVAL)
    asked = list(_POLLFD.iter_unpack(task.space.read(address, _POLLFD.size * count))) if count else []
    watched = [_file(task, fd) if fd >= 0 else None for fd, _, _ in asked]
    answers = [0] * count

    def look() -> int:
        found = 0
        for index, (file, (fd, events, _)) in enumerate(zip(watched, asked, strict=True)):
            if file is not None:
                answers[index] = file.poll_for(task) & (events | POLLERR | POLLHUP)
            elif fd >= 0:
                answers[index] = POLLNVAL
            found += bool(answers[index])
        return found

    found = await wait_for(task, [file for file in watched if file is not None], look, until)
    if count:
        records = zip(asked, answers, strict=True)
        task.space.write(address, b"".join([_POLLFD.pack(fd, events, answer) for (fd, events, _), answer in records]))
    return found


def _file(task: Task, fd: int) -> OpenFile | None:
    try:
        return task.process.files.get(fd)
    except SyscallError:
        return None


# ---------------------------------------------------------------- select


async def select(task: Task, count: int, reading: int, writing: int, excepting: int, timeval: int) -> int:
    until = None
    if timeval:
        seconds, microseconds = _TIMEVAL.unpack(task.space.read(timeval, _TIMEVAL.size))
        if seconds < 0 or microseconds < 0:
            raise SyscallError(errno.EINVAL)
        # What is left is told, so it must fit into the structure: for ever, as in Linux.
        until = deadline(min(seconds * NANOSECONDS + microseconds * 1000, INT64_MAX))
    try:
        with _not_restarted_by_handlers():
            return await _select(task, count, (reading, writing, excepting), until)
    finally:
        if timeval and until is not None and not task.process.personality & _STICKY_TIMEOUTS:
            with contextlib.suppress(GuestMemoryError):
                seconds, microseconds = divmod(_left(until) // 1000, _MICROSECONDS)
                task.space.write(timeval, _TIMEVAL.pack(seconds, microseconds))


async def pselect6(task: Task, count: int, reading: int, writing: int, excepting: int, timespec: int, masked: int) -> int:
    mask, size = _MASK_ARGUMENT.unpack(task.space.read(masked, _MASK_ARGUMENT.size)) if masked else (0, 0)
    until = deadline_at(task, timespec)
    try:
        with _not_restarted_by_handlers(), signal_mask(task, mask, size):
            return await _select(task, count, (reading, writing, excepting), until)
    finally:
        _tell_left(task, timespec, until)


async def _select(task: Task, count: int, addresses: tuple[int, int, int], until: int | None) -> int:
    table = task.process.files
    if count < 0:
        raise SyscallError(errno.EINVAL)
    count = min(count, table.limit)
    size = -(-count // _WORD_BITS) * (_WORD_BITS // 8)
    asked = [_read_set(task, address, size, count) for address in addresses]
    files = {fd: table.get(fd) for fd in _bits(asked[0] | asked[1] | asked[2])}
    answers = [0, 0, 0]

    def look() -> int:
        answers[:] = 0, 0, 0
        for fd, file in files.items():
            events = file.poll_for(task)
            for index, wanted in enumerate((_READ, _WRITE, _EXCEPT)):
                if events & wanted:
                    answers[index] |= 1 << fd & asked[index]
        return sum(answer.bit_count() for answer in answers)

    found = await wait_for(task, list(files.values()), look, until)
    for address, answer in zip(addresses, answers, strict=True):
        if address and size:
            task.space.write(address, answer.to_bytes(size, "little"))
    return found


def _read_set(task: Task, address: int, size: int, count: int) -> int:
    if not address or not size:
        return 0
    return int.from_bytes(task.space.read(address, size), "little") & (1 << count) - 1


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _tell_left(task: Task, address: int, until: int | None) -> None:
    """How much of the time is left. A timeout in read-only memory is no mistake."""
    if address and until is not None and not task.process.personality & _STICKY_TIMEOUTS:
        with contextlib.suppress(GuestMemoryError):
            write_timespec(task.space, address, _left(until))
