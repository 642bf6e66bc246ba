"""The texts about one process or thread: stat, status, limits and the small ones. Source: proc_pid_stat(5), proc_pid_status(5).

Times are processor time of the vCPUs; what a sandbox does not have (swap, cgroups, namespaces of users) looks as on a system
where nobody uses it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from asynckvm.errors import GuestError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.limits import INFINITY, Limit
from asynckvm.linux.signals.numbers import SIG_DFL, SIG_IGN, SIGNALS, bit
from asynckvm.linux.vfs.procfs import maps
from asynckvm.linux.vfs.procfs.system import TICK_NS, memory_pages, processors
from asynckvm.model.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asynckvm.linux.process import Process
    from asynckvm.linux.task import Task

_NAME_BYTES: Final = 15
_PIECE: Final = 1 << 14
# Major number of the terminals in /dev/pts.
_PTS: Final = 136
_NO_LOGIN: Final = b"4294967295"
_OOM_MIN, _OOM_MAX = -1000, 1000
_STATES: Final = {
    b"R": b"R (running)", b"S": b"S (sleeping)", b"T": b"T (stopped)", b"Z": b"Z (zombie)",
}  # fmt: skip
_LIMITS: Final = (
    (b"Max cpu time", Limit.CPU, b"seconds"),
    (b"Max file size", Limit.FSIZE, b"bytes"),
    (b"Max data size", Limit.DATA, b"bytes"),
    (b"Max stack size", Limit.STACK, b"bytes"),
    (b"Max core file size", Limit.CORE, b"bytes"),
    (b"Max resident set", Limit.RSS, b"bytes"),
    (b"Max processes", Limit.NPROC, b"processes"),
    (b"Max open files", Limit.NOFILE, b"files"),
    (b"Max locked memory", Limit.MEMLOCK, b"bytes"),
    (b"Max address space", Limit.AS, b"bytes"),
    (b"Max file locks", Limit.LOCKS, b"locks"),
    (b"Max pending signals", Limit.SIGPENDING, b"signals"),
    (b"Max msgqueue size", Limit.MSGQUEUE, b"bytes"),
    (b"Max nice priority", Limit.NICE, b""),
    (b"Max realtime priority", Limit.RTPRIO, b""),
    (b"Max realtime timeout", Limit.RTTIME, b"us"),
)


def state_of(process: Process, task: Task | None) -> bytes:
    """R, S, T or Z. A process is what its first thread is, and runs while any does."""
    if process.exited:
        return b"Z"
    if process.job.stopped:
        return b"T"
    tasks = [task] if task is not None else process.tasks.values()
    return b"S" if all(one.waiting for one in tasks) else b"R"


def _name(process: Process, task: Task | None) -> bytes:
    return task.name if task is not None else process.name


# ---------------------------------------------------------------- from memory


def cmdline(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    """What is in memory now, which a program may have changed to say what it does."""
    return _strings(process, process.program.loaded.arguments)


def environ(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    return _strings(process, process.program.loaded.environment)


def _strings(process: Process, place: tuple[int, int]) -> Iterator[bytes]:
    position, end = place
    while position < end and not process.exited:
        size = min(_PIECE, end - position)
        try:
            yield process.memory.space.read(position, size)
        except GuestError:
            return
        position += size


def auxv(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return () if process.exited else (process.program.loaded.auxiliary,)


# ---------------------------------------------------------------- names


def comm(process: Process, task: Task | None) -> Iterable[bytes]:
    return (_name(process, task) + b"\n",)


def set_comm(process: Process, task: Task | None, data: bytes) -> None:
    task = task or process.leader
    if task is not None:
        task.name = data.partition(b"\0")[0].removesuffix(b"\n")[:_NAME_BYTES]


def wchan(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"0",)


def cgroup(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"0::/\n",)


def login(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    """Nobody logs in to a sandbox."""
    return (_NO_LOGIN,)


def personality(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"00000000\n",)


def id_map(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"%10d %10d %10d\n" % (0, 0, (1 << 32) - 1),)


def setgroups(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"allow\n",)


def io(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    """Bytes are not counted; calls are."""
    calls = process.all_calls
    reads, writes = sum(calls[n] for n in (0, 17, 19)), sum(calls[n] for n in (1, 18, 20))
    names = (b"rchar", 0), (b"wchar", 0), (b"syscr", reads), (b"syscw", writes)
    rest = ((name, 0) for name in (b"read_bytes", b"write_bytes", b"cancelled_write_bytes"))
    return [b"%s: %d\n" % row for row in (*names, *rest)]


# ---------------------------------------------------------------- who goes when memory is short


def oom_score(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    total, _ = memory_pages(process.kernel)
    resident = 0 if process.exited else process.memory.space.resident
    score = (1000 * resident // max(1, total)) + process.oom_adjustment
    return (b"%d\n" % max(0, (1000 + score) * 2 // 3),)


def oom_adjustment(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    return (b"%d\n" % process.oom_adjustment,)


def set_oom_adjustment(process: Process, task: Task | None, data: bytes) -> None:  # noqa: ARG001
    """It is kept and shown: which process goes is not the sandbox's choice, whoever asks for memory that is not there does."""
    try:
        value = int(data.strip())
    except ValueError:
        raise SyscallError(errno.EINVAL) from None
    if not _OOM_MIN <= value <= _OOM_MAX:
        raise SyscallError(errno.EINVAL)
    if value < process.oom_adjustment and not process.credentials.is_root:
        raise SyscallError(errno.EACCES)
    process.oom_adjustment = value


