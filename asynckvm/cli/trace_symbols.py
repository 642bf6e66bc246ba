"""How arguments of system calls are shown in a trace: the symbols of <fcntl.h>, <sys/mman.h>, <signal.h> and <sched.h>.

Only numbers become text here. What a pointer leads to is read in `trace_values`. What is not listed is shown as its kind in the
table of system calls says.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from asynckvm.linux.status import signal_name

Show: TypeAlias = Callable[[int], str]


def _flags(names: dict[int, str], zero: str = "0") -> Show:
    """Those whose bits are all set, the widest first, and the rest as a number."""
    ordered = sorted(names.items(), key=lambda item: -item[0].bit_count())

    def show(value: int) -> str:
        parts, left = [], value
        for bits, name in ordered:
            if left & bits == bits:
                parts.append((bits, name))
                left &= ~bits
        shown = [name for _, name in sorted(parts)]
        if left:
            shown.append(hex(left))
        return "|".join(shown) or zero

    return show


def _choice(names: dict[int, str]) -> Show:
    return lambda value: names.get(value, str(value))


def _with_access(flags: Show, mask: int, access: dict[int, str]) -> Show:
    """A choice in the lowest bits, flags above."""

    def show(value: int) -> str:
        rest = value & ~mask
        return access.get(value & mask, str(value & mask)) + (f"|{flags(rest)}" if rest else "")

    return show


_OPEN_FLAGS: Final = _flags(
    {
        os.O_CREAT: "O_CREAT", os.O_EXCL: "O_EXCL", os.O_NOCTTY: "O_NOCTTY", os.O_TRUNC: "O_TRUNC", os.O_APPEND: "O_APPEND",
        os.O_NONBLOCK: "O_NONBLOCK", os.O_DSYNC: "O_DSYNC", os.O_SYNC: "O_SYNC", os.O_DIRECT: "O_DIRECT",
        os.O_DIRECTORY: "O_DIRECTORY", os.O_NOFOLLOW: "O_NOFOLLOW", os.O_NOATIME: "O_NOATIME", os.O_CLOEXEC: "O_CLOEXEC",
        os.O_PATH: "O_PATH", os.O_TMPFILE: "O_TMPFILE", 0x8000: "O_LARGEFILE",
    }
)  # fmt: skip
_open = _with_access(_OPEN_FLAGS, os.O_ACCMODE, {0: "O_RDONLY", 1: "O_WRONLY", 2: "O_RDWR"})
_pipe = _flags({os.O_CLOEXEC: "O_CLOEXEC", os.O_NONBLOCK: "O_NONBLOCK", os.O_DIRECT: "O_DIRECT"})
_prot = _flags({1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC"}, "PROT_NONE")
_map = _with_access(
    _flags(
        {
            0x10: "MAP_FIXED", 0x20: "MAP_ANONYMOUS", 0x100: "MAP_GROWSDOWN", 0x800: "MAP_DENYWRITE", 0x2000: "MAP_LOCKED",
            0x4000: "MAP_NORESERVE", 0x8000: "MAP_POPULATE", 0x20000: "MAP_STACK", 0x40000: "MAP_HUGETLB",
            0x100000: "MAP_FIXED_NOREPLACE",
        }
    ),
    3,
    {0: "0", 1: "MAP_SHARED", 2: "MAP_PRIVATE", 3: "MAP_SHARED_VALIDATE"},
)  # fmt: skip
_clone = _with_access(
    _flags(
        {
            0x100: "CLONE_VM", 0x200: "CLONE_FS", 0x400: "CLONE_FILES", 0x800: "CLONE_SIGHAND", 0x1000: "CLONE_PIDFD",
            0x4000: "CLONE_VFORK", 0x8000: "CLONE_PARENT", 0x10000: "CLONE_THREAD", 0x40000: "CLONE_SYSVSEM",
            0x80000: "CLONE_SETTLS", 0x100000: "CLONE_PARENT_SETTID", 0x200000: "CLONE_CHILD_CLEARTID",
            0x1000000: "CLONE_CHILD_SETTID",
        }
    ),
    0xFF,
    {number: signal_name(number) for number in signal.valid_signals()} | {0: "0"},
)  # fmt: skip
_at = _flags(
    {
        0x100: "AT_SYMLINK_NOFOLLOW", 0x200: "AT_EACCESS", 0x400: "AT_SYMLINK_FOLLOW", 0x800: "AT_NO_AUTOMOUNT",
        0x1000: "AT_EMPTY_PATH",
    }
)  # fmt: skip
_unlink = _flags({0x200: "AT_REMOVEDIR"})
_access = _flags({4: "R_OK", 2: "W_OK", 1: "X_OK"}, "F_OK")
_wait = _flags({1: "WNOHANG", 2: "WUNTRACED", 4: "WEXITED", 8: "WCONTINUED", 0x01000000: "WNOWAIT", 0x40000000: "__WALL"})
_whence = _choice({0: "SEEK_SET", 1: "SEEK_CUR", 2: "SEEK_END", 3: "SEEK_DATA", 4: "SEEK_HOLE"})
_how = _choice({0: "SIG_BLOCK", 1: "SIG_UNBLOCK", 2: "SIG_SETMASK"})
_clock = _choice(
    {
        0: "CLOCK_REALTIME", 1: "CLOCK_MONOTONIC", 2: "CLOCK_PROCESS_CPUTIME_ID", 3: "CLOCK_THREAD_CPUTIME_ID",
        4: "CLOCK_MONOTONIC_RAW", 5: "CLOCK_REALTIME_COARSE", 6: "CLOCK_MONOTONIC_COARSE", 7: "CLOCK_BOOTTIME",
    }
)  # fmt: skip
_LIMITS: Final = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE",
    "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip
_FUTEX: Final = (
    "WAIT", "WAKE", "FD", "REQUEUE", "CMP_REQUEUE", "WAKE_OP", "LOCK_PI", "UNLOCK_PI", "TRYLOCK_PI", "WAIT_BITSET",
    "WAKE_BITSET", "WAIT_REQUEUE_PI", "CMP_REQUEUE_PI", "LOCK_PI2",
)  # fmt: skip
_resource = _choice({number: f"RLIMIT_{name}" for number, name in enumerate(_LIMITS)})
_futex_operation = _choice({number: f"FUTEX_{name}" for number, name in enumerate(_FUTEX)})
_fcntl = _choice(
    {
        0: "F_DUPFD", 1: "F_GETFD", 2: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL", 5: "F_GETLK", 6: "F_SETLK", 7: "F_SETLKW",
        8: "F_SETOWN", 9: "F_GETOWN", 10: "F_SETSIG", 11: "F_GETSIG", 36: "F_OFD_GETLK", 37: "F_OFD_SETLK", 38: "F_OFD_SETLKW",
        1024: "F_SETLEASE", 1030: "F_DUPFD_CLOEXEC", 1031: "F_SETPIPE_SZ", 1032: "F_GETPIPE_SZ", 1033: "F_ADD_SEALS",
        1034: "F_GET_SEALS",
    }
)  # fmt: skip
_family = _choice({int(family): family.name for family in socket.AddressFamily})
_socket_type = _with_access(
    _flags({os.O_CLOEXEC: "SOCK_CLOEXEC", os.O_NONBLOCK: "SOCK_NONBLOCK"}),
    0xF,
    {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 5: "SOCK_SEQPACKET"},
)
_madvice = _choice(
    {0: "MADV_NORMAL", 1: "MADV_RANDOM", 2: "MADV_SEQUENTIAL", 3: "MADV_WILLNEED", 4: "MADV_DONTNEED", 8: "MADV_FREE",
     14: "MADV_HUGEPAGE", 15: "MADV_NOHUGEPAGE"}
)  # fmt: skip
_arch = _choice({0x1001: "ARCH_SET_GS", 0x1002: "ARCH_SET_FS", 0x1003: "ARCH_GET_FS", 0x1004: "ARCH_GET_GS"})


def _directory(value: int) -> str:
    return "AT_FDCWD" if value == -100 else str(value)


def _signal(value: int) -> str:
    return signal_name(value) if value in signal.valid_signals() else str(value)


def _mode(value: int) -> str:
    return f"0{value:03o}"


def _futex(value: int) -> str:
    return (
        _futex_operation(value & 0x7F) + ("_PRIVATE" if value & 0x80 else "") + ("|FUTEX_CLOCK_REALTIME" if value & 0x100 else "")
    )


# By the call's name: how each of its arguments is shown, None where its kind says it.
SYMBOLS: Final[dict[str, tuple[Show | None, ...]]] = {
    "open": (None, _open, _mode),
    "creat": (None, _mode),
    "openat": (_directory, None, _open, _mode),
    "openat2": (_directory,),
    "lseek": (None, None, _whence),
    "mmap": (None, None, _prot, _map),
    "mprotect": (None, None, _prot),
    "madvise": (None, None, _madvice),
    "rt_sigaction": (_signal,),
    "rt_sigprocmask": (_how,),
    "access": (None, _access),
    "faccessat": (_directory, None, _access),
    "faccessat2": (_directory, None, _access, _at),
    "newfstatat": (_directory, None, None, _at),
    "statx": (_directory, None, _at),
    "readlinkat": (_directory,),
    "unlinkat": (_directory, None, _unlink),
    "mkdir": (None, _mode),
    "mkdirat": (_directory, None, _mode),
    "mknodat": (_directory, None, _mode),
    "renameat": (_directory, None, _directory),
    "renameat2": (_directory, None, _directory),
    "linkat": (_directory, None, _directory, None, _at),
    "symlinkat": (None, _directory),
    "chmod": (None, _mode),
    "fchmod": (None, _mode),
    "fchmodat": (_directory, None, _mode),
    "fchownat": (_directory, None, None, None, _at),
    "utimensat": (_directory, None, None, _at),
    "umask": (_mode,),
    "execveat": (_directory, None, None, None, _at),
    "clone": (_clone,),
    "wait4": (None, None, _wait),
    "waitid": (None, None, None, _wait),
    "kill": (None, _signal),
    "tkill": (None, _signal),
    "tgkill": (None, None, _signal),
    "fcntl": (None, _fcntl),
    "getrlimit": (_resource,),
    "setrlimit": (_resource,),
    "prlimit64": (None, _resource),
    "futex": (None, _futex),
    "clock_gettime": (_clock,),
    "clock_getres": (_clock,),
    "clock_nanosleep": (_clock, _flags({1: "TIMER_ABSTIME"})),
    "timerfd_create": (_clock,),
    "timer_create": (_clock,),
    "pipe2": (None, _pipe),
    "dup3": (None, None, _pipe),
    "epoll_create1": (_flags({os.O_CLOEXEC: "EPOLL_CLOEXEC"}),),
    "epoll_ctl": (None, _choice({1: "EPOLL_CTL_ADD", 2: "EPOLL_CTL_DEL", 3: "EPOLL_CTL_MOD"})),
    "socket": (_family, _socket_type),
    "socketpair": (_family, _socket_type),
    "arch_prctl": (_arch,),
}
