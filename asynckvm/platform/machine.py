"""The machine: its platform, its vCPU threads, and everything that lives in it, from open to close.

Puts the parts together and owns their order of birth and death; each part's own work is in its own file.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from asynckvm.errors import AsyncKvmError, InternalError, UsageError
from asynckvm.model.config import MachineConfig
from asynckvm.model.states import MachineEvent, MachineState
from asynckvm.platform import binding as native_binding
from asynckvm.platform import choice
from asynckvm.platform.address_space import AddressSpace
from asynckvm.platform.capabilities import Capabilities, read_capabilities
from asynckvm.platform.context import Context
from asynckvm.platform.core import Core
from asynckvm.platform.counters import MachineCounters, MemoryCounters, read_memory, read_vcpu
from asynckvm.platform.direct_files import DirectFiles
from asynckvm.platform.engine import Engine
from asynckvm.platform.exit_log import ExitLog
from asynckvm.platform.flight import FlightRecord, describe, read_flight
from asynckvm.platform.host_file import HostFile
from asynckvm.platform.memory_budget import MemoryBudget
from asynckvm.platform.retry import ATTEMPTS, Retrier

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from types import TracebackType

    from asynckvm.model.config import PlatformName
    from asynckvm.model.operations import Operation
    from asynckvm.platform.binding import Binding, Handle
    from asynckvm.platform.direct_files import DirectCall
    from asynckvm.platform.exit_log import ExitRecord

__all__ = ["Machine", "open_machines"]

_open: weakref.WeakSet[Machine] = weakref.WeakSet()


def open_machines() -> list[Machine]:
    """The machines of this process that are not closed."""
    return [machine for machine in _open if not machine.closed]


class _Opening:
    """What `Machine.open()` returns: await it for a machine, or use it with `async with`."""

    def __init__(self, config: MachineConfig, binding: Binding | None) -> None:
        self._config = config
        self._binding = binding
        self._machine: Machine | None = None

    def __await__(self) -> Generator[Any, None, Machine]:
        return _open_machine(self._config, self._binding).__await__()

    async def __aenter__(self) -> Machine:
        self._machine = await self
        return self._machine

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._machine is not None:
            await self._machine.close()


async def _open_machine(config: MachineConfig, binding: Binding | None) -> Machine:
    if binding is None:
        binding = native_binding.load()
    if config.engine.cpus == 0:
        engine = dataclasses.replace(config.engine, cpus=len(os.sched_getaffinity(0)))
        config = dataclasses.replace(config, engine=engine)
    asked = choice.chosen(config.platform)
    if asked != "auto":
        return await _open_on(dataclasses.replace(config, platform=asked), asked, binding)
    try:
        return await _open_on(dataclasses.replace(config, platform="kvm"), "kvm", binding)
    except AsyncKvmError as error:
        if not choice.unusable(error):
            raise
        refusal = error
    try:
        machine = await _open_on(dataclasses.replace(config, platform="ptrace", device=""), "ptrace", binding)
    except AsyncKvmError as error:
        raise choice.neither(refusal, error) from refusal
    choice.warn(refusal)
    return machine


async def _open_on(config: MachineConfig, platform: PlatformName, binding: Binding) -> Machine:
    """A machine on this platform and no other."""
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, binding.open_machine, config, platform)
    try:
        native = await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread cannot be stopped: close what it opens.
        opening.add_done_callback(lambda done: _discard(binding, config, done))
        raise
    machine = Machine(binding, native, loop, config)
    try:
        if machine.platform != platform:
            raise InternalError(f"the core opened {machine.platform} where {platform} was asked for")
        await machine.start()
    except BaseException:
        await machine.close()
        raise
    return machine


def _discard(binding: Binding, config: MachineConfig, opening: asyncio.Future[Handle]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        binding.lib.akvm_machine_close(opening.result(), config.close_timeout_ns)


def _close_native(core: Core, bound_ns: int) -> AsyncKvmError | None:
    """On one thread: the core keeps the name of the operation that failed by thread."""
    result = core.binding.lib.akvm_machine_close(core.native, bound_ns)
    return core.binding.error(result) if result < 0 else None


class Machine:
    """An open machine; `async with Machine.open(vcpus=2, memory=2 << 30) as machine`. Thread: the loop's that opened it."""

    @staticmethod
    def open(*, config: MachineConfig | None = None, binding: Binding | None = None, **settings: Any) -> _Opening:
        """Open a machine: `await` it, or use it with `async with`.

        `settings` are the fields of MachineConfig (platform, vcpus, memory, contexts, scheduler, engine, ...). Errors, each of
        which says what to do: UsageError, OutOfMemoryError, HostError; of KVM DeviceMissingError and DevicePermissionError, of
        ptrace TraceDeniedError, of both CapabilityError; with platform "auto", NoPlatformError when there is none.
        """
        if config is None:
            try:
                config = MachineConfig(**settings)
            except TypeError as error:
                raise UsageError(str(error)) from None
        elif settings:
            raise UsageError("give a config or single settings, not both")
        return _Opening(config, binding)

    def __init__(self, binding: Binding, native: Handle, loop: asyncio.AbstractEventLoop, config: MachineConfig) -> None:
        self.config: Final = config
        self._core: Final = Core(binding, native, loop)
        self._log: Final = ExitLog(self._core.number)
        self._engine: Final = Engine(self._core, config, self._log, self.dump)
        self._engine.scheduler.restart_window(time.monotonic_ns())
        self._retrier: Final = Retrier(self._core, self._engine, self._log, config.vcpus, self.dump)
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self._context_numbers = itertools.count(1)
        self._closing: asyncio.Task[None] | None = None
        self.capabilities: Final[Capabilities] = read_capabilities(binding, native)
        _open.add(self)

    async def start(self) -> None:
        """Part of opening: see that every vCPU answers."""
        await self._retrier.sanity(cpuid_faulting=self.capabilities.cpuid_faulting)

    @property
    def number(self) -> int:
        """Names the machine in logs; never reused in this process."""
        return self._core.number

    @property
    def platform(self) -> PlatformName:
        """What its guests run on."""
        return self.capabilities.platform

    @property
    def closed(self) -> bool:
        """Whether the machine is gone: closed, or another process's."""
        return self._core.state in {MachineState.CLOSED, MachineState.FORKED}

    def create_address_space(self) -> AddressSpace:
        """A new, empty address space. OutOfMemoryError when no tables are left."""
        self._core.check()
        return AddressSpace(self._core, self._core.binding.create_space(self._core.native), self.dump)

    def create_memory_budget(self, pages: int) -> MemoryBudget:
        """A bound for the memory of several address spaces together, in pages of 4 KiB."""
        return MemoryBudget(self._core, pages)

    def create_direct_files(self, numbers: Mapping[DirectCall, int]) -> DirectFiles:
        """A table for files that guests read on their vCPUs' threads; `numbers` are those of the system calls."""
        return DirectFiles(self._core, numbers)

    def create_context(self, space: AddressSpace) -> Context:
        """A new guest thread in `space`, all registers zero. OverloadedError beyond MachineConfig.contexts."""
        self._core.check()
        context = Context(self._core, self._engine, self._log, space, next(self._context_numbers))
        self._contexts.add(context)
        return context

    def open_file(self, file: int | str | os.PathLike[str], *, writable: bool = False, length: int = 0) -> HostFile:
        """A regular host file, by descriptor or path, to map into address spaces. OSError, UsageError, SlotsExhaustedError.

        `writable`: shared mappings may store to it; a descriptor must be open for reading and writing. `length`: what it is
        expected to grow to, so that up to 1 GiB can be mapped at once; costs 1/512 of it in memory of the host kernel.
        """
        return HostFile(self._core, file, writable=writable, length=length)

    @overload
    async def retry_in_guest(self, operation: Operation, vcpu: int | None = None, attempts: int = ATTEMPTS) -> int: ...
    @overload
    async def retry_in_guest(self, operation: Operation, vcpu: Literal["all"], attempts: int = ATTEMPTS) -> list[int]: ...
    async def retry_in_guest(
        self, operation: Operation, vcpu: int | Literal["all"] | None = None, attempts: int = ATTEMPTS
    ) -> int | list[int]:
        """Run an idempotent ring-0 operation on one vCPU (None: the first) or on all; again when it is interrupted.

        The value of ReadMsr, else 0. GuestOperationError when the bound is hit or the operation raises an exception (`vector`).
        """
        self._core.check()
        return await self._retrier.run(operation, vcpu, attempts)

    def log_exits(self, wanted: Callable[[ExitRecord], bool] | None) -> None:
        """Log every exit that `wanted` accepts; None, as at the start, for none."""
        self._log.filter = wanted

    def memory_counters(self) -> MemoryCounters:
        """Those of its memory alone, which cost less."""
        if not self._core.usable:
            raise self._core.refusal()
        return read_memory(self._core.binding, self._core.native)

    def counters(self) -> MachineCounters:
        """All counters, now. O(contexts)."""
        core, engine = self._core, self._engine
        memory = self.memory_counters()
        return MachineCounters(
            vcpus=tuple(read_vcpu(core.binding, core.native, vcpu) for vcpu in range(self.config.vcpus)),
            memory=memory,
            fairness=engine.scheduler.fairness(time.monotonic_ns()),
            contexts=sum(not context.closed for context in self._contexts),
            waiting=engine.scheduler.waiting,
            in_flight=engine.scheduler.flight,
            turns=engine.turns,
            completions=engine.completions,
            rings=engine.doorbell.rings,
            polls=engine.doorbell.polls,
            poll_hits=engine.doorbell.hits,
        )

    def restart_fairness(self) -> None:
        """Begin a new window for `counters().fairness`."""
        self._engine.scheduler.restart_window(time.monotonic_ns())

    def flight_recorder(self) -> tuple[tuple[FlightRecord, ...], ...]:
        """The last exits of each vCPU, oldest first."""
        if not self._core.usable:
            raise self._core.refusal()
        return tuple(read_flight(self._core.binding, self._core.native, vcpu) for vcpu in range(self.config.vcpus))

    def dump(self) -> str:
        """What every vCPU does and did last, as text. Never raises."""
        heading = f"machine {self._core.number} {self._core.state.name}"
        if not self._core.usable:
            return heading
        with contextlib.suppress(AttributeError):  # asked for while the engine is being built
            scheduler = self._engine.scheduler
            heading += f": {scheduler.flight} contexts in flight, {scheduler.waiting} waiting, {self._engine.turns} turns"
        return describe(self._core.binding, self._core.native, self.config.vcpus, heading)

    async def close(self) -> None:
        """End every switch() with ClosedError, stop the vCPU threads, free everything. Idempotent, bounded.

        Raises InternalError when a vCPU thread does not come back within MachineConfig.close_timeout_ns; its memory is then
        leaked on purpose. Contexts, spaces and files of the machine raise ClosedError from now on.
        """
        if self._core.state is MachineState.FORKED:
            return  # the parent's to close
        if self._closing is None:
            if self.closed:
                return
            self._core.advance(MachineEvent.CLOSE)
            self._closing = self._core.loop.create_task(self._close(), name=f"close machine {self._core.number}")
        # Shielded: a caller that is cancelled stops waiting, and the machine closes all the same.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        core, engine, bound_ns = self._core, self._engine, self.config.close_timeout_ns
        await engine.drain(bound_ns / 1e9)
        if engine.scheduler.flight:
            self._log.close_timeout(engine.scheduler.flight, self.dump())
        engine.close()
        dump = self.dump()
        # From here on another thread frees the core, so nothing on the loop's may call it any more.
        core.advance(MachineEvent.CLOSED)
        for context in list(self._contexts):
            context.detach()
        self._retrier.detach()
        error = await core.loop.run_in_executor(None, _close_native, core, bound_ns)
        _open.discard(self)
        if error is not None:
            raise InternalError(f"machine {core.number} did not close: {error}", dump)

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and core.usable:
            warnings.warn(f"machine {core.number} was not closed", ResourceWarning, stacklevel=1, source=self)
