"""openat2(2): the one door to directories of the host. A path given to it cannot lead out of the directory it starts from.

Neither `..`, nor a symbolic link, nor a magic link of procfs, nor a mount, nor somebody who renames directories meanwhile can
change that, because the host kernel checks each step of its own walk. Source: openat2(2), path_resolution(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from asynckvm.errors import CapabilityError
from asynckvm.linux.errors import SyscallError

_NUMBER: Final = 437
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE: Final = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_HOW: Final = struct.Struct("<QQQ")

# What was reached, whatever it is: a link in the last place is not followed. Nothing of the file itself is opened.
LOOK: Final = _HOW.pack(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _RESOLVE)
# The same for what has to be a directory.
ENTER: Final = _HOW.pack(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY, 0, _RESOLVE)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_syscall.restype = ctypes.c_long


def open_beneath(root: int, path: bytes, how: bytes = LOOK) -> int:
    """A descriptor of what `path` (relative, not empty) names below the directory `root`; the caller owns it. SyscallError."""
    if 0 in path:
        raise SyscallError(errno.EINVAL)  # the C string would end there, and be another path
    fd: int = _syscall(_NUMBER, root, path, how, _HOW.size)
    if fd < 0:
        number = ctypes.get_errno()
        # What another file system of the host covers is not part of this one.
        raise SyscallError(errno.EACCES if number == errno.EXDEV else number)
    return fd


def require() -> None:
    """Raises CapabilityError when the host's kernel has no openat2(2), without which its directories cannot be shared."""
    try:
        os.close(open_beneath(-1, b"."))
    except SyscallError as error:
        if error.number != errno.EBADF:
            hint = "directories can be shared with guests on Linux 5.6 or later, where no filter forbids this system call"
            raise CapabilityError("openat2", error.number, hint) from None
