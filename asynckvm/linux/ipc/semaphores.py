"""System V semaphores: sets of numbers that processes add to and take from, all or nothing.

Source: semop(2), semctl(2), ipc/sem.c.
"""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.ipc.ids import IPC_NOWAIT, IpcTable, Permissions
from asynckvm.linux.wait import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

# The four numbers of /proc/sys/kernel/sem: of a set, of all sets, operations of a call, sets. The middle ones bound host memory.
SET_MAX: Final = 32000
TOTAL_MAX: Final = 64000
OPERATIONS_MAX: Final = 500
SETS_MAX: Final = 1024
VALUE_MAX: Final = 32767
SEM_UNDO: Final = 0x1000
# struct semid64_ds after its permissions, and struct seminfo.
_STATUS: Final = struct.Struct("<qQqQQ16x")
_INFO: Final = struct.Struct("<10i")
_UNDO_BYTES: Final = 20


class Operation(NamedTuple):
    """struct sembuf."""

    number: int
    change: int
    flags: int


class SemaphoreSet:
    """Times in seconds. `undo`: by process and index, what the end of the process adds."""

    def __init__(self, permissions: Permissions, count: int) -> None:
        self.permissions = permissions
        self.values = [0] * count
        self.pids = [0] * count
        self.undo: dict[Process, dict[int, int]] = {}
        # The operations that are waited with, for GETNCNT and GETZCNT.
        self.waiting: list[Operation] = []
        self.removed = False
        self.queue = WaitQueue()
        self.operated_at = 0
        self.changed_at = int(time.time())

    def attempt(self, process: Process, operations: Sequence[Operation]) -> Operation | None:
        """Do all of them; or none, and return the one that has to wait. ERANGE."""
        values, undo = dict[int, int](), dict(self.undo.get(process, {}))
        for operation in operations:
            index, change, flags = operation
            value = values.get(index, self.values[index])
            if (not change and value) or value + change < 0:
                return operation
            if value + change > VALUE_MAX:
                raise SyscallError(errno.ERANGE)
            values[index] = value + change
            if change and flags & SEM_UNDO:
                undo[index] = undo.get(index, 0) - change
                if not -VALUE_MAX <= undo[index] <= VALUE_MAX:
                    raise SyscallError(errno.ERANGE)
        for index, value in values.items():
            self.values[index], self.pids[index] = value, process.pid
        if undo := {index: change for index, change in undo.items() if change}:
            self.undo[process] = undo
        else:
            self.undo.pop(process, None)
        self.operated_at = int(time.time())
        self.queue.wake()
        return None

    def set(self, process: Process, values: dict[int, int]) -> None:
        """SETVAL and SETALL: nobody undoes what he did before. ERANGE."""
        if any(not 0 <= value <= VALUE_MAX for value in values.values()):
            raise SyscallError(errno.ERANGE)
        for index, value in values.items():
            self.values[index], self.pids[index] = value, process.pid
        for undo in self.undo.values():
            for index in undo.keys() & values.keys():
                del undo[index]
        self.changed_at = int(time.time())
        self.queue.wake()

    def ended(self, process: Process) -> None:
        """Undo what it asked to have undone, as far as values go."""
        undo = self.undo.pop(process, None)
        if undo:
            for index, change in undo.items():
                self.values[index] = max(0, min(self.values[index] + change, VALUE_MAX))
                self.pids[index] = process.pid
            self.queue.wake()

    def status(self) -> bytes:
        """struct semid64_ds."""
        return self.permissions.pack() + _STATUS.pack(self.operated_at, 0, self.changed_at, 0, len(self.values))


class Semaphores(IpcTable[SemaphoreSet]):
    """All sets of a sandbox."""

    def __init__(self) -> None:
        super().__init__(SETS_MAX)

    def open(self, task: Task, key: int, count: int, flags: int) -> int:
        """semget(2). EINVAL, ENOSPC."""
        if not 0 <= count <= SET_MAX:
            raise SyscallError(errno.EINVAL)

        def make(permissions: Permissions) -> SemaphoreSet:
            if not count:
                raise SyscallError(errno.EINVAL)
            if self._used + count > TOTAL_MAX:
                raise SyscallError(errno.ENOSPC)
            return SemaphoreSet(permissions, count)

        def check(found: SemaphoreSet) -> None:
            if count > len(found.values):
                raise SyscallError(errno.EINVAL)

        return self.get(key, flags, task.process.credentials, make, check)

    @property
    def _used(self) -> int:
        return sum(len(one.values) for one in self)

    async def operate(self, task: Task, number: int, operations: Sequence[Operation], until: int | None) -> None:
        """semop(2), semtimedop(2). EAGAIN, EFBIG, EIDRM, EINTR."""
        found = self.find(number)
        if any(operation.number >= len(found.values) for operation in operations):
            raise SyscallError(errno.EFBIG)
        found.permissions.check(task.process.credentials, 0o222 if any(one.change for one in operations) else 0o444)
        while (blocked := found.attempt(task.process, operations)) is not None:
            if blocked.flags & IPC_NOWAIT:
                raise SyscallError(errno.EAGAIN)
            await self._wait(task, found, blocked, until)

    @staticmethod
    async def _wait(task: Task, found: SemaphoreSet, blocked: Operation, until: int | None) -> None:
        found.waiting.append(blocked)
        try:
            in_time = await task.wait(found.queue, until=until)
        except SyscallError as error:
            raise error.instead_of_restart(errno.EINTR) from None
        finally:
            found.waiting.remove(blocked)
        if found.removed:
            raise SyscallError(errno.EIDRM)
        if not in_time:
            raise SyscallError(errno.EAGAIN)

    def remove(self, number: int) -> SemaphoreSet:
        """IPC_RMID: who waits for it is told."""
        found = super().remove(number)
        found.removed = True
        found.queue.wake()
        return found

    def ended(self, process: Process) -> None:
        """The process is gone."""
        for found in self:
            found.ended(process)

    def info(self, *, used: bool) -> bytes:
        """struct seminfo: limits, or what is `used` of them."""
        size, last = (len(self), self._used) if used else (_UNDO_BYTES, VALUE_MAX)
        limits = TOTAL_MAX, SETS_MAX, TOTAL_MAX, TOTAL_MAX, SET_MAX, OPERATIONS_MAX, OPERATIONS_MAX
        return _INFO.pack(*limits, size, VALUE_MAX, last)
