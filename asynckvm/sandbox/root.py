"""The root file system of a sandbox: the default one, and what is bound into it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from asynckvm.linux.credentials import Credentials
from asynckvm.linux.vfs import ST_RDONLY, Budget, Caller, FileSystemContext, HostTree, Mounts, Tmpfs, resolve
from asynckvm.linux.vfs import names as vfs_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asynckvm.linux.kernel import Kernel
    from asynckvm.sandbox.binds import Bind
    from asynckvm.sandbox.limits import Limits


def default_credentials() -> Credentials:
    """The numbers of the host's user: files of a bind then belong to whom they belong outside."""
    return Credentials.of(os.geteuid(), os.getegid(), tuple(os.getgroups()))


def build(kernel: Kernel, binds: Sequence[Bind], limits: Limits, credentials: Credentials) -> None:
    budget = Budget(limits.files)
    mounts = Mounts(Tmpfs(budget))
    kernel.mounts = mounts
    caller = Caller(FileSystemContext(mounts, mounts.root), Credentials())
    def mkdir(path, mode=0o755):
        cur=b""
        for part in path.strip(b"/").split(b"/"):
            cur+=b"/"+part
            try:
                vfs_names.make(caller, mounts.root, cur, stat.S_IFDIR|mode)
            except Exception as e: pass
    for top in os.listdir(b"/"):
        p=b"/"+top
        if top in (b"proc",b"sys",b"dev",b"tmp",b"run"): continue
        if os.path.islink(p):
            vfs_names.make(caller, mounts.root, p, stat.S_IFLNK|0o777, os.readlink(p))
        elif os.path.isdir(p) and top in (b"usr",b"bin",b"lib",b"lib64",b"sbin",b"etc"):
            mkdir(p)
            mounts.add(HostTree(p), resolve(caller, mounts.root, p), ST_RDONLY)
    for p in (b"/tmp",b"/work",b"/root",b"/home",b"/run",b"/var/tmp",b"/dev/shm",b"/proc"): mkdir(p, 0o777)
    for bind in binds:
        t=os.fsencode(bind.target)
        mkdir(t)
        mounts.add(HostTree(bind.source, writable=bind.writable), resolve(caller, mounts.root, t), 0 if bind.writable else ST_RDONLY)
