"""Delivery: what a thread does about its pending signals before it returns to ring 3, and how it comes back from a handler.

`deliver` takes one signal after the other: forgets it, stops or ends the process, or builds a frame. Several handlers may be
stacked before the first runs. Then an interrupted system call is settled (`restart`) and a mask that held only during a call is
put back. Source: kernel/signal.c (get_signal), arch/x86/kernel/signal.c (handle_signal), signal_64.c (rt_sigreturn).
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from asynckvm.errors import GuestMemoryError, OutOfMemoryError, UsageError
from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals import frame as frames
from asynckvm.linux.signals import info as infos
from asynckvm.linux.signals import restart, send, xstate
from asynckvm.linux.signals.altstack import SS_AUTODISARM, AlternateStack
from asynckvm.linux.signals.numbers import SA_NODEFER, SA_RESETHAND, SIG_IGN, Default, bit, default_of
from asynckvm.model.registers import RegisterIndex

if TYPE_CHECKING:
    from asynckvm.linux.signals.action import Action
    from asynckvm.linux.signals.info import SigInfo
    from asynckvm.linux.task import Task
    from asynckvm.model.exits import Fault

_GENERAL_PROTECTION, _PAGE_FAULT, _EXCEPTIONS = 13, 14, 32


def deliver(task: Task) -> None:
    """Act on all pending signals. Afterwards the thread may run, unless its process has stopped (`stay_stopped`) or ended."""
    if not task.interrupted and task.saved_mask is None and not restart.interrupted_by(task):
        task.syscall = None
        return
    process = task.process
    while not task.dying and not process.job.stopped:
        info = _next(task)
        if info is not None:
            _act(task, info)
            continue
        restart.without_handler(task)
        task.syscall = None
        if task.saved_mask is None:
            return
        # What it lets through was blocked during the call: look again.
        mask, task.saved_mask = task.saved_mask, None
        send.set_mask(task, mask)


async def stay_stopped(task: Task) -> None:
    """Wait until the process is continued or has ended."""
    while task.process.job.stopped and not task.dying:
        await task.process.job.wait()


def _next(task: Task) -> SigInfo | None:
    return task.pending.take_fault(task.mask) or task.pending.take(task.mask) or task.process.pending.take(task.mask)


def _act(task: Task, info: SigInfo) -> None:
    process, number = task.process, info.number
    action = process.actions[number]
    observer = process.kernel.observer
    if observer.tracing:
        observer.signalled(task, info)
    if action.is_handler:
        _handle(task, info, action)
        return
    default = default_of(number)
    if action.handler == SIG_IGN or default in (Default.IGNORE, Default.CONTINUE):
        return
    if default is not Default.STOP:
        send.die(task, info)
    elif number == signal.SIGSTOP or not process.group.orphaned:
        send.stop(process, number)


def _handle(task: Task, info: SigInfo, action: Action) -> None:
    """Build the frame; a thread whose stack cannot take it gets SIGSEGV, and dies if that was the signal."""
    number = info.number
    if action.flags & SA_RESETHAND:
        task.process.actions.reset(number)
    restart.with_handler(task, action)
    if _push(task, info, action):
        task.saved_mask = None
        task.syscall = None
        send.set_mask(task, task.mask | action.mask | (0 if action.flags & SA_NODEFER else bit(number)))
        if task.altstack.flags & SS_AUTODISARM:
            task.altstack = AlternateStack()
    else:
        if number == signal.SIGSEGV:
            task.process.actions.reset(number)
        send.force(task, infos.from_kernel(signal.SIGSEGV, reason="no room on the stack for a signal frame"))


def _push(task: Task, info: SigInfo, action: Action) -> bool:
    context, capabilities = task.context, task.process.machine.capabilities
    area = xstate.area_bytes(capabilities.xcr0, capabilities.xsave_bytes)
    mask = task.mask if task.saved_mask is None else task.saved_mask
    frame = frames.build(info, action, context.registers, mask, task.altstack, task.trap, area)
    if frame is None:
        return False
    try:
        task.space.write(frame.fp_address, xstate.save(context.xsave, capabilities.xcr0, area))
        task.space.write(frame.address, frame.content)
    except (GuestMemoryError, OutOfMemoryError):
        return False
    context.registers = frame.registers
    context.xsave = xstate.initial(capabilities.xsave_bytes)
    return True


# ---------------------------------------------------------------- faults


def fault(task: Task, exception: Fault, *, reason: str = "") -> None:
    """An exception of the processor: its signal, whether the program likes it or not."""
    vector, error_code = exception.vector, exception.error_code
    if vector >= _EXCEPTIONS:
        # An interrupt gate that is not there, or not for ring 3: a protection fault with its selector.
        vector, error_code = _GENERAL_PROTECTION, vector * 8 + 2
    if vector >= 0:
        address = exception.address if vector == _PAGE_FAULT else task.trap.address
        task.trap = frames.Trap(vector, error_code, address)
    send.force(task, infos.from_fault(exception, reason=reason))


# ---------------------------------------------------------------- back from a handler


def sigreturn(task: Task) -> int:
    """Go on as the frame at the stack pointer says; returns RAX. SIGSEGV when there is no such frame."""
    task.syscall = None
    task.restart = None
    words = task.context.words
    try:
        image = task.space.read(words[RegisterIndex.rsp], frames.CONTEXT_BYTES)
    except (GuestMemoryError, OutOfMemoryError, UsageError):
        _bad_frame(task)
        return 0
    before = frames.parse(image, task.context.registers)
    send.set_mask(task, before.mask)
    task.context.registers = before.registers
    if not _restore_fp(task, before.fp_address):
        _bad_frame(task)
        return 0
    # A stack it may not have is no reason to fail: Linux drops it too.
    with contextlib.suppress(SyscallError):
        task.altstack = task.altstack.replaced(before.stack, before.registers.rsp)
    if not before.segments_valid:
        # The IRET would fault, with the thread already where it wants to be.
        task.trap = task.trap._replace(number=_GENERAL_PROTECTION, error_code=0)
        _bad_frame(task)
    return before.registers.rax


def _restore_fp(task: Task, address: int) -> bool:
    """Load FP state from a frame; initial state when there is none, or when the processor would refuse it (False)."""
    capabilities = task.process.machine.capabilities
    image: bytes | None = xstate.initial(capabilities.xsave_bytes)
    valid = True
    if address:
        image = _read_fp(task, address)
        valid = image is not None
    task.context.xsave = image if image is not None else xstate.initial(capabilities.xsave_bytes)
    return valid


def _read_fp(task: Task, address: int) -> bytes | None:
    capabilities = task.process.machine.capabilities
    if address % xstate.ALIGNMENT:
        return None
    try:
        content = task.space.read(address, xstate.LEGACY_BYTES)
        if xstate.claims_area(content):
            area = xstate.area_bytes(capabilities.xcr0, capabilities.xsave_bytes)
            content = task.space.read(address, xstate.frame_bytes(area))
    except (GuestMemoryError, OutOfMemoryError, UsageError):
        return None
    return xstate.restore(content, capabilities.xcr0, capabilities.xsave_bytes)


def _bad_frame(task: Task) -> None:
    send.force(task, infos.from_kernel(signal.SIGSEGV, reason="a signal handler returned with a bad frame"))


# ---------------------------------------------------------------- for those who wait for signals


def pending_for(task: Task, mask: int) -> int:
    """Which signals of a mask this thread could take, blocked or not."""
    return (task.pending.mask | task.process.pending.mask) & mask


def take(task: Task, mask: int) -> SigInfo | None:
    """The next pending signal of a mask, which counts as delivered."""
    return task.pending.take(~mask) or task.process.pending.take(~mask)
