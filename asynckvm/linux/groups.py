"""Sessions and process groups: who shares a terminal, and who is signalled together. Source: credentials(7), setpgid(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asynckvm.linux.process import Process
    from asynckvm.linux.tty import Terminal


class Session:
    """`leader` is None once it has ended; `terminal` is the controlling one."""

    def __init__(self, number: int, leader: Process | None) -> None:
        self.id = number
        self.leader = leader
        self.terminal: Terminal | None = None


class ProcessGroup:
    """Gone when its last process is: `processes` by pid, zombies included."""

    def __init__(self, number: int, session: Session) -> None:
        self.id = number
        self.session = session
        self.processes: dict[int, Process] = {}

    @property
    def orphaned(self) -> bool:
        """No member has a parent in another group of the same session, who could continue it when it stops."""
        return not any(
            process.parent is not None and process.parent.group is not self and process.parent.session is self.session
            for process in self.processes.values()
            if not process.exited
        )
