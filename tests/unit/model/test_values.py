"""Values of the model: addresses, interrupt priorities, settings, errors, and life cycles as exhaustive tables."""

from __future__ import annotations

import itertools

import pytest

from asynckvm import errors
from asynckvm.errors import HostError, InternalError, UsageError
from asynckvm.model.config import EngineConfig, MachineConfig, SchedulerConfig
from asynckvm.model.exits import INTERRUPT_PRIORITY, InterruptReason, strongest
from asynckvm.model.memory import is_canonical
from asynckvm.model.registers import Registers, entry_fault
from asynckvm.model.states import (
    CONTEXT_TRANSITIONS,
    MACHINE_TRANSITIONS,
    ContextEvent,
    ContextState,
    MachineEvent,
    MachineState,
    advance,
)

TABLES = [(CONTEXT_TRANSITIONS, ContextState, ContextEvent), (MACHINE_TRANSITIONS, MachineState, MachineEvent)]
BOUNDARIES = [
    (0, True),
    (0x7FFF_FFFF_FFFF, True),
    (0x8000_0000_0000, False),
    (0xFFFF_7FFF_FFFF_FFFF, False),
    (0xFFFF_8000_0000_0000, True),
    (0xFFFF_FFFF_FFFF_FFFF, True),
    (1 << 64, False),
    (-1, False),
]
BAD_SETTINGS = [
    (MachineConfig, {"vcpus": 0}),
    (MachineConfig, {"memory": 0}),
    (MachineConfig, {"memory": (2 << 20) + 4096}),
    (MachineConfig, {"contexts": 0}),
    (MachineConfig, {"fault_around": 3}),
    (MachineConfig, {"kick_signal": 65}),
    (MachineConfig, {"vcpu_spin_ns": -1}),
    (MachineConfig, {"close_timeout_ns": 0}),
    (SchedulerConfig, {"ahead": -1}),
    (SchedulerConfig, {"quantum_ns": 1}),
    (SchedulerConfig, {"starvation_ns": 1}),
    (SchedulerConfig, {"max_waiting": 0}),
    (EngineConfig, {"turn_completions": 0}),
    (EngineConfig, {"turn_ns": 0}),
    (EngineConfig, {"spin_ns": -1}),
    (EngineConfig, {"overdue_ns": 0}),
    (EngineConfig, {"cpus": -1}),
]


@pytest.mark.parametrize(("address", "canonical"), BOUNDARIES)
def test_canonical_boundaries(address: int, canonical: bool) -> None:
    assert is_canonical(address) is canonical


def test_rip_is_checked_first() -> None:
    bad = 1 << 63
    fault = entry_fault(bad, bad + 1, bad + 2, bad + 3)
    assert fault is not None
    assert (fault.signal, fault.address, fault.vector) == (11, bad, -1)
    assert entry_fault(0, 0, 0, 0) is None


@pytest.mark.parametrize("bits", range(64))
def test_the_strongest_reason_wins(bits: int) -> None:
    expected = [reason for reason in INTERRUPT_PRIORITY if reason & bits] or [InterruptReason.BOUNCED]
    assert strongest(bits) is expected[0]
    assert sorted(INTERRUPT_PRIORITY) == sorted(InterruptReason)


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_every_pair_of_state_and_event_is_decided(table: dict, states: type, events: type) -> None:  # type: ignore[type-arg]
    legal = 0
    for state, event in itertools.product(states, events):  # type: ignore[call-overload]
        if (state, event) in table:
            assert advance(table, state, event) is table[state, event]
            legal += 1
        else:
            with pytest.raises(InternalError):
                advance(table, state, event)
    assert legal == len(table)


@pytest.mark.parametrize(("table", "states", "events"), TABLES)
def test_every_state_is_reachable(table: dict, states: type, events: type) -> None:  # type: ignore[type-arg]
    reached = {next(iter(states))}  # type: ignore[call-overload]
    for _ in states:  # type: ignore[attr-defined]
        reached |= {after for (before, _), after in table.items() if before in reached}
    assert reached == set(states)  # type: ignore[call-overload]


@pytest.mark.parametrize(("kind", "settings"), BAD_SETTINGS)
def test_settings_are_validated(kind: type, settings: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        kind(**settings)


def test_registers_are_values() -> None:
    registers = Registers(rax=-1, rip=1 << 64 | 5)
    assert registers.words()[0] == (1 << 64) - 1
    assert registers.words()[16] == 5
    assert registers.replace(rax=2) == Registers(rax=2, rip=1 << 64 | 5)
    assert registers == Registers(rax=-1, rip=1 << 64 | 5)


def test_every_error_has_one_base() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.AsyncKvmError)


def test_host_errors_say_what_to_do() -> None:
    error = HostError("KVM_CREATE_VM", 12, "buy memory")
    assert str(error) == "KVM_CREATE_VM: Cannot allocate memory (errno 12); buy memory"
    assert str(HostError("mmap", 12)) == "mmap: Cannot allocate memory (errno 12)"
