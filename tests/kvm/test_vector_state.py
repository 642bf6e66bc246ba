"""FP and vector state: each context's own, on every vCPU, whoever ran there before; and never the host's."""

from __future__ import annotations

import asyncio
import random

import pytest
from kvm.guestcode import DATA, PAGE, SPIN, Guest

from asynckvm.errors import UsageError
from asynckvm.model.exits import Syscall
from asynckvm.platform import Machine, Restore
from support.pace import paced

YMM_BYTES = 16 * 32
ZMM_BYTES = 32 * 64 + 8 * 8
MXCSR_DEFAULT, FCW_DEFAULT = 0x1F80, 0x37F

# Load everything from (rdi), then again and again store everything to (rsi).
AVX = (
    "; ".join(f"vmovdqu {32 * n}(%rdi), %ymm{n}" for n in range(16))
    + "; ldmxcsr 1024(%rdi); fninit; fldcw 1028(%rdi); fildq 1032(%rdi); fildq 1040(%rdi); syscall; 1: "
    + "; ".join(f"vmovdqu %ymm{n}, {32 * n}(%rsi)" for n in range(16))
    + "; stmxcsr 1024(%rsi); fnstcw 1028(%rsi); fld %st(1); fistpq 1032(%rsi); fld %st(0); fistpq 1040(%rsi); syscall; jmp 1b"
)
AVX512 = (
    "; ".join(f"vmovdqu64 {64 * n}(%rdi), %zmm{n}" for n in range(32))
    + "; "
    + "; ".join(f"kmovq {2048 + 8 * n}(%rdi), %k{n}" for n in range(8))
    + "; syscall; 1: "
    + "; ".join(f"vmovdqu64 %zmm{n}, {64 * n}(%rsi)" for n in range(32))
    + "; "
    + "; ".join(f"kmovq %k{n}, {2048 + 8 * n}(%rsi)" for n in range(8))
    + "; syscall; jmp 1b"
)
STORE_ALL = (
    "; ".join(f"movdqu %xmm{n}, {16 * n}(%rsi)" for n in range(16))
    + "; stmxcsr 256(%rsi); fnstcw 260(%rsi); fnstenv 264(%rsi); syscall"
)


class Holder:
    """A guest that holds a pattern in all its vector registers, and is asked again and again whether it still does."""

    def __init__(self, machine: Machine, code: str, pattern: bytes, restore: Restore) -> None:
        self.guest = Guest(machine, code, restore=restore, rdi=DATA, rsi=DATA + PAGE)
        self.pattern = pattern
        self.guest.space.write(DATA, pattern)

    async def load(self) -> Holder:
        assert isinstance(await self.guest.run(), Syscall)
        return self

    async def check(self) -> int:
        """Returns the vCPU it was on."""
        self.guest.space.write(DATA + PAGE, bytes(len(self.pattern)))
        exit_, vcpu = await self.guest.run_somewhere()
        assert isinstance(exit_, Syscall), exit_
        assert self.guest.space.read(DATA + PAGE, len(self.pattern)) == self.pattern
        return vcpu


def avx_pattern(seed: int) -> bytes:
    """16 ymm registers, an MXCSR and an x87 control word with other masks and roundings, two integers for the x87 stack."""
    source = random.Random(seed)
    mxcsr = MXCSR_DEFAULT ^ source.randrange(4) << 13 ^ source.randrange(2) << 15
    control = FCW_DEFAULT ^ source.randrange(4) << 10
    integers = source.randrange(1 << 62).to_bytes(8, "little") + source.randrange(1 << 62).to_bytes(8, "little")
    vectors = source.randbytes(YMM_BYTES).ljust(1024, b"\0")
    return vectors + mxcsr.to_bytes(4, "little") + control.to_bytes(4, "little") + integers


def needs_avx(machine: Machine) -> None:
    if machine.capabilities.xcr0 & 7 != 7:
        pytest.skip("no AVX in guests here")


@pytest.mark.parametrize("vcpus", [1, 2])
async def test_avx_x87_and_control_words_are_each_context_s_own(
    machine: Machine, small_machine: Machine, restore: Restore, vcpus: int
) -> None:
    chosen = small_machine if vcpus == 1 else machine
    needs_avx(chosen)
    holders = [await Holder(chosen, AVX, avx_pattern(seed), restore).load() for seed in range(5)]
    for _ in range(10):
        for holder in holders:
            await holder.check()
    before = sum(vcpu.fp_switches for vcpu in chosen.counters().vcpus)

    async def check_often(holder: Holder) -> None:
        for _ in range(60):
            await holder.check()

    await asyncio.gather(*(check_often(holder) for holder in holders))
    after = sum(vcpu.fp_switches for vcpu in chosen.counters().vcpus)
    # On ptrace, contexts of different spaces run in different stubs, each with a vector state of its own.
    assert after > before or chosen.platform == "ptrace", "five contexts never took turns"


async def test_avx_512_is_each_context_s_own(small_machine: Machine, restore: Restore) -> None:
    if small_machine.capabilities.xcr0 & 0xE7 != 0xE7:
        pytest.skip("no AVX-512 in guests here")
    holders = [await Holder(small_machine, AVX512, random.Random(n).randbytes(ZMM_BYTES), restore).load() for n in range(3)]
    for _ in range(20):
        for holder in holders:
            await holder.check()


