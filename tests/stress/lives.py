"""Lives: what a guest does and what its host answers, each with a result that is known beforehand, down to the last bit.

A life may be endless or end after a known number of rounds; it counts its rounds in memory, so that a guest that still runs is
seen. Every call carries the rounds that are left, so that a call lost or seen twice is seen too. Who kills lives, when, and
what that must lead to, is `kills`' business.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from kvm.guestcode import CODE, EXECUTE, PAGE, READ, WRITE, assemble

from asynckvm.model.exits import Fault, Interrupted, InterruptReason, Syscall
from asynckvm.model.registers import RegisterIndex as R

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from asynckvm.platform import AddressSpace, Context, Exit, HostFile, Machine

FINISHED, CALLED, ANSWERED, WAITED, PASSED = 900, 39, 40, 41, 42
CELL = 0x10000000
AREA, AREA_PAGES = 0x20000000, 32
COPIES, COPIES_PAGES = 0x30000000, 16
UNMAPPED = 0x50000000
MASK = (1 << 64) - 1
ENDLESS = 1 << 62
PREEMPTED = Interrupted(InterruptReason.PREEMPTED)
_ENTRY_BYTES = 512


class Kind(enum.Enum):
    """What a guest spends its life with."""

    SPIN = enum.auto()
    VECTOR = enum.auto()
    CALL = enum.auto()  # answered at once
    NATIVE = enum.auto()  # answered on the vCPU's thread
    WAIT = enum.auto()  # the answer has to be awaited
    PAGE = enum.auto()  # touches memory that was taken away
    COPY = enum.auto()  # writes to a private view of a file
    INVALID = enum.auto()  # these fault in the end
    LOAD = enum.auto()
    STORE = enum.auto()
    DIVIDE = enum.auto()


_FINISH = f"movl ${FINISHED}, %eax; syscall; ud2"
_ROUND = "incq (%r15); leaq 1(%rbx,%rbx,2), %rbx; decq %r12; jnz 1b;"
_TOUCH = (
    "1: incq (%r15); movq %r13, %rdx; movq %r14, %rsi; 2: incq (%rdx); addq (%rdx), %rbx; addq $4096, %rdx; decq %rsi; jnz 2b;"
    f"movl ${PASSED}, %eax; movq %r12, %rdi; syscall; decq %r12; jnz 1b;" + _FINISH
)


def _calling(number: int) -> str:
    answer = "leaq (%rbx,%rbx,2), %rbx; addq %rax, %rbx; decq %r12; jnz 1b;"
    return f"1: incq (%r15); movl ${number}, %eax; movq %r12, %rdi; syscall; {answer}" + _FINISH


_CODE: Final = {
    Kind.SPIN: f"1: {_ROUND}" + _FINISH,
    Kind.VECTOR: "movq %rbx, %xmm0; movq %r13, %xmm1; movq %r14, %xmm15;"
    "1: incq (%r15); paddq %xmm1, %xmm0; decq %r12; jnz 1b; movq %xmm0, %rbx; movq %xmm15, %r13;" + _FINISH,
    Kind.CALL: _calling(CALLED),
    Kind.NATIVE: _calling(ANSWERED),
    Kind.WAIT: _calling(WAITED),
    Kind.PAGE: _TOUCH,
    Kind.COPY: _TOUCH,
    Kind.INVALID: f"1: {_ROUND} ud2",
    Kind.LOAD: f"1: {_ROUND} movq {UNMAPPED:#x}, %rdx",
    Kind.STORE: f"1: {_ROUND} movq %rbx, {CODE:#x}",
    Kind.DIVIDE: f"1: {_ROUND} xorl %ecx, %ecx; xorl %edx, %edx; divq %rcx",
}
ENTRIES: Final = {kind: CODE + number * _ENTRY_BYTES for number, kind in enumerate(Kind)}
# Signal and address of the fault that ends a life; None for an address that tells nothing.
_FAULTS: Final = {Kind.INVALID: (4, None), Kind.LOAD: (11, UNMAPPED), Kind.STORE: (11, CODE), Kind.DIVIDE: (8, None)}
# A round takes some nanoseconds, or a system call, or a few dozen page faults; lives of about a millisecond at most.
_ROUNDS: Final = {Kind.CALL: 20, Kind.NATIVE: 80, Kind.WAIT: 4, Kind.PAGE: 4, Kind.COPY: 4}
_ROUNDS_OF_NANOSECONDS = 200_000


@functools.cache
def image() -> bytes:
    """The code of all kinds, each at its entry."""
    pieces = [assemble(_CODE[kind]).ljust(_ENTRY_BYTES, b"\xcc") for kind in Kind]
    assert all(len(piece) == _ENTRY_BYTES for piece in pieces)
    return b"".join(pieces)


class Nursery:
    """What lives of one machine are born from: a space whose forks they run in, and a file."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        path = folder / "copies"
        path.write_bytes(b"".join(number.to_bytes(8, "little") * (PAGE // 8) for number in range(1, COPIES_PAGES + 1)))
        self.file: HostFile = machine.open_file(path)
        self.space = machine.create_address_space()
        self.space.map(CODE, -(-len(image()) // PAGE) * PAGE, READ | EXECUTE)
        self.space.write(CODE, image(), force=True)
        self.space.map(CELL, PAGE, READ | WRITE)
        self.space.map(AREA, AREA_PAGES * PAGE, READ | WRITE)
        self.space.map(COPIES, COPIES_PAGES * PAGE, READ | WRITE, file=self.file)

    def close(self) -> None:
        self.space.close()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Body:
    """A context and its space: used for one life after the other."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery = nursery
        self.space: AddressSpace = nursery.space.fork()
        self.context: Context = self._context()

    def _context(self) -> Context:
        context = self.nursery.machine.create_context(self.space)
        context.answers = {ANSWERED: 1}
        return context

    def renew(self, *, space: bool) -> None:
        """Another context, and another space if asked for."""
        self.context.close()
        if space:
            self.space.close()
            self.space = self.nursery.space.fork()
        self.context = self._context()

    def count(self) -> int:
        return int.from_bytes(self.space.read(CELL, 8), "little")

    def close(self) -> None:
        self.context.close()
        self.space.close()


class Life(NamedTuple):
    """What is known beforehand."""

    kind: Kind
    rounds: int
    start: int
    step: int

    @classmethod
    def choose(cls, source: random.Random, kind: Kind | None = None, *, endless: bool = False) -> Life:
        kind = kind or source.choice(list(Kind))
        most = _ROUNDS.get(kind, _ROUNDS_OF_NANOSECONDS)
        rounds = ENDLESS if endless else source.choice((1, source.randint(1, most), source.randint(1, most)))
        return cls(kind, rounds, source.getrandbits(64), source.getrandbits(64))

    @property
    def endless(self) -> bool:
        return self.rounds == ENDLESS

    @property
    def result(self) -> int:
        """RBX at its end."""
        if self.kind is Kind.VECTOR:
            return (self.start + self.rounds * self.step) & MASK
        if self.kind is Kind.PAGE:
            return (self.start + self.rounds * AREA_PAGES) & MASK
        if self.kind is Kind.COPY:
            return (self.start + self.rounds * sum(range(2, COPIES_PAGES + 2))) & MASK
        power = pow(3, self.rounds, 1 << 65)
        return (self.start * power + (power - 1) // 2) & MASK

    @property
    def calls(self) -> int:
        """Calls that reach the host before the last one."""
        return self.rounds if self.kind in {Kind.CALL, Kind.WAIT, Kind.PAGE, Kind.COPY} else 0


class Living:
    """A life in a body. `ambush` is called when a host coroutine begins to wait, `resumed` after each switch().

    After a cancellation or an interrupt, `run()` may be called again and goes on where it was.
    """

    def __init__(self, body: Body, life: Life, source: random.Random) -> None:
        self.body, self.life, self.source = body, life, source
        self.started = False
        self.calls = 0
        self.switched_ns = 0
        self.unanswered: Syscall | None = None
        self.ambush: Callable[[], None] | None = None
        self.resumed: Callable[[], None] | None = None
        body.space.discard(AREA, AREA_PAGES * PAGE)
        body.space.discard(COPIES, COPIES_PAGES * PAGE)
        body.space.write(CELL, bytes(8))
        copies = life.kind is Kind.COPY
        words = body.context.words
        words[:20] = memoryview(bytes(160)).cast("Q")
        words[R.rip], words[R.rflags], words[R.r12], words[R.rbx] = ENTRIES[life.kind], 0x202, life.rounds, life.start
        words[R.r15], words[R.r13], words[R.r14] = CELL, life.step, life.step
        if life.kind in {Kind.PAGE, Kind.COPY}:
            words[R.r13], words[R.r14] = (COPIES, COPIES_PAGES) if copies else (AREA, AREA_PAGES)

    async def run(self) -> Exit:
        """Until it ends, or somebody's interrupt comes."""
        self.started = True
        context = self.body.context
        if self.unanswered is not None:
            await self._answer(self.unanswered)
        while True:
            self.switched_ns = time.monotonic_ns()
            exit_ = await context.switch()
            if self.resumed is not None:
                self.resumed()
            if exit_ == PREEMPTED:
                continue
            if not isinstance(exit_, Syscall) or exit_.number == FINISHED:
                return exit_
            self.unanswered = exit_
            await self._answer(exit_)

    async def _answer(self, call: Syscall) -> None:
        life = self.life
        left = life.rounds - self.calls
        expected = {Kind.CALL: CALLED, Kind.WAIT: WAITED, Kind.PAGE: PASSED, Kind.COPY: PASSED}.get(life.kind)
        assert (call.number, call.args[0]) == (expected, left), f"{call} with {left} rounds left of {life}"
        if call.number == WAITED:
            if self.ambush is not None:
                self.ambush()
            await asyncio.sleep(self.source.choice((0, 0, 0.0002, self.source.random() * 0.002)))
        elif call.number == PASSED:
            area, pages = (COPIES, COPIES_PAGES) if life.kind is Kind.COPY else (AREA, AREA_PAGES)
            self.body.space.discard(area, pages * PAGE)
        self.body.context.words[R.rax] = 1  # ClosedError when the machine was closed meanwhile
        self.calls += 1
        self.unanswered = None

    def complaint(self, exit_: Exit) -> str:
        """What is wrong with the end of this life; empty when it is exact."""
        life, words = self.life, self.body.context.words
        found: object = exit_
        wanted: object = life.kind
        fault = _FAULTS.get(life.kind)
        if fault is None:
            right = isinstance(exit_, Syscall) and exit_.number == FINISHED
        else:
            right = isinstance(exit_, Fault) and exit_.signal == fault[0] and fault[1] in {None, exit_.address}
        if right:
            found = (words[R.rbx], self.calls, words[R.r13] if life.kind is Kind.VECTOR else life.step, self.body.count())
            wanted = (life.result, life.calls, life.step, life.rounds)
        return "" if right and found == wanted else f"{life} ended with {found}, not {wanted}"
