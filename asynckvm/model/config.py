"""Settings of a machine, of its scheduler and of its engine: frozen, validated once, every field with its unit.

Defaults are the measured choices; nothing here reads the host.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final, Literal, TypeAlias, get_args

from asynckvm.errors import UsageError
from asynckvm.model.memory import HUGE_PAGE

__all__ = [
    "MILLISECOND",
    "PLATFORM_CHOICES",
    "SECOND",
    "EngineConfig",
    "MachineConfig",
    "PlatformChoice",
    "PlatformName",
    "Priority",
    "SchedulerConfig",
]

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

# What runs ring 3; "auto" is KVM where it is usable, else ptrace.
PlatformName: TypeAlias = Literal["kvm", "ptrace"]
PlatformChoice: TypeAlias = Literal["auto", "kvm", "ptrace"]
PLATFORM_CHOICES: Final[tuple[PlatformChoice, ...]] = get_args(PlatformChoice)


class Priority(enum.IntEnum):
    """Which ready contexts run first. A lower class still gets its turns: SchedulerConfig.starvation_ns."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise UsageError(message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How contexts share vCPUs.

    `ahead`: contexts that may wait in a vCPU's native mailbox beside the one that runs, so that its thread never waits for
    Python. `brief_ahead`: as many more, if their last run was brief: deep mailboxes let completions go by the batch, and what
    is brief keeps nobody behind it waiting. `quantum_ns`: guest time of one slice at weight 1, enforced only while somebody
    waits. `starvation_ns`: a context that has waited this long in the ready queue gets at least every fourth pick.
    `max_waiting`: bound of the ready queue.
    """

    ahead: int = 2
    brief_ahead: int = 29
    quantum_ns: int = 10 * MILLISECOND
    starvation_ns: int = SECOND
    max_waiting: int = 100_000

    def __post_init__(self) -> None:
        _require(self.ahead >= 0 and self.brief_ahead >= 0, "ahead and brief_ahead must not be negative")
        _require(self.ahead + self.brief_ahead < 64, "ahead and brief_ahead must leave room in a mailbox of 64 contexts")
        _require(100_000 <= self.quantum_ns <= 10 * SECOND, "quantum_ns must be in 100 us..10 s")
        _require(self.starvation_ns >= self.quantum_ns, "starvation_ns must be at least one quantum")
        _require(self.max_waiting >= 1, "max_waiting must be at least 1 context")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the event loop's side behaves.

    `turn_completions` and `turn_ns` bound one turn before the loop's other callbacks run. `spin_ns`: how long a turn may poll for
    the next completion before it arms the doorbell; 0 switches polling off. `overdue_ns`: an interrupted run that has not
    returned after this time is reported and kicked again. `cpus`: processors this process may use, which bounds
    polling; 0: ask the host.
    """

    turn_completions: int = 128
    turn_ns: int = MILLISECOND
    spin_ns: int = 100_000
    overdue_ns: int = SECOND
    cpus: int = 0

    def __post_init__(self) -> None:
        _require(1 <= self.turn_completions <= 65_536, "turn_completions must be in 1..65536")
        _require(self.turn_ns >= 1_000, "turn_ns must be at least 1 us")
        _require(0 <= self.spin_ns <= MILLISECOND, "spin_ns must be in 0..1 ms")
        _require(self.overdue_ns >= MILLISECOND, "overdue_ns must be at least 1 ms")
        _require(self.cpus >= 0, "cpus must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What `Machine.open` asks of the core.

    `platform`: "kvm", "ptrace", or "auto": KVM where it is usable, else ptrace with a warning (`platform.choice` has the rules).
    `vcpus`: one native thread each, for life. `memory`: bytes of guest frames, a multiple of 2 MiB. `contexts`: bound of live
    contexts. `vcpu_spin_ns`: how long an idle vCPU thread polls before it sleeps, at most. `kick_signal`: 0 for the core's
    default. `fault_around`: 4 KiB pages mapped around a page fault. `pcid`, `guest_edits`: for tests of KVM, without effect
    elsewhere. `device`: KVM's, "" for /dev/kvm. `close_timeout_ns`: bound of `Machine.close()`.
    """

    platform: PlatformChoice = "auto"
    vcpus: int = 2
    memory: int = 2 << 30
    contexts: int = 4096
    vcpu_spin_ns: int = 400_000
    kick_signal: int = 0
    fault_around: int = 32
    pcid: bool = True
    guest_edits: bool = False
    device: str = ""
    close_timeout_ns: int = 5 * SECOND
    scheduler: SchedulerConfig = dataclasses.field(default_factory=SchedulerConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        _require(self.platform in PLATFORM_CHOICES, f"platform must be one of {', '.join(PLATFORM_CHOICES)}: {self.platform!r}")
        _require(not self.device or self.platform != "ptrace", "device is KVM's: the ptrace platform has none")
        _require(1 <= self.vcpus <= 1024, "vcpus must be in 1..1024")
        _require(self.memory >= HUGE_PAGE and self.memory % HUGE_PAGE == 0, "memory must be a positive multiple of 2 MiB")
        _require(1 <= self.contexts <= 1 << 20, "contexts must be in 1..1048576")
        _require(0 <= self.vcpu_spin_ns <= 10 * MILLISECOND, "vcpu_spin_ns must be in 0..10 ms")
        _require(0 <= self.kick_signal <= 64, "kick_signal must be a signal number or 0")
        _require(self.fault_around in {1, 2, 4, 8, 16, 32, 64}, "fault_around must be a power of two in 1..64 pages")
        _require(self.close_timeout_ns >= MILLISECOND, "close_timeout_ns must be at least 1 ms")