# ---------------------------------------------------------------- tables


def limits(process: Process, task: Task | None) -> Iterator[bytes]:  # noqa: ARG001
    yield b"%-25s %-20s %-20s %-10s\n" % (b"Limit", b"Soft Limit", b"Hard Limit", b"Units")
    for name, resource, unit in _LIMITS:
        soft, hard = (b"unlimited" if value == INFINITY else b"%d" % value for value in process.limits[resource])
        yield b"%-25s %-20s %-20s %-10s\n" % (name, soft, hard, unit)


def statm(process: Process, task: Task | None) -> Iterable[bytes]:  # noqa: ARG001
    if process.exited:
        return (b"0 0 0 0 0 0 0\n",)
    loaded, resident = process.program.loaded, process.memory.space.resident
    code = -(-(loaded.code[1] - loaded.code[0]) // PAGE)
    size = maps.size_of(process) // PAGE
    return (b"%d %d %d %d 0 %d 0\n" % (size, resident, 0, code, max(0, size - code)),)


def stat(process: Process, task: Task | None) -> Iterable[bytes]:
    """52 fields; those after the state count from 4."""
    loaded, job, thread = process.program.loaded, process.session, task or process.leader
    used = (task.cpu_ns if task is not None else process.cpu_ns) // TICK_NS
    started = task.started_ns if task is not None else process.started_ns
    gone, memory = process.exited, process.memory
    terminal = job.terminal
    fields = [
        process.parent_pid, process.group.id, job.id, 0 if terminal is None else os.makedev(_PTS, terminal.number),
        -1 if terminal is None or terminal.foreground is None else terminal.foreground.id, 0, 0, 0, 0, 0,
        used, 0, process.children_ns // TICK_NS, 0, 20, 0, max(1, len(process.tasks)), 0, started // TICK_NS,
        0 if gone else maps.size_of(process), 0 if gone else memory.space.resident, process.limits.soft(Limit.RSS),
        *(loaded.code if not gone else (0, 0)), loaded.stack_pointer if not gone else 0, 0, 0,
        _low(process.pending.mask | (task.pending.mask if task is not None else 0)),
        _low(thread.mask if thread is not None else 0),
        _low(_handled(process, ignored=True)), _low(_handled(process, ignored=False)), 0, 0, 0,
        process.exit_signal, 0, 0, 0, 0, 0, 0, *loaded.data, loaded.heap, *loaded.arguments, *loaded.environment, 0,
    ]  # fmt: skip
    number = task.tid if task is not None else process.pid
    head = b"%d (%s) %s " % (number, _name(process, task), state_of(process, task))
    return (head + b" ".join(b"%d" % field for field in fields) + b"\n",)


def _low(mask: int) -> int:
    """Real-time signals do not fit into these fields."""
    return mask & 0x7FFF_FFFF


def _handled(process: Process, *, ignored: bool) -> int:
    mask = 0
    for number in range(1, SIGNALS + 1):
        handler = process.actions[number].handler
        if handler == SIG_IGN if ignored else handler not in (SIG_IGN, SIG_DFL):
            mask |= bit(number)
    return mask


def status(process: Process, task: Task | None) -> Iterator[bytes]:
    who, number = process.credentials, task.tid if task is not None else process.pid
    parent = process.parent_pid
    yield b"Name:\t%s\nUmask:\t%04o\n" % (_name(process, task).replace(b"\\", b"\\\\").replace(b"\n", b"\\n"), process.fs.umask)
    yield b"State:\t%s\nTgid:\t%d\nNgid:\t0\nPid:\t%d\n" % (_STATES[state_of(process, task)], process.pid, number)
    yield b"PPid:\t%d\nTracerPid:\t0\n" % parent
    yield b"Uid:\t%d\t%d\t%d\t%d\n" % (who.ruid, who.euid, who.suid, who.euid)
    yield b"Gid:\t%d\t%d\t%d\t%d\n" % (who.rgid, who.egid, who.sgid, who.egid)
    descriptors = 0 if process.exited else len(process.files)
    yield b"FDSize:\t%d\nGroups:\t%s \n" % (max(64, 1 << descriptors.bit_length()), b" ".join(b"%d" % one for one in who.groups))
    yield b"NStgid:\t%d\nNSpid:\t%d\nNSpgid:\t%d\nNSsid:\t%d\n" % (process.pid, number, process.group.id, process.session.id)
    if not process.exited:
        yield from _memory(process)
    yield b"Threads:\t%d\n" % len(process.tasks)
    yield from _signals(process, task or process.leader)
    yield b"CapInh:\t%016x\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\nCapAmb:\t%016x\n" % (
        who.inheritable, who.permitted_capabilities, who.effective_capabilities, who.bounding, who.ambient,
    )  # fmt: skip
    yield b"NoNewPrivs:\t%d\nSeccomp:\t0\nSeccomp_filters:\t0\n" % who.no_new_privileges
    count = processors(process.kernel)
    yield b"Cpus_allowed:\t%x\nCpus_allowed_list:\t%s\n" % ((1 << count) - 1, b"0-%d" % (count - 1) if count > 1 else b"0")
    yield b"Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t0\n" % (
        process.all_calls.total()
    )


def _memory(process: Process) -> Iterator[bytes]:
    size, resident = maps.size_of(process) // 1024, process.memory.space.resident * PAGE // 1024
    peak = max(resident, process.resident_max * PAGE // 1024)
    loaded = process.program.loaded
    stack, code = (loaded.stack[1] - loaded.stack[0]) // 1024, -(-(loaded.code[1] - loaded.code[0]) // 1024)
    locked = process.memory.locked.total // 1024
    rows = {
        b"VmPeak": size, b"VmSize": size, b"VmLck": locked, b"VmPin": 0, b"VmHWM": peak, b"VmRSS": resident, b"RssAnon": resident,
        b"RssFile": 0, b"RssShmem": 0, b"VmData": max(0, size - stack - code), b"VmStk": stack, b"VmExe": code, b"VmLib": 0,
        b"VmPTE": 0, b"VmSwap": 0,
    }  # fmt: skip
    for name, value in rows.items():
        yield b"%s:\t%8d kB\n" % (name, value)


def _signals(process: Process, task: Task | None) -> Iterator[bytes]:
    queued = process.pending.account.queued
    yield b"SigQ:\t%d/%d\n" % (queued, process.limits.soft(Limit.SIGPENDING))
    masks = {
        b"SigPnd": task.pending.mask if task is not None else 0,
        b"ShdPnd": process.pending.mask,
        b"SigBlk": task.mask if task is not None else 0,
        b"SigIgn": _handled(process, ignored=True),
        b"SigCgt": _handled(process, ignored=False),
    }
    for name, mask in masks.items():
        yield b"%s:\t%016x\n" % (name, mask)
