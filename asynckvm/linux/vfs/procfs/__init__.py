"""procfs: the processes of a sandbox and its kernel, as files. Nothing of the host's processes is in it. Source: proc(5)."""

from asynckvm.linux.vfs.procfs.tree import ProcFileSystem

__all__ = ["ProcFileSystem"]
