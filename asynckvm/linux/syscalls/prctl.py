"""prctl(2), arch_prctl(2), personality(2): settings of a thread or process that have no call of their own."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from asynckvm.linux.credentials import CAPABILITIES_ALL
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals.numbers import SIGNALS
from asynckvm.linux.task import NAME_BYTES
from asynckvm.linux.usercopy import write_uint64
from asynckvm.model.memory import USER_MAX
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.task import Task

_ARCH_GET_CPUID, _ARCH_SET_CPUID = 0x1011, 0x1012
_ARCH_SET_GS, _ARCH_SET_FS, _ARCH_GET_FS, _ARCH_GET_GS = 0x1001, 0x1002, 0x1003, 0x1004
_CAP_SETPCAP: Final = 8
_AMBIENT_IS_SET, _AMBIENT_RAISE, _AMBIENT_LOWER, _AMBIENT_CLEAR = 1, 2, 3, 4
_CAPABILITY_LAST: Final = CAPABILITIES_ALL.bit_length() - 1
_PERSONALITY_READ: Final = 0xFFFF_FFFF


def arch_prctl(task: Task, code: int, address: int) -> int:
    words = task.context.words
    if code in (_ARCH_GET_FS, _ARCH_GET_GS):
        write_uint64(task.space, address, words[RegisterIndex.fs_base if code == _ARCH_GET_FS else RegisterIndex.gs_base])
        return 0
    if code == _ARCH_GET_CPUID:
        return 1  # the instruction works, and nothing here could make it fault
    if code == _ARCH_SET_CPUID:
        raise SyscallError(errno.ENODEV)
    if code not in (_ARCH_SET_FS, _ARCH_SET_GS):
        raise SyscallError(errno.EINVAL)
    if address >= USER_MAX:
        raise SyscallError(errno.EPERM)
    words[RegisterIndex.fs_base if code == _ARCH_SET_FS else RegisterIndex.gs_base] = address
    return 0


def personality(task: Task, persona: int) -> int:
    previous = task.process.personality
    if persona != _PERSONALITY_READ:
        task.process.personality = persona
    return previous


def prctl(task: Task, option: int, *arguments: int) -> int:
    handler = _OPTIONS.get(option)
    if handler is None:
        raise SyscallError(errno.EINVAL)
    return handler(task, *arguments)


# ---------------------------------------------------------------- one function for each option


def _set_death_signal(task: Task, number: int, *_: int) -> int:
    if not 0 <= number <= SIGNALS:
        raise SyscallError(errno.EINVAL)
    task.process.death_signal = number
    return 0


def _get_death_signal(task: Task, address: int, *_: int) -> int:
    return _write_int(task, address, task.process.death_signal)


def _get_dumpable(task: Task, *_: int) -> int:
    return task.process.dumpable


def _set_dumpable(task: Task, value: int, *_: int) -> int:
    if value not in (0, 1):
        raise SyscallError(errno.EINVAL)
    task.process.dumpable = value
    return 0


def _set_name(task: Task, address: int, *_: int) -> int:
    name = bytearray()
    while len(name) < NAME_BYTES and (byte := task.space.read(address + len(name), 1)) != b"\0":
        name += byte
    task.name = bytes(name)
    return 0


def _get_name(task: Task, address: int, *_: int) -> int:
    task.space.write(address, task.name.ljust(NAME_BYTES + 1, b"\0"))
    return 0


def _set_keep(task: Task, value: int, *_: int) -> int:
    if value not in (0, 1):
        raise SyscallError(errno.EINVAL)
    task.process.credentials = task.process.credentials.replace(keep_capabilities=bool(value))
    return 0


def _get_keep(task: Task, *_: int) -> int:
    return int(task.process.credentials.keep_capabilities)


def _read_bounding(task: Task, capability: int, *_: int) -> int:
    if not 0 <= capability <= _CAPABILITY_LAST:
        raise SyscallError(errno.EINVAL)
    return task.process.credentials.bounding >> capability & 1


def _drop_bounding(task: Task, capability: int, *_: int) -> int:
    credentials = task.process.credentials
    if not credentials.effective_capabilities >> _CAP_SETPCAP & 1:
        raise SyscallError(errno.EPERM)
    _read_bounding(task, capability)
    task.process.credentials = credentials.replace(bounding=credentials.bounding & ~(1 << capability))
    return 0


def _set_slack(task: Task, value: int, *_: int) -> int:
    task.process.timer_slack = value or task.process.timer_slack_default
    return 0


def _get_slack(task: Task, *_: int) -> int:
    return task.process.timer_slack


def _set_subreaper(task: Task, value: int, *_: int) -> int:
    task.process.is_subreaper = bool(value)
    return 0


def _get_subreaper(task: Task, address: int, *_: int) -> int:
    return _write_int(task, address, int(task.process.is_subreaper))


def _set_no_new_privileges(task: Task, value: int, *rest: int) -> int:
    if value != 1 or any(rest):
        raise SyscallError(errno.EINVAL)
    task.process.credentials = task.process.credentials.replace(no_new_privileges=True)
    return 0


def _get_no_new_privileges(task: Task, *arguments: int) -> int:
    if any(arguments):
        raise SyscallError(errno.EINVAL)
    return int(task.process.credentials.no_new_privileges)


def _get_tid_address(task: Task, address: int, *_: int) -> int:
    write_uint64(task.space, address, task.clear_child_tid)
    return 0


def _disable_huge_pages(task: Task, value: int, *rest: int) -> int:
    """There are none; what was asked is told back."""
    if any(rest):
        raise SyscallError(errno.EINVAL)
    task.process.huge_pages_disabled = bool(value)
    return 0


def _huge_pages_disabled(task: Task, *arguments: int) -> int:
    if any(arguments):
        raise SyscallError(errno.EINVAL)
    return int(task.process.huge_pages_disabled)


def _ambient(task: Task, command: int, capability: int, *rest: int) -> int:
    credentials = task.process.credentials
    if command == _AMBIENT_CLEAR:
        if capability or any(rest):
            raise SyscallError(errno.EINVAL)
        task.process.credentials = credentials.replace(ambient=0)
        return 0
    if any(rest) or not 0 <= capability <= _CAPABILITY_LAST:
        raise SyscallError(errno.EINVAL)
    bit = 1 << capability
    if command == _AMBIENT_IS_SET:
        return int(bool(credentials.ambient & bit))
    if command == _AMBIENT_RAISE:
        if not credentials.permitted_capabilities & credentials.inheritable & bit:
            raise SyscallError(errno.EPERM)
        task.process.credentials = credentials.replace(ambient=credentials.ambient | bit)
    elif command == _AMBIENT_LOWER:
        task.process.credentials = credentials.replace(ambient=credentials.ambient & ~bit)
    else:
        raise SyscallError(errno.EINVAL)
    return 0


def _get_secure_bits(task: Task, *_: int) -> int:  # noqa: ARG001
    return 0


def _set_secure_bits(task: Task, value: int, *_: int) -> int:
    """Root's rights go with its number here, so none of the bits can be set."""
    if value or not task.process.credentials.effective_capabilities >> _CAP_SETPCAP & 1:
        raise SyscallError(errno.EPERM)
    return 0


def _get_seccomp(task: Task, *_: int) -> int:  # noqa: ARG001
    return 0


def _write_int(task: Task, address: int, value: int) -> int:
    task.space.write(address, struct.pack("<i", value))
    return 0


# Numbers of <linux/prctl.h>.
_OPTIONS: Final[dict[int, Callable[..., int]]] = {
    1: _set_death_signal,
    2: _get_death_signal,
    3: _get_dumpable,
    4: _set_dumpable,
    7: _get_keep,
    8: _set_keep,
    15: _set_name,
    16: _get_name,
    21: _get_seccomp,
    23: _read_bounding,
    24: _drop_bounding,
    27: _get_secure_bits,
    28: _set_secure_bits,
    29: _set_slack,
    30: _get_slack,
    36: _set_subreaper,
    37: _get_subreaper,
    38: _set_no_new_privileges,
    39: _get_no_new_privileges,
    40: _get_tid_address,
    41: _disable_huge_pages,
    42: _huge_pages_disabled,
    47: _ambient,
}
