"""The root file system of a sandbox: the default one, and what is bound into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.vfs import bind_host, default_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.kernel import Kernel
    from asynckvm.sandbox.binds import Bind
    from asynckvm.sandbox.limits import Limits


def default_credentials() -> Credentials:
    """The numbers of the host's user: files of a bind then belong to whom they belong outside."""
    return Credentials.of(os.geteuid(), os.getegid(), tuple(os.getgroups()))


def build(kernel: Kernel, binds: Sequence[Bind], limits: Limits, credentials: Credentials) -> None:
    """Give the kernel its mounts. OSError for a bind whose source is not there."""
    kernel.mounts = default_root(kernel, credentials, limits.files)
    for bind in binds:
        bind_host(kernel.mounts, os.fsencode(bind.source), os.fsencode(bind.target), writable=bind.writable)
