"""Numbers out of samples: medians, spread, ratios and whether they meet their aims.

Pure: nothing is measured, run or printed here.
"""

from __future__ import annotations

import dataclasses
import operator
import statistics
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["AIMS", "Aim", "Ratio", "Spread"]


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Order statistics of some samples, in the unit of the samples."""

    median: float
    min: float
    q1: float
    q3: float
    max: float
    samples: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """From at least one sample."""
        ordered = sorted(values)
        quarter = len(ordered) // 4
        return cls(
            median=statistics.median(ordered),
            min=ordered[0],
            q1=ordered[quarter],
            q3=ordered[-1 - quarter],
            max=ordered[-1],
            samples=len(ordered),
        )

    def json(self) -> dict[str, float]:
        """As plain numbers, to four significant decimals."""
        return {name: round(value, 4) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio is meant to be: `relation` is "<=" or ">=", `what` says which two things are compared."""

    relation: str
    bound: float
    what: str

    def met(self, value: float) -> bool:
        compare = operator.le if self.relation == "<=" else operator.ge
        return bool(compare(value, self.bound))


AIMS: Final = {
    "vcpu_exit": Aim("<=", 1.10, "exit resolved on the vCPU thread / raw KVM round trip"),
    "async_switch": Aim("<=", 1.0, "await context.switch() / (raw KVM round trip + 1.5 x bare wake-up)"),
    "kick": Aim("<=", 1.5, "interrupt() to resumed coroutine / raw kick"),
    "scaling_2v1": Aim(">=", 1.6, "exit rate of 1,000 contexts on 2 vCPUs / on 1"),
    "compute": Aim("<=", 1.01, "user-mode loop in the guest / native"),
    "page_touch": Aim("<=", 1.0, "first touch of 64 MiB in the guest / native"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """One comparison: each round gives one ratio; the median over the rounds is the value."""

    name: str
    spread: Spread

    @classmethod
    def of(cls, name: str, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """From the samples of both sides, in the order of the rounds."""
        return cls(name, Spread.of(a / b for a, b in zip(above, below, strict=True)))

    @property
    def value(self) -> float:
        return self.spread.median

    @property
    def aim(self) -> Aim:
        return AIMS[self.name]

    @property
    def met(self) -> bool:
        return self.aim.met(self.value)

    def json(self) -> dict[str, object]:
        return {
            "value": round(self.value, 4),
            "aim": self.aim.bound,
            "relation": self.aim.relation,
            "met": self.met,
            "spread": self.spread.json(),
            "what": self.aim.what,
        }
