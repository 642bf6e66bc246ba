"""A scripted core: the functions of akvm.h that the platform calls, in Python, over real C structs, without KVM.

Nothing happens by itself unless `program` is set: a test submits through the platform and then says how each run ends (`syscall`,
`fault`, `interrupted`, ...), from any thread. `program`, a function of the native context, plays all guests instead. The
bookkeeping asserts what akvm.h promises: a context is never submitted twice, never destroyed while submitted, and
the doorbell is written only while armed.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cffi

from asynckvm.model.exits import ExitKind, Instruction
from asynckvm.platform.binding import Binding

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = Path(__file__).parents[3] / "native" / "include" / "akvm" / "akvm.h"
NOBODY = 0xFFFF_FFFF
XSAVE_BYTES = 576


@functools.cache
def interface() -> cffi.FFI:
    """cffi in ABI mode, with every struct and constant of the header."""
    text = HEADER.read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"#ifndef AKVM_CDEF.*?#else.*?#endif", "", text, flags=re.DOTALL)
    constants = re.findall(r"^#define AKVM_USER_\w+ 0x\w+$", text, flags=re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE).replace("AKVM_API ", "")
    ffi = cffi.FFI()
    ffi.cdef(text + "\n" + "\n".join(constants))
    return ffi


class FakeCore:
    """Plays `lib`. One machine at a time. Thread: any, for the methods tests call; the loop's, for akvm_ functions."""

    def __init__(self, vcpus: int = 2) -> None:
        self.ffi: Any = interface()
        self.vcpus = vcpus
        self.program: Callable[[Any], None] | None = None
        self.submitted: dict[int, Any] = {}  # index -> native context
        self.order: list[tuple[int, int]] = []  # every submit: (context, vCPU)
        self.operated: list[tuple[int, int]] = []  # every operation: (vCPU, code)
        self.interrupts: list[tuple[int, int]] = []  # every interrupt sent: (context, bits)
        self.obedient = True  # interrupted runs come back at once
        self.fail_submit = 0
        self.open_errors: dict[int, int] = {}  # enum akvm_platform -> errno
        self.operation = b"fake operation"
        self.close_error = 0
        self.armed = False
        self.arms = 0
        self.rings = 0
        self.opens = 0
        self.only: int | None = None  # a core that knows one platform
        self.platforms: list[int] = []  # of each attempt to open
        self.closes = 0
        self.polls = 0
        self.rouses = 0
        self.on_poll: Callable[[], None] | None = None
        self.running: dict[int, Any] = {}  # vCPU -> native context, for akvm_vcpu_status
        self.live: dict[int, Any] = {}
        self.spaces: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}
        self.files = 0
        self.opened: tuple[int, bool, int] | None = None
        self.moved: tuple[int, int, int] | None = None
        self.limit = 0
        self.exhausted = self.END  # no frames are left for addresses from here on
        self.settled = True
        self.stopped = False
        self._done: deque[int] = deque()
        self._lock = threading.RLock()
        self._doorbell = -1
        self._free: list[int] = []
        self._capabilities = self.ffi.new("struct akvm_capabilities *")
        self._capabilities.xsave_bytes = XSAVE_BYTES
        self._keep = self.ffi.new("char[64]")  # what opaque handles point to
        self.xsave = bytearray(XSAVE_BYTES)

    def binding(self) -> Binding:
        return Binding(self.ffi, self)

    @property
    def capabilities(self) -> Any:
        return self._capabilities

    # ---------------------------------------------------------------- how runs end

    def syscall(self, index: int, number: int = 0, *args: int, ran_ns: int = 1000, vcpu: int | None = None) -> None:
        context = self.submitted[index]
        registers = context.registers
        registers.rax = number
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), args, strict=False):
            setattr(registers, name, value)
        self.end(index, ExitKind.SYSCALL, vector=Instruction.SYSCALL, ran_ns=ran_ns, vcpu=vcpu)

    def fault(self, index: int, vector: int, error_code: int = 0, address: int = 0, detail: int = 0) -> None:
        self.submitted[index].address = address
        self.end(index, ExitKind.FAULT, vector=vector, error_code=error_code, detail=detail)

    def interrupted(self, index: int, bits: int) -> None:
        self.end(index, ExitKind.INTERRUPTED, interrupts=bits)

    def end(self, index: int, kind: int, *, ran_ns: int = 1000, vcpu: int | None = None, **fields: int) -> None:
        """Publish the end of a run."""
        with self._lock:
            context = self.submitted.pop(index)
            for name in ("vector", "error_code", "detail", "interrupts", "host_errno", "kvm_exit_reason"):
                setattr(context, name, fields.get(name, 0))
            context.kind = kind
            context.ran_ns = ran_ns
            context.total_ns += ran_ns
            context.exits += 1
            if vcpu is not None:
                context.vcpu = vcpu
            for each in [each for each, running in self.running.items() if running == context]:
                del self.running[each]
            self._done.append(index)
            if self.armed:
                self.armed = False
                self.rings += 1
                os.eventfd_write(self._doorbell, 1)

    def status(self, vcpu: int, index: int) -> None:
        """Let a vCPU seem to run a submitted context since now."""
        self.running[vcpu] = self.submitted[index]
        self.submitted[index].started_ns = time.monotonic_ns()

    # ---------------------------------------------------------------- machine

    def akvm_machine_open(self, config: Any, out: Any) -> int:
        self.opens += 1
        self.platforms.append(config.platform)
        if code := self.open_errors.get(config.platform):
            return -code
        self._capabilities.platform = config.platform if self.only is None else self.only
        self.stopped = False
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._free = list(range(config.contexts_max))
        out[0] = self.ffi.cast("struct akvm_machine *", self._keep)
        return 0

    def akvm_machine_close(self, machine: Any, timeout_ns: int) -> int:
        self.closes += 1
        os.close(self._doorbell)
        return -self.close_error

    def akvm_machine_capabilities(self, machine: Any) -> Any:
        return self._capabilities

    def akvm_machine_stop(self, machine: Any) -> None:
        self.stopped = True
        if self.obedient:
            for index in list(self.submitted):
                self.interrupted(index, 32)

    def akvm_machine_doorbell(self, machine: Any) -> int:
        return self._doorbell

    def akvm_machine_drain(self, machine: Any, indices: Any, most: int) -> int:
        count = 0
        with self._lock:
            while self._done and count < most:
                index = self._done.popleft()
                indices[count] = index
                self.live[index].submitted = 0
                count += 1
        return count

    def akvm_machine_arm(self, machine: Any) -> int:
        self.arms += 1
        with self._lock:
            if self._done:
                return 1
            self.armed = True
            return 0

    def akvm_machine_rouse(self, machine: Any) -> None:
        self.rouses += 1

    def akvm_machine_poll(self, machine: Any, spin_ns: int) -> int:
        self.polls += 1
        if self.on_poll is not None:
            self.on_poll()
        return int(bool(self._done))

    def akvm_vcpu_status(self, machine: Any, vcpu: int, status: Any) -> int:
        if vcpu >= self.vcpus:
            return -errno.EINVAL
        context = self.running.get(vcpu)
        status.state = 0 if context is None else 2
        status.started_ns = 0 if context is None else context.started_ns
        status.context = NOBODY if context is None else context.index
        status.generation = 0 if context is None else context.generation
        return 0

    def akvm_vcpu_flight(self, machine: Any, vcpu: int, records: Any, most: int) -> int:
        records[0].rip = 0x1234
        records[0].kind = ExitKind.SYSCALL
        records[0].interrupts = 2
        return 1

    def akvm_memory_status(self, machine: Any, status: Any) -> int:
        status.spaces = len(self.spaces)
        return 0

    # ---------------------------------------------------------------- contexts

    def akvm_context_create(self, machine: Any, out: Any) -> int:
        if not self._free:
            return -errno.EAGAIN
        context = self.ffi.new("struct akvm_context *")
        context.index = self._free.pop()
        context.registers.rflags = 0x202
        self.live[context.index] = context
        out[0] = context
        return 0

    def akvm_context_destroy(self, context: Any) -> int:
        assert not context.submitted
        del self.live[context.index]
        self._free.append(context.index)
        return 0

    def akvm_context_attach(self, context: Any, space: Any) -> int:
        assert not context.submitted
        return 0

    def akvm_context_submit(self, context: Any, vcpu: int) -> int:
        if self.fail_submit:
            self.fail_submit -= 1
            return -errno.ENOSPC
        self.order.append((context.index, vcpu))
        self._submit(context, vcpu)
        if self.program is not None:
            self.program(context)
        return 0

    def _submit(self, context: Any, vcpu: int) -> None:
        assert not context.submitted
        assert vcpu < self.vcpus
        with self._lock:
            context.submitted = 1
            context.generation += 1
            context.vcpu = vcpu
            self.submitted[context.index] = context
        if self.stopped:
            self.interrupted(context.index, 32)

    def akvm_context_operate(self, context: Any, vcpu: int, operation: int) -> int:
        self.operated.append((vcpu, operation))
        running = self.running.pop(vcpu, None)
        if running is not None and running.index in self.submitted:
            self.interrupted(running.index, 2)
        self._submit(context, vcpu)
        if self.program is None:
            self.end(context.index, ExitKind.OPERATION)
        else:
            self.program(context)
        return 0

    def akvm_context_interrupt(self, context: Any, generation: int, bits: int) -> int:
        self.interrupts.append((context.index, bits))
        if self.obedient and context.index in self.submitted and context.generation == generation:
            self.interrupted(context.index, bits)
        return 0

    def akvm_context_get_xsave(self, context: Any, image: Any, size: int) -> int:
        self.ffi.memmove(image, bytes(self.xsave), size)
        return 0

    def akvm_context_set_xsave(self, context: Any, image: Any, size: int) -> int:
        if size != XSAVE_BYTES:
            return -errno.EINVAL
        self.xsave[:] = self.ffi.buffer(image, size)
        return 0

    def akvm_answers_create(self, out: Any) -> int:
        answers = self.ffi.cast("struct akvm_answers *", 1 + len(self.answers))
        self.answers[int(self.ffi.cast("uintptr_t", answers))] = {}
        out[0] = answers
        return 0

    def akvm_answers_set(self, answers: Any, number: int, value: int) -> int:
        self.answers[int(self.ffi.cast("uintptr_t", answers))][number] = value
        return 0

    def akvm_answers_destroy(self, answers: Any) -> None:
        del self.answers[int(self.ffi.cast("uintptr_t", answers))]

    def akvm_context_answers(self, context: Any, answers: Any) -> int:
        return 0

    # ---------------------------------------------------------------- memory: one flat, writable range of 64 KiB at 0x10000

    START, END = 0x10000, 0x20000

    def akvm_space_create(self, machine: Any, out: Any) -> int:
        number = 1 + max(self.spaces, default=0)
        self.spaces[number] = bytearray(self.END - self.START)
        out[0] = self.ffi.cast("struct akvm_space *", number)
        return 0

    def akvm_space_fork(self, space: Any, out: Any) -> int:
        self.akvm_space_create(None, out)
        self._bytes(out[0])[:] = self._bytes(space)
        return 0

    def akvm_space_destroy(self, space: Any) -> int:
        del self.spaces[int(self.ffi.cast("uintptr_t", space))]
        return 0

    def akvm_space_map(self, space: Any, address: int, length: int, access: int, file: Any, offset: int) -> int:
        return 0 if self.START <= address and address + length <= self.END else -errno.EINVAL

    def akvm_space_unmap(self, space: Any, address: int, length: int) -> int:
        return 0

    def akvm_space_protect(self, space: Any, address: int, length: int, access: int) -> int:
        return 0 if self.START <= address and address + length <= self.END else -errno.ENOMEM

    def akvm_space_discard(self, space: Any, address: int, length: int) -> int:
        return 0

    def akvm_space_move(self, space: Any, source: int, to: int, length: int) -> int:
        self.moved = (source, to, length)
        return 0 if self.START <= source and source + length <= self.END else -errno.EFAULT

    def akvm_space_compare_exchange32(self, space: Any, address: int, expected: int, desired: int, old: Any) -> int:
        if address % 4:
            return -errno.EINVAL
        if self._copyable(address, 4) != 4:
            return self._copyable(address, 4)
        at = address - self.START
        word = self._bytes(space)[at : at + 4]
        old[0] = int.from_bytes(word, "little")
        if old[0] == expected:
            self._bytes(space)[at : at + 4] = desired.to_bytes(4, "little")
        return 0

    def akvm_space_present(self, space: Any, address: int, pages: int, out: Any) -> int:
        for page in range(pages):
            out[page] = page % 2
        return 0 if self.START <= address and address + pages * 4096 <= self.END else -errno.ENOMEM

    def akvm_space_mapped(self, space: Any, address: int, length: int) -> int:
        return max(0, min(address + length, self.END) - max(address, self.START))

    def akvm_space_read(self, space: Any, address: int, buffer: Any, length: int) -> int:
        count = self._copyable(address, length)
        if count > 0:
            self.ffi.memmove(buffer, bytes(self._bytes(space)[address - self.START :][:count]), count)
        return count

    def akvm_space_write(self, space: Any, address: int, buffer: Any, length: int, force: bool) -> int:
        count = self._copyable(address, length)
        if count > 0:
            self._bytes(space)[address - self.START : address - self.START + count] = (
                buffer[:count] if isinstance(buffer, bytes) else self.ffi.buffer(buffer, count)
            )
        return count

    def akvm_space_read_string(self, space: Any, address: int, buffer: Any, capacity: int) -> int:
        if not self.START <= address < self.END:
            return -errno.EFAULT
        text = bytes(self._bytes(space)[address - self.START :])
        length = text.find(0)
        if length < 0:
            return -errno.EFAULT
        if length >= capacity:
            return -errno.ENAMETOOLONG
        self.ffi.memmove(buffer, text, length + 1)
        return length

    def akvm_space_region(self, space: Any, address: int, region: Any) -> int:
        if address >= self.END:
            return -errno.ENOENT
        region.start, region.end, region.access = self.START, self.END, 3
        return 0

    def akvm_space_room(self, space: Any, start: int, end: int, length: int, alignment: int) -> int:
        places = range(-(-start // alignment) * alignment, end - length + 1, alignment)
        return next((place for place in places if not self.akvm_space_mapped(space, place, length)), 0)

    def akvm_space_settled(self, space: Any) -> int:
        return int(self.settled)

    def akvm_space_resident(self, space: Any) -> int:
        return 7

    def akvm_space_limit(self, space: Any, pages: int) -> None:
        self.limit = pages

    def akvm_file_open(self, machine: Any, fd: int, writable: bool, length: int, out: Any) -> int:
        self.files += 1
        self.opened = (fd, writable, length)
        out[0] = self.ffi.cast("struct akvm_file *", 9)
        return 0

    def akvm_file_number(self, file: Any) -> int:
        return 9

    def akvm_file_close(self, file: Any) -> None:
        self.files -= 1

    def akvm_last_error(self) -> Any:
        self._text = self.ffi.new("char[]", self.operation)
        return self._text

    def _bytes(self, space: Any) -> bytearray:
        return self.spaces[int(self.ffi.cast("uintptr_t", space))]

    def _copyable(self, address: int, length: int) -> int:
        if not self.START <= address < self.END:
            return -errno.EFAULT
        if address >= self.exhausted:
            return -errno.ENOMEM
        return min(length, min(self.END, self.exhausted) - address)
