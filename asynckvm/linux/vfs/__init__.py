"""The virtual file system: a tree of mounts, each of one kind of file system, and the walk of paths through them.

`node` has the nouns and `location` says where one was reached; `mounts` is the tree, `resolve` the walk, `caller` for whom.
`names`, `opening`, `changes` are what system calls ask for, with Linux's checks. Kinds: `host` (by `openat2`), `tmpfs`.
"""

from asynckvm.linux.vfs.caller import Caller, Credentials, FileSystemContext
from asynckvm.linux.vfs.content import Budget
from asynckvm.linux.vfs.host import HostTree
from asynckvm.linux.vfs.location import Location
from asynckvm.linux.vfs.mounts import ST_NOEXEC, ST_RDONLY, Mount, Mounts
from asynckvm.linux.vfs.node import NOW, Change, Endpoint, Entry, FileSystem, Node, Owner, Statistics
from asynckvm.linux.vfs.resolve import PATH_MAX, Walk, resolve
from asynckvm.linux.vfs.tmpfs import Tmpfs

__all__ = [
    "NOW",
    "PATH_MAX",
    "ST_NOEXEC",
    "ST_RDONLY",
    "Budget",
    "Caller",
    "Change",
    "Credentials",
    "Endpoint",
    "Entry",
    "FileSystem",
    "FileSystemContext",
    "HostTree",
    "Location",
    "Mount",
    "Mounts",
    "Node",
    "Owner",
    "Statistics",
    "Tmpfs",
    "Walk",
    "resolve",
]
