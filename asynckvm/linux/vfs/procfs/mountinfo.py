"""/proc/PID/mounts and mountinfo: the mounts a process can see, from its root. Source: proc_pid_mountinfo(5), fstab(5)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task


def mounts(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    for row in process.fs.mounts.rows(process.fs.root):
        source, point = _escaped(row.source), _escaped(row.point)
        yield b"%s %s %s %s 0 0\n" % (source, point, row.type, row.options)


def mountinfo(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    for row in process.fs.mounts.rows(process.fs.root):
        device = b"%d:%d" % (os.major(row.device), os.minor(row.device))
        yield b"%d %d %s %s %s %s - %s %s %s\n" % (
            row.number, row.parent, device, _escaped(row.root), _escaped(row.point), row.options,
            row.type, _escaped(row.source), row.super_options,
        )  # fmt: skip


def _escaped(text: bytes) -> bytes:
    return re.sub(rb"[ \t\n\\#]", lambda found: b"\\%03o" % found[0][0], text)
