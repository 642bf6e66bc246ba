"""Idempotent ring-0 operations: run one on a vCPU, and again when it was interrupted midway, within a bound.

Every retry has a reason and a log record. An exception in ring 0, such as #GP for an MSR that does not exist, is an answer
and not a reason to retry.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal

from asynckvm.errors import GuestOperationError, UsageError
from asynckvm.model.exits import ExitKind, strongest
from asynckvm.model.operations import MISC_FEATURES_ENABLES, Flush, Nothing, ReadMsr, WriteMsr
from asynckvm.platform.decode import decode_failure
from asynckvm.platform.layout import FIELD_DETAIL, FIELD_INTERRUPTS, FIELD_KIND, FIELD_VECTOR
from asynckvm.platform.passage import IDLE, Passage

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.model.operations import Operation
    from asynckvm.platform.core import Core
    from asynckvm.platform.engine import Engine
    from asynckvm.platform.exit_log import ExitLog

__all__ = ["ATTEMPTS", "Retrier"]

ATTEMPTS: Final = 8
_RAX: Final = 0
_RCX: Final = 2
_RDX: Final = 3
_LOW: Final = 0xFFFF_FFFF


class Retrier:
    """Runs the operations of one machine, one after the other, in a native context of their own. Thread: loop."""

    def __init__(self, core: Core, engine: Engine, log: ExitLog, vcpus: int, dump: Callable[[], str]) -> None:
        self._core = core
        self._engine = engine
        self._log = log
        self._vcpus = vcpus
        self._dump = dump
        self._turn = asyncio.Lock()
        native = core.binding.create_context(core.native)
        self._passage = Passage(engine, core.loop, native, core.binding.context_views(native), native.index, 0)
        self._passage.operation = True

    async def run(self, operation: Operation, vcpu: int | Literal["all"] | None, attempts: int) -> int | list[int]:
        """The operation's result (the value of ReadMsr, else 0); a list of them, by vCPU, for "all"."""
        if not isinstance(operation, ReadMsr | WriteMsr | Flush | Nothing):
            raise UsageError(f"not an operation: {operation!r}")
        if attempts < 1:
            raise UsageError("attempts must be at least 1")
        if vcpu == "all":
            return [await self._retry(operation, each, attempts) for each in range(self._vcpus)]
        chosen = 0 if vcpu is None else vcpu
        if not 0 <= chosen < self._vcpus:
            raise UsageError(f"there is no vCPU {vcpu}")
        return await self._retry(operation, chosen, attempts)

    async def sanity(self, *, cpuid_faulting: bool) -> None:
        """Something must come back from every vCPU: CPUID faulting switched on where this KVM honours it, else nothing."""
        await self.run(WriteMsr(MISC_FEATURES_ENABLES, 1) if cpuid_faulting else Nothing(), "all", ATTEMPTS)

    def detach(self) -> None:
        """The native context is gone with its machine."""
        self._passage.words.release()
        self._passage.fields.release()

    async def _retry(self, operation: Operation, vcpu: int, attempts: int) -> int:
        async with self._turn:
            for attempt in range(1, attempts + 1):
                await self._submit(operation, vcpu)
                words, fields = self._passage.words, self._passage.fields
                kind = fields[FIELD_KIND]
                if kind == ExitKind.OPERATION and not fields[FIELD_VECTOR] and not fields[FIELD_DETAIL]:
                    return words[_RDX] << 32 | words[_RAX] & _LOW if isinstance(operation, ReadMsr) else 0
                if kind == ExitKind.OPERATION:
                    raise GuestOperationError(operation, vcpu, attempt, vector=fields[FIELD_VECTOR] or None)
                if kind != ExitKind.INTERRUPTED:
                    error = decode_failure(fields, self._dump)
                    self._log.abnormal(self._passage, error)
                    raise error
                if attempt < attempts:
                    self._log.retry(operation, vcpu, attempt, strongest(fields[FIELD_INTERRUPTS]).name or "")
            raise GuestOperationError(operation, vcpu, attempts)

    async def _submit(self, operation: Operation, vcpu: int) -> None:
        self._core.check()
        passage = self._passage
        # A cancelled operation is still under way when the next one wants the context: the lock is held until it is back.
        words = passage.words
        words[_RCX] = words[_RAX] = words[_RDX] = 0
        if isinstance(operation, ReadMsr | WriteMsr):
            words[_RCX] = operation.index & _LOW
        if isinstance(operation, WriteMsr):
            words[_RAX] = operation.value & _LOW
            words[_RDX] = operation.value >> 32 & _LOW
        self._engine.operate(passage, vcpu, operation.CODE)
        try:
            await passage
        except BaseException:
            self._engine.left(passage)
            raise
        passage.state = IDLE
