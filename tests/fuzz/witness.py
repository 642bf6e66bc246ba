"""Witnesses: well-behaved guests whose every register, vector register, flag and byte of memory is known, run between and beside
the attackers. Whatever an attacker changes in them, or is shown of them, is a break.
"""

from __future__ import annotations

import array
import random
from typing import TYPE_CHECKING, Final

from fuzz.judge import BrokenError
from fuzz.places import ONES, PAGE

from asynckvm.platform import Access, Interrupted, InterruptReason, Restore, Syscall

if TYPE_CHECKING:
    from asynckvm.platform import Exit, Machine

_CODE: Final = 0x6000_0000_0000
_DATA: Final = 0x6000_1000_0000
_STACK: Final = 0x6000_2000_0000
# 1: xsave64 (%rsi); lock incq (%rdi); stmxcsr 8(%rdi); fnstcw 12(%rdi); notq on RBX, RBP, R8 to R10, R12 to R15;
# xorl %edx, %edx; syscall; jmp 1b. The other one has fxsave64 (%rsi), for machines without XSAVE.
_AFTER_SAVE: Final = "48ff070fae5f08d97f0c48f7d348f7d549f7d049f7d149f7d249f7d449f7d549f7d649f7d731d20f05"
_PROGRAMS: Final = {True: bytes.fromhex(f"480fae26f0{_AFTER_SAVE}ebd0"), False: bytes.fromhex(f"480fae06f0{_AFTER_SAVE}ebd0")}
_SYSCALL_END: Final = len(_PROGRAMS[True]) - 2
_TURNED: Final = (1, 7, 8, 9, 10, 12, 13, 14, 15)
# Flags after XOR of a register with itself: ZF, PF, IF and the fixed bit.
_FLAGS: Final = 0x246
# 20000 rounds of integer, SSE and memory arithmetic that depend on each other; the results end up in RAX, RBX, R10, R12, R13.
_COMPUTE: Final = bytes.fromhex(
    "b9204e0000 660fefc9 660fefd2 490fafc0 4c01c8 4831c3 48c1c30d 66480f6ec0 660fd4c8 660fefd1 89c2 81e2f83f0000"
    "48011c17 4c031417 ffc9 75d1 66490f7ecc 66490f7ed5 31d2 0f05 ebfe"
)
_RESULTS: Final = (0, 1, 10, 12, 13, 16, 17)
_COMPUTE_BYTES: Final = 4 * PAGE
_XSAVE_PARTS: Final = 7  # x87, SSE, AVX
_SAVED: Final = 1024
_HEADER: Final = 512