async def test_a_fresh_context_starts_clean(small_machine: Machine, restore: Restore) -> None:
    """Nothing of whoever ran before: registers zero, control words at their defaults, x87 stack empty."""
    needs_avx(small_machine)
    dirty = await Holder(small_machine, AVX, avx_pattern(99), restore).load()
    fresh = Guest(small_machine, STORE_ALL, restore=restore, rsi=DATA)
    assert isinstance(await fresh.run(), Syscall)
    assert fresh.space.read(DATA, 256) == bytes(256)
    stored = fresh.space.read(DATA + 256, 8)
    assert (int.from_bytes(stored[:4], "little"), int.from_bytes(stored[4:6], "little")) == (MXCSR_DEFAULT, FCW_DEFAULT)
    assert fresh.space.read(DATA + 264 + 8, 2) == b"\xff\xff", "the x87 tags say that something is there"
    await dirty.check()


async def test_unmasked_exceptions_of_a_guest_stay_its_own(small_machine: Machine, restore: Restore) -> None:
    """MXCSR 0 and an x87 control word of 0 trap on everything; nobody else may notice, in the guest or on the host."""
    hostile = Guest(small_machine, f"ldmxcsr {DATA + 8:#x}; fldcw {DATA + 8:#x}; syscall; jmp .", restore=restore)
    assert isinstance(await hostile.run(), Syscall)
    divide = "cvtsi2sd %rdi, %xmm0; cvtsi2sd %rsi, %xmm1; divsd %xmm1, %xmm0; stmxcsr (%r8); syscall"
    neighbour = Guest(small_machine, divide, restore=restore, rdi=1, rsi=3, r8=DATA)
    assert isinstance(await neighbour.run(), Syscall)
    assert neighbour.word(DATA) == MXCSR_DEFAULT | 0x20, "the inexact result is recorded, masked"
    # Inexact, underflow and overflow on the host: any unmasked exception would be SIGFPE.
    assert (1.0 / 3.0) * 1e-320 * 1e300 != 0.0
    assert 1e308 * 10.0 == float("inf")


async def test_state_follows_a_context_between_vcpus(machine: Machine, restore: Restore) -> None:
    needs_avx(machine)
    holder = await Holder(machine, AVX, avx_pattern(7), restore).load()
    seen: dict[int, int] = {}
    # One more than vCPUs, so that whoever comes takes whichever is free first.
    rivals = [Guest(machine, SPIN) for _ in range(3)]
    running = [asyncio.create_task(rival.run(paced(60))) for rival in rivals]
    async with asyncio.timeout(paced(30)):
        while len(seen) < 2 or min(seen.values()) < 20:
            vcpu = await holder.check()
            seen[vcpu] = seen.get(vcpu, 0) + 1
    for rival in rivals:
        rival.context.interrupt()
    await asyncio.gather(*running)


async def test_the_image_can_be_read_and_set(small_machine: Machine, restore: Restore) -> None:
    guest = Guest(small_machine, "movq %rax, %xmm3; syscall; 1: movq %xmm3, %rbx; syscall; jmp 1b", restore=restore, rax=0x1234)
    assert isinstance(await guest.run(), Syscall)
    image = guest.context.xsave
    assert len(image) == small_machine.capabilities.xsave_bytes
    assert image[160 + 3 * 16 : 160 + 3 * 16 + 8] == (0x1234).to_bytes(8, "little")
    changed = bytearray(image)
    changed[160 + 3 * 16 : 160 + 3 * 16 + 8] = (0x987654321).to_bytes(8, "little")
    guest.context.xsave = bytes(changed)
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 0x987654321


def with_word(image: bytes, offset: int, value: int, size: int = 8) -> bytes:
    return image[:offset] + value.to_bytes(size, "little") + image[offset + size :]


async def test_images_that_would_fault_are_refused(small_machine: Machine) -> None:
    """Every component bit outside XCR0, compaction, reserved header words, reserved MXCSR bits, a wrong size."""
    guest = Guest(small_machine, "movq %rax, %xmm3; syscall; 1: movq %xmm3, %rbx; syscall; jmp 1b", rax=0x77)
    assert isinstance(await guest.run(), Syscall)
    image = guest.context.xsave
    bad = [image[:-1], image + b"\0", b""]
    allowed = small_machine.capabilities.xcr0 | 3
    bad += [with_word(image, 512, 1 << bit) for bit in range(64) if not allowed >> bit & 1]
    bad += [with_word(image, 512 + 8 * word, 1 << bit) for word in range(1, 8) for bit in (0, 17, 63)]
    bad += [with_word(image, 24, 1 << bit, 4) for bit in range(16, 32)]
    for candidate in bad:
        with pytest.raises(UsageError):
            guest.context.xsave = candidate
    assert guest.context.xsave == image
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 0x77


@pytest.mark.parametrize("seed", range(8))
async def test_any_accepted_image_enters_and_hurts_nobody(small_machine: Machine, seed: int) -> None:
    """Random legacy and extended areas behind a valid header: the guest runs, and so does the next."""
    source = random.Random(seed)
    guest = Guest(small_machine, "syscall; jmp .-2")
    other = Guest(small_machine, "1: movq %xmm0, %rbx; syscall; jmp 1b")
    size = small_machine.capabilities.xsave_bytes
    for _ in range(20):
        image = bytearray(source.randbytes(size))
        image[512:576] = (source.getrandbits(64) & (small_machine.capabilities.xcr0 | 3)).to_bytes(8, "little").ljust(64, b"\0")
        image[24:28] = (source.getrandbits(16)).to_bytes(4, "little")
        guest.context.xsave = bytes(image)
        assert isinstance(await guest.run(), Syscall)
        assert isinstance(await other.run(), Syscall)
        assert other["rbx"] == 0
