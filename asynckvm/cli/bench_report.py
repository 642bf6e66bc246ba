"""The result of `asynckvm bench` as tables for people: the ratios of all platforms side by side, then what they came from.

Nothing is measured or judged here but whether others used the machine meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.cli.bench_statistics import AIMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["table"]

# Share of all CPU time: beyond it, threads that should run side by side take turns.
BUSY: Final = 0.1
_SPREAD: Final = ("median", "min", "q1", "q3", "max")


def table(result: dict[str, Any]) -> str:
    """Of what bench.measure() returns."""
    lines = list(_ratios(result["platforms"]))
    for platform, found in result["platforms"].items():
        lines += ["", *_details(platform, found)]
    host = result["conditions"]
    lines += ["", "  ".join(f"{key}: {value}" for key, value in host.items())]
    if host["used_by_others"] > BUSY:
        lines.append(f"other processes used {host['used_by_others']:.0%} of this machine meanwhile: these numbers say little")
    for platform, found in result["platforms"].items():
        lines.append(f"{platform}: " + "  ".join(f"{key}: {value}" for key, value in found["capabilities"].items()))
    return "\n".join(lines)


def _ratios(platforms: dict[str, Any]) -> Iterator[str]:
    yield f"{'ratio':13} " + " ".join(f"{platform:>8} {'met':3}" for platform in platforms) + f" {'aim':>9}  what"
    for name in next(iter(platforms.values()))["ratios"]:
        aim = AIMS[name]
        ratios = [found["ratios"][name] for found in platforms.values()]
        cells = [f"{ratio['value']:8.3f} {'yes' if ratio['met'] else 'NO':3}" if ratio else f"{'-':>8}    " for ratio in ratios]
        yield f"{name:13} {' '.join(cells)} {aim.relation:>3} {aim.bound:5.2f}  {aim.what}"
    if any(ratio is None for found in platforms.values() for ratio in found["ratios"].values()):
        yield "-: KVM, which this is compared with, runs no guest here"


def _details(platform: str, found: dict[str, Any]) -> Iterator[str]:
    """Of one platform: spreads, and where the time goes."""
    heading = " ".join(f"{key:>11}" for key in _SPREAD)
    yield f"{'ratios of the rounds on ' + platform:45} {heading}"
    for name, ratio in found["ratios"].items():
        if ratio:
            yield f"{name:45} " + " ".join(f"{ratio['spread'][key]:11.3f}" for key in _SPREAD)
    yield f"{'nanoseconds for one operation on ' + platform:45} {heading}"
    for name, series in found["samples_ns"].items():
        for what, spread in series.items():
            yield f"{name + ' ' + what:45} " + " ".join(f"{spread[key]:11.1f}" for key in _SPREAD)
    for name, parts in found["breakdown_ns"].items():
        yield ""
        yield f"where the time of {name} on {platform} goes (ns):"
        yield from (f"  {what:30} {value:11.1f}" for what, value in parts.items())
        if counts := found["counts"].get(name):
            yield "  for one operation: " + "  ".join(f"{what} {value:g}" for what, value in counts.items())