class Witness:
    """One well-behaved guest. `turn()`: one system call's worth of work, all of it compared."""

    def __init__(self, machine: Machine, number: int) -> None:
        chance = random.Random(number)
        self._number = number
        capabilities = machine.capabilities
        self.space = machine.create_address_space()
        self.space.map(_CODE, PAGE, Access.READ | Access.EXECUTE)
        self.space.map(_DATA, 2 * PAGE, Access.READ | Access.WRITE)
        self.space.map(_STACK, PAGE, Access.READ | Access.WRITE)
        self.space.write(_CODE, _PROGRAMS[bool(capabilities.xcr0)], force=True)
        self._pattern = chance.randbytes(PAGE - 64)
        self.space.write(_DATA + 64, self._pattern)
        self.context = machine.create_context(self.space)
        self.context.restore = Restore(number % 3)
        image = self._image(chance, capabilities.xsave_bytes, capabilities.xcr0)
        self.context.xsave = image
        values = [chance.getrandbits(64) for _ in range(16)]
        values[0], values[3], values[4], values[5] = capabilities.xcr0 & _XSAVE_PARTS, 0, _DATA + PAGE, _DATA
        values[6], values[11] = _STACK + PAGE, 0x202
        # User addresses: where ring 3 can set the bases itself, it can set only canonical ones.
        bases = [chance.getrandbits(46), chance.getrandbits(46)]
        self.context.words[:20] = array.array("Q", [*values, _CODE, 0x202, *bases])
        values[2], values[11] = _CODE + _SYSCALL_END, _FLAGS
        self._expected = [[*values, _CODE + _SYSCALL_END, _FLAGS, *bases] for _ in range(2)]
        for register in _TURNED:
            self._expected[1][register] ^= ONES
        self._turns = 0
        self._saved = b""
        words = array.array("Q", image[160:416]).tolist()
        # What must never be seen by anybody else.
        self.secrets = frozenset({*words, *(value for row in self._expected for value in [row[n] for n in _TURNED])})

    @staticmethod
    def _image(chance: random.Random, size: int, xcr0: int) -> bytes:
        image = bytearray(size)
        image[0:2] = (0x37F).to_bytes(2, "little")
        image[24:28] = (0x1F80).to_bytes(4, "little")
        image[160:416] = chance.randbytes(256)
        parts = 3
        if xcr0 & 4:
            image[576:832] = chance.randbytes(256)
            parts = 7
        image[512:520] = parts.to_bytes(8, "little")
        return bytes(image)

    async def turn(self) -> None:
        """Raises BrokenError."""
        exit_: Exit = await self.context.switch()
        while exit_ == Interrupted(InterruptReason.PREEMPTED):
            exit_ = await self.context.switch()
        self._turns += 1
        if not isinstance(exit_, Syscall):
            raise self._broken(f"came back with {exit_}")
        words = self.context.words
        found = words[:20].tolist()
        expected = self._expected[self._turns & 1]
        if found != expected:
            wrong = [
                f"word {n}: {a:#x} instead of {b:#x}" for n, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b
            ]
            raise self._broken("registers changed: " + ", ".join(wrong))
        self._compare_memory()

    def _compare_memory(self) -> None:
        memory = self.space.read(_DATA, PAGE + _SAVED)
        if memory[:14] != self._turns.to_bytes(8, "little") + b"\x80\x1f\0\0\x7f\x03":
            raise self._broken(f"counter, MXCSR or x87 control word: {memory[:14].hex()} in turn {self._turns}")
        if memory[64:PAGE] != self._pattern:
            raise self._broken("memory changed")
        saved = memory[PAGE:]
        if not self._saved:
            self._saved = saved
        # The header says which parts are in use; a processor may think again about that.
        elif saved[:_HEADER] != self._saved[:_HEADER] or saved[_HEADER + 8 :] != self._saved[_HEADER + 8 :]:
            wrong = [n for n in range(_SAVED) if saved[n] != self._saved[n]]
            raise self._broken(f"vector state changed at bytes {wrong[:16]} of the XSAVE image")

    def _broken(self, what: str) -> BrokenError:
        return BrokenError(f"witness {self._number}: {what}")

    def close(self) -> None:
        self.context.close()
        self.space.close()


class Computer:
    """A witness that computes for a while, so that it is interrupted, preempted and moved in the middle of it."""

    def __init__(self, machine: Machine, number: int) -> None:
        chance = random.Random(number)
        self._number = number
        self.space = machine.create_address_space()
        self.space.map(_CODE, PAGE, Access.READ | Access.EXECUTE)
        self.space.map(_DATA, _COMPUTE_BYTES + PAGE, Access.READ | Access.WRITE)
        self.space.write(_CODE, _COMPUTE, force=True)
        self.context = machine.create_context(self.space)
        values = [chance.getrandbits(64) | 1 for _ in range(16)]
        values[5], values[6] = _DATA, _DATA
        self._start = array.array("Q", [*values, _CODE, 0x202, 0, 0])
        self._results: list[int] = []
        self._memory = b""

    async def turn(self) -> None:
        """Raises BrokenError."""
        self.context.words[:20] = self._start
        self.space.write(_DATA, bytes(_COMPUTE_BYTES))
        exit_: Exit = await self.context.switch()
        while isinstance(exit_, Interrupted):
            exit_ = await self.context.switch()
        found = self.context.words[:20].tolist()
        results, memory = [found[n] for n in _RESULTS], self.space.read(_DATA, _COMPUTE_BYTES)
        if not isinstance(exit_, Syscall):
            raise BrokenError(f"computer {self._number} came back with {exit_}")
        if not self._results:
            self._results, self._memory = results, memory
        elif results != self._results or memory != self._memory:
            raise BrokenError(f"computer {self._number} got another result: {results} instead of {self._results}")

    def interrupt(self) -> None:
        self.context.interrupt()

    def close(self) -> None:
        self.context.close()
        self.space.close()
