"""The summary of a soak, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soak.session import Session


def summary(session: Session) -> str:
    """What was done, then each invariant with its verdict, then what is wrong in full."""
    kills = session.tally.report()
    programs = session.programs
    lines = [f"{name}: {count}" for name, count in sorted(session.actions.items())]
    told = ("shots", "killed", "outlived, exact", "latency p50 ms", "latency p99 ms", "latency worst ms")
    lines += [f"kills, {name}: {kills[name]}" for name in told]
    if programs is not None:
        latency = programs.latency.milliseconds()
        lines.append(f"programs: {programs.runs}, killed {programs.killed}, p99 {latency['p99']} ms, worst {latency['worst']} ms")
    lines.append("")
    width = max(len(row.name) for row in session.rows)
    shown = max(len(row.shown) for row in session.rows)
    for row in session.rows:
        verdict = "BROKEN" if row.broken else "ok"
        lines.append(f"{row.name:{width}}  {row.shown:{shown}}  {row.bound:16}  {verdict}")
    lines += [f"\n{row.name}: {row.broken}" for row in session.rows if row.broken]
    return "\n".join(lines)
