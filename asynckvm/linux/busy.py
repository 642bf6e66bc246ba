"""ETXTBSY: a file is either being executed or open for writing. Source: execve(2), open(2), truncate(2).

No count is kept of either: who asks looks at what the processes have, and few of their files are regular and open for writing.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from asynckvm.linux.errors import SyscallError

if TYPE_CHECKING:
    from asynckvm.linux.attributes import Attributes
    from asynckvm.linux.kernel import Kernel


def check_not_executed(kernel: Kernel, attributes: Attributes) -> None:
    """Before a file is opened for writing, or truncated."""
    identity = attributes.identity
    if any(process.program.identity == identity and not process.exited for process in kernel.processes.values()):
        raise SyscallError(errno.ETXTBSY)


def check_not_written(kernel: Kernel, attributes: Attributes) -> None:
    """Before a file is executed."""
    identity = attributes.identity
    for table in {process.files for process in kernel.processes.values()}:
        for file in table.files():
            if file.writable and file.positioned and file.attributes().identity == identity:
                raise SyscallError(errno.ETXTBSY)
