"""Durations, counted in buckets: a run of any length takes the same memory, and the worst one is exact."""

from __future__ import annotations

import collections
import math


class Histogram:
    """Durations in seconds; percentiles are exact to a part of 2^(1/16), about 4 %."""

    _STEPS = 16
    _LEAST = 1e-7

    def __init__(self) -> None:
        self.count = 0
        self.worst = 0.0
        self.worst_was = ""
        self._buckets: collections.Counter[int] = collections.Counter()

    def add(self, seconds: float, what: str = "") -> None:
        self.count += 1
        self._buckets[math.ceil(math.log2(max(seconds, self._LEAST)) * self._STEPS)] += 1
        if seconds > self.worst:
            self.worst, self.worst_was = seconds, what

    def percentile(self, part: float) -> float:
        """No more than `part` of all durations are longer than this."""
        left = self.count * part
        for bucket, count in sorted(self._buckets.items()):
            left -= count
            if left <= 0:
                return min(self.worst, 2.0 ** (bucket / self._STEPS))
        return self.worst

    def milliseconds(self) -> dict[str, float]:
        """p50, p99 and the worst."""
        values = {"p50": self.percentile(0.5), "p99": self.percentile(0.99), "worst": self.worst}
        return {name: round(value * 1e3, 3) for name, value in values.items()}
