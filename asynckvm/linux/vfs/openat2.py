"""openat2(2): the one door to directories of the host. A path given to it cannot lead out of the directory it starts from.

Neither `..`, nor a symbolic link, nor a magic link of procfs, nor a mount, nor somebody who renames directories meanwhile can
change that, because the host kernel checks each step of its own walk. Each question is one call of native code, which asks the
kernel whatever belongs to it (native/beneath). Source: openat2(2), path_resolution(7).
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from typing import Final

from asynckvm.errors import CapabilityError
from asynckvm.linux.errors import SyscallError
from asynckvm.platform import binding

_STATUS_BYTES: Final = 144
# What follows the status in struct akvm_found.
_REST: Final = struct.Struct("<II")
_TARGET: Final = _STATUS_BYTES + _REST.size


class _Native:
    """The native functions, and room for one answer of theirs. Thread: loop."""

    def __init__(self) -> None:
        core = binding.load()
        self.look = core.lib.akvm_beneath_look
        self.open = core.lib.akvm_beneath_open
        self.found = core.ffi.new("struct akvm_found *")
        self.view = core.ffi.buffer(self.found)


_native = functools.cache(_Native)


def look_beneath(root: int, path: bytes, *, follow: bool = False) -> tuple[bytes, int, bytes]:
    """What `path` (relative, not empty) names below the directory `root`, or the first link on the way there. SyscallError.

    Returns its struct stat, how many bytes of the path led to it, and where it points when it is a link that was read.
    `follow`: read a link in the last place too. Its time of access tells that.
    """
    native = _native()
    if 0 in path:
        raise SyscallError(errno.EINVAL)  # the C string would end there, and be another path
    result = native.look(root, path, follow, native.found)
    if result < 0:
        raise SyscallError(-result)
    view = native.view
    taken, length = _REST.unpack_from(view, _STATUS_BYTES)
    return view[:_STATUS_BYTES], taken, view[_TARGET : _TARGET + length] if length else b""


def open_beneath(root: int, path: bytes, flags: int = os.O_PATH, identity: tuple[int, int] = (0, 0)) -> int:
    """A descriptor of what `path` (relative, not empty) names below the directory `root`; the caller owns it. SyscallError.

    With O_PATH it is of what was reached, whatever that is: a link in the last place is not followed. Else it is opened with
    these flags, and is no link. It has to be the file of that `identity`: ESTALE otherwise.
    """
    if 0 in path:
        raise SyscallError(errno.EINVAL)
    fd: int = _native().open(root, path, flags, *identity)
    if fd < 0:
        raise SyscallError(-fd)
    return fd


def require() -> None:
    """Raises CapabilityError when the host's kernel has no openat2(2), without which its directories cannot be shared."""
    try:
        os.close(open_beneath(-1, b"."))
    except SyscallError as error:
        if error.number != errno.EBADF:
            hint = "directories can be shared with guests on Linux 5.6 or later, where no filter forbids this system call"
            raise CapabilityError("openat2", error.number, hint) from None
