"""ioctl(2): the requests that mean the same for every file, and the way to the file for all others."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from asynckvm.linux.files.open_file import FIONREAD
from asynckvm.linux.usercopy import read_uint32

if TYPE_CHECKING:
    from asynckvm.linux.files import OpenFile
    from asynckvm.linux.task import Task

# <asm-generic/ioctls.h>, <linux/fs.h>.
_FIGETBSZ: Final = 2
_FIONBIO: Final = 0x5421
_FIONCLEX, _FIOCLEX = 0x5450, 0x5451
_FIOASYNC: Final = 0x5452
_FIOQSIZE: Final = 0x5460


def ioctl(task: Task, fd: int, request: int, argument: int) -> int:
    files = task.process.files
    file = files.get_open(fd)
    if request in (_FIOCLEX, _FIONCLEX):
        files.set_close_on_exec(fd, value=request == _FIOCLEX)
    elif request in (_FIONBIO, _FIOASYNC):
        flag = os.O_NONBLOCK if request == _FIONBIO else os.O_ASYNC
        file.set_flags(file.flags | flag if read_uint32(task.space, argument) else file.flags & ~flag)
    elif request in (FIONREAD, _FIGETBSZ, _FIOQSIZE) and _is_stored(file):
        task.space.write(argument, _measure(file, request))
    else:
        return file.ioctl(task, request, argument)
    return 0


def _is_stored(file: OpenFile) -> bool:
    """Whether it is a regular file."""
    return file.positioned and stat.S_ISREG(file.attributes().mode)


def _measure(file: OpenFile, request: int) -> bytes:
    attributes = file.attributes()
    if request == _FIOQSIZE:
        return attributes.size.to_bytes(8, "little")
    if request == _FIGETBSZ:
        return attributes.block_size.to_bytes(4, "little")
    left = attributes.size - file.seek(0, os.SEEK_CUR)
    return (left & 0xFFFF_FFFF).to_bytes(4, "little")
