"""Who may look into a process, or reach into it: those that could as well trace it, though nobody traces here.

Source: ptrace(2), "Ptrace access mode checking".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asynckvm.linux.process import Process


def may_trace(tracer: Process, process: Process) -> bool:
    """PTRACE_MODE_REALCREDS: for system calls."""
    ours = tracer.credentials
    return tracer is process or ours.is_root or is_of(process, ours.ruid, ours.rgid)


def is_of(process: Process, user: int, group: int) -> bool:
    """Whether it has no other rights than these, and keeps nothing from who has them."""
    theirs = process.credentials
    users, groups = {theirs.ruid, theirs.euid, theirs.suid}, {theirs.rgid, theirs.egid, theirs.sgid}
    return users == {user} and groups == {group} and process.dumpable == 1
