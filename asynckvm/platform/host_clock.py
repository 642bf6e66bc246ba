"""The host's clocks beside its time stamp counter, which is also that of guests. Reading only: what is made of it is Linux's."""

from __future__ import annotations

from typing import Final, NamedTuple

from asynckvm.platform import binding as native_binding

__all__ = ["ClockSample", "HostClock"]


class ClockSample(NamedTuple):
    """One moment, in ticks and in nanoseconds. `width`: ticks within which counter and monotonic clock were read."""

    tsc: int
    width: int
    monotonic: int
    realtime: int
    boottime: int
    tai: int


class HostClock:
    """Takes samples. Needs no machine. Thread: that of its maker."""

    def __init__(self) -> None:
        binding = native_binding.load()
        self._native: Final = binding.ffi.new("struct akvm_clock_sample *")
        self._sample: Final = binding.lib.akvm_clock_sample

    def sample(self) -> ClockSample:
        """Every store made before the call is visible to other processors before the counter is read."""
        native = self._native
        self._sample(native)
        return ClockSample(native.tsc, native.width, native.monotonic_ns, native.realtime_ns, native.boottime_ns, native.tai_ns)
