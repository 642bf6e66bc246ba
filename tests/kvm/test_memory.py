"""Address spaces as guests see them: mapping, protection, shootdown, forks, limits, the end of memory."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import (
    CODE,
    COUNT,
    DATA,
    EXECUTE,
    HUGE_PAGE,
    PAGE,
    READ,
    RUN_SECONDS,
    STACK_TOP,
    WRITE,
    Guest,
    Witness,
    create_space,
    keep,
    until_counting,
)  # fmt: skip

from asynckvm.errors import GuestMemoryError, GuestStringError, OutOfMemoryError, UsageError
from asynckvm.model.exits import Fault, Syscall
from asynckvm.model.memory import USER_MAX
from asynckvm.platform import Access, Machine

if TYPE_CHECKING:
    from asynckvm.platform import Restore

AREA = 0x40000000
LOAD = "1: movq (%rdi), %rax; movq %rax, %rbx; syscall; jmp 1b"
STORE = "1: movq %rsi, (%rdi); syscall; jmp 1b"
# Counts at DATA, and keeps touching (RDI).
TOUCH = {
    "load": f"1: lock incq {DATA:#x}; movq (%rdi), %rax; jmp 1b",
    "store": f"1: lock incq {DATA:#x}; movq %rsi, (%rdi); jmp 1b",
    "call": f"1: lock incq {DATA:#x}; call *%rdi; jmp 1b",
}
RETURN = b"\xc3"


async def touches(guest: Guest, address: int, value: int | None = None) -> Access | None:
    """None when the guest's load (or store of `value`) works, else what the fault says it tried."""
    guest.load(LOAD if value is None else STORE).go(rdi=address, rsi=value or 0)
    exit_ = await guest.run()
    if isinstance(exit_, Fault):
        assert exit_.address == address
        return exit_.access
    assert isinstance(exit_, Syscall), exit_
    return None


async def test_unmapped_memory_is_gone(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, LOAD, restore=restore, rdi=AREA)
    guest.space.map(AREA, PAGE, READ | WRITE)
    guest.space.write(AREA, b"\x2a")
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 0x2A
    guest.space.unmap(AREA, PAGE)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert (exit_.signal, exit_.code, exit_.address, exit_.access) == (signal.SIGSEGV, 1, AREA, READ)
    guest.space.map(AREA, PAGE, READ | WRITE)
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 0, "new memory shows old bytes"


@pytest.mark.parametrize("pages", [1, 16, 512, 1024])
@pytest.mark.parametrize("how", TOUCH)
async def test_a_change_reaches_a_running_spinner(machine: Machine, restore: Restore, how: str, pages: int) -> None:
    """The spinner runs on one vCPU, touching a page that is taken away under it; another guest keeps the other vCPU busy."""
    guest = Guest(machine, TOUCH[how], restore=restore, rdi=AREA, rsi=7)
    busy = Guest(machine, COUNT)
    busy_task = asyncio.create_task(busy.run(60))
    access = {"load": READ, "store": READ | WRITE, "call": READ | EXECUTE}[how]
    guest.space.map(AREA, pages * PAGE, access)
    guest.space.write(AREA, RETURN * 64, force=True)
    changes = [
        (lambda: guest.space.unmap(AREA, pages * PAGE), 1),
        (lambda: guest.space.protect(AREA, pages * PAGE, Access.NONE), 2),
    ]
    if how == "store":
        changes.append((lambda: guest.space.protect(AREA, pages * PAGE, READ), 2))
    if how == "call":
        changes.append((lambda: guest.space.protect(AREA, pages * PAGE, READ | WRITE), 2))
    for change, code in changes:
        task = asyncio.create_task(guest.run())
        await until_counting(guest, 100)
        assert not task.done()
        change()
        exit_ = await task
        assert isinstance(exit_, Fault), exit_
        assert (exit_.signal, exit_.code, exit_.address) == (signal.SIGSEGV, code, AREA)
        guest.space.map(AREA, pages * PAGE, access)
        guest.space.write(AREA, RETURN * 64, force=True)
        guest.go(rdi=AREA, rsi=7)
    busy.context.interrupt()
    await busy_task


async def test_a_shootdown_ends_when_no_vcpu_can_use_the_old(machine: Machine) -> None:
    """Two spinners in one space, on two vCPUs; after the shootdown neither has stored anything more."""
    space = create_space(machine, TOUCH["store"])
    space.map(AREA, 2 * PAGE, READ | WRITE)
    guests = [Guest(machine, space=space, rdi=AREA, rsi=n + 1) for n in range(2)]
    for _ in range(10):
        tasks = [asyncio.create_task(guest.run()) for guest in guests]
        await until_counting(guests[0], 1000)
        space.protect(AREA, PAGE, READ)
        async with asyncio.timeout(RUN_SECONDS):
            await space.shootdown()
        space.write(AREA, bytes(8), force=True)
        exits = await asyncio.gather(*tasks)
        assert all(isinstance(exit_, Fault) and exit_.address == AREA for exit_ in exits), exits
        assert space.read(AREA, 8) == bytes(8), "somebody still stored after the shootdown"
        space.protect(AREA, PAGE, READ | WRITE)


async def test_a_mapping_replaces_what_was_there(machine: Machine, restore: Restore) -> None:
    guest = Guest(machine, LOAD, restore=restore, rdi=AREA + HUGE_PAGE)
    for turn in range(1, 5):
        guest.space.map(AREA, 4 * HUGE_PAGE, READ | WRITE)
        guest.space.write(AREA + HUGE_PAGE, bytes([turn]) * 8)
        assert isinstance(await guest.run(), Syscall)
        assert guest["rbx"] == turn * 0x0101010101010101
        guest.space.map(AREA + HUGE_PAGE, PAGE, READ)
        assert isinstance(await guest.run(), Syscall)
        assert guest["rbx"] == 0


async def test_every_combination_of_rights(machine: Machine) -> None:
    """x86 has no write-only and no execute-only pages: writable and executable ones can be read. The rest is exact."""
    guest = Guest(machine, LOAD)
    for bits in range(8):
        access = Access(bits)
        guest.space.map(AREA, PAGE, access)
        guest.space.write(AREA, RETURN * 8, force=True)
        readable = bool(access)
        assert (await touches(guest, AREA) is None) == readable, access
        assert (await touches(guest, AREA, 0xC3C3C3C3C3C3C3C3) is None) == (WRITE in access), access
        guest.load("call *%rdi; syscall").go(rdi=AREA)
        exit_ = await guest.run()
        assert isinstance(exit_, Syscall) == (EXECUTE in access), access
        if isinstance(exit_, Fault):
            assert (exit_.signal, exit_.code, exit_.access) == (signal.SIGSEGV, 2, EXECUTE)


async def test_protection_splits_big_pages(machine: Machine) -> None:
    """4 KiB of every kind inside 2 MiB that were mapped and written as one."""
    guest = Guest(machine, LOAD)
    guest.space.map(AREA, HUGE_PAGE, READ | WRITE)
    guest.load("1: movq %rdi, (%rdi); addq $4096, %rdi; decq %rcx; jnz 1b; syscall").go(rdi=AREA, rcx=512)
    assert isinstance(await guest.run(), Syscall)
    guest.space.protect(AREA + 7 * PAGE, PAGE, READ)
    guest.space.unmap(AREA + 100 * PAGE, PAGE)
    guest.space.discard(AREA + 200 * PAGE, PAGE)
    guest.space.map(AREA + 300 * PAGE, PAGE, READ | WRITE)
    expected = {6: (None, None), 7: (None, WRITE), 8: (None, None), 99: (None, None), 100: (READ, WRITE), 101: (None, None)}
    for page, (load, store) in {**expected, 200: (None, None), 300: (None, None), 511: (None, None)}.items():
        address = AREA + page * PAGE
        assert await touches(guest, address) == load, page
        if load is None:
            assert guest["rbx"] == (0 if page in (200, 300) else address), page
        assert await touches(guest, address, address) == store, page


async def test_discarded_memory_reads_as_zero(machine: Machine) -> None:
    guest = Guest(machine, LOAD)
    guest.space.map(AREA, 2 * HUGE_PAGE, READ | WRITE)
    guest.space.write(AREA, b"\xff" * (2 * HUGE_PAGE))
    before = guest.space.resident
    guest.space.discard(AREA + PAGE, HUGE_PAGE)
    assert guest.space.resident <= before - 512
    for page, expected in ((0, 0xFFFFFFFFFFFFFFFF), (1, 0), (2, 0), (511, 0), (512, 0), (513, 0xFFFFFFFFFFFFFFFF)):
        assert await touches(guest, AREA + page * PAGE) is None
        assert guest["rbx"] == expected, page


async def test_a_fork_is_a_copy_on_write(machine: Machine, restore: Restore) -> None:
    parent = Guest(machine, LOAD, restore=restore)
    parent.space.map(AREA, HUGE_PAGE + 4 * PAGE, READ | WRITE)
    parent.space.write(AREA, b"p" * (HUGE_PAGE + 4 * PAGE))
    space = keep(parent.space.fork())
    child = Guest(machine, space=space, restore=restore)
    for offset in (0, PAGE, HUGE_PAGE - 8, HUGE_PAGE, HUGE_PAGE + 3 * PAGE):
        for guest, other, mark in ((parent, child, 1), (child, parent, 2)):
            assert await touches(other, AREA + offset) is None
            before = other["rbx"]
            assert await touches(guest, AREA + offset, mark) is None
            assert await touches(other, AREA + offset) is None
            assert other["rbx"] == before, "a write shows on the other side of the fork"
            assert await touches(guest, AREA + offset) is None
            assert guest["rbx"] == mark
    assert parent.space.read(AREA + 16, 8) == space.read(AREA + 16, 8) == b"p" * 8
    child.close()
    space.close()
    assert parent.space.read(AREA + 8, 8) == b"p" * 8


async def test_a_fork_under_a_running_writer(machine: Machine) -> None:
    """The child keeps the moment of the fork, while the parent's spinner goes on writing on another vCPU."""
    parent = Guest(machine, COUNT)
    task = asyncio.create_task(parent.run(60))
    for _ in range(30):
        await until_counting(parent, 50)
        child = keep(parent.space.fork())
        frozen = child.read(DATA, 8)
        await until_counting(parent, 50)
        assert child.read(DATA, 8) == frozen
        reader = Guest(machine, space=child)
        reader.load(LOAD).go(rdi=DATA)
        assert isinstance(await reader.run(), Syscall)
        assert reader["rbx"] == int.from_bytes(frozen, "little")
        reader.close()
        child.close()
    parent.context.interrupt()
    await task


async def test_copies_fault_as_a_kernel_s_would(machine: Machine) -> None:
    space = create_space(machine)
    space.map(AREA, 2 * PAGE, READ | WRITE)
    space.map(AREA + 3 * PAGE, PAGE, READ)
    space.write(AREA, b"a" * (2 * PAGE))
    with pytest.raises(GuestMemoryError) as short:
        space.read(AREA + PAGE, 2 * PAGE)
    assert (short.value.address, short.value.done) == (AREA + 2 * PAGE, PAGE)
    with pytest.raises(GuestMemoryError) as nothing:
        space.read(AREA + 2 * PAGE, 1)
    assert (nothing.value.address, nothing.value.done) == (AREA + 2 * PAGE, 0)
    with pytest.raises(GuestMemoryError):
        space.write(AREA + 3 * PAGE, b"x")
    space.write(AREA + 3 * PAGE, b"forced", force=True)
    assert space.read(AREA + 3 * PAGE, 6) == b"forced"
    with pytest.raises(GuestMemoryError):
        space.write(AREA + 2 * PAGE, b"no region", force=True)
    space.write(AREA + 10, b"text\0more")
    assert space.read_string(AREA + 10, 100) == b"text"
    space.write(AREA + 2 * PAGE - 4, b"tail")
    with pytest.raises(GuestMemoryError):
        space.read_string(AREA + 2 * PAGE - 4, 100)
    with pytest.raises(GuestStringError):
        space.read_string(AREA + PAGE, 100)


@pytest.mark.parametrize("address", [0, 1, USER_MAX, 0x7FFFFFFFF000, 1 << 47, 1 << 63, (1 << 64) - PAGE, 0xFFFFFFFF80000000])
async def test_addresses_outside_user_space_are_refused(machine: Machine, address: int) -> None:
    space = create_space(machine)
    for call in (
        lambda: space.read(address, 8),
        lambda: space.write(address, b"x", force=True),
        lambda: space.read_string(address, 8),
    ):
        with pytest.raises(GuestMemoryError):
            call()
    for call in (
        lambda: space.map(address & ~0xFFF, PAGE, READ),
        lambda: space.map(address & ~0xFFF, 1 << 62, READ),
        lambda: space.map(AREA, (1 << 64) - PAGE, READ),
        lambda: space.map(AREA + 1, PAGE, READ),
        lambda: space.map(AREA, PAGE + 1, READ),
        lambda: space.map(AREA, 0, READ),
        lambda: space.protect(address & ~0xFFF, PAGE, READ),
    ):
        with pytest.raises((UsageError, GuestMemoryError)):
            call()


async def test_a_space_in_use_cannot_be_closed(machine: Machine) -> None:
    guest = Guest(machine, COUNT)
    with pytest.raises(UsageError):
        guest.space.close()
    task = asyncio.create_task(guest.run())
    await until_counting(guest)
    with pytest.raises(UsageError):
        guest.space.close()
    guest.context.interrupt()
    await task


FILL = "1: movq %rdi, (%rdi); addq $4096, %rdi; decq %rcx; jnz 1b; syscall"


async def test_a_space_s_own_limit_ends_only_that_guest(machine: Machine) -> None:
    guest = Guest(machine, FILL, rdi=AREA, rcx=4096)
    neighbour = await Witness(machine).prepare()
    guest.space.map(AREA, 16 << 20, READ | WRITE)
    guest.space.limit(guest.space.resident + 1024)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault), exit_
    assert (exit_.signal, exit_.code) == (signal.SIGKILL, 0x80)
    assert AREA <= exit_.address < AREA + (16 << 20)
    assert guest.space.resident <= 1024 + 64
    await neighbour.check()
    guest.space.limit(0)
    assert isinstance(await guest.run(), Syscall)
    assert guest.space.resident >= 4096


async def test_the_end_of_guest_memory_ends_only_who_wants_more() -> None:
    async with Machine.open(vcpus=2, memory=16 << 20) as machine:
        neighbour = await Witness(machine).prepare()
        await neighbour.check()  # has all the memory it needs from here on
        for _ in range(3):
            greedy = Guest(machine, FILL, rdi=AREA, rcx=16384)
            greedy.space.map(AREA, 64 << 20, READ | WRITE)
            exit_ = await greedy.run()
            assert isinstance(exit_, Fault), exit_
            assert (exit_.signal, exit_.code) == (signal.SIGKILL, 0x80)
            with pytest.raises(OutOfMemoryError):
                greedy.space.write(AREA, b"x" * (64 << 20))
            await neighbour.check()
            greedy.close()
            # What it held is free again.
            modest = Guest(machine, FILL, rdi=AREA, rcx=2048)
            modest.space.map(AREA, 8 << 20, READ | WRITE)
            exit_ = await modest.run()
            assert isinstance(exit_, Syscall), exit_
            modest.close()


async def test_what_an_idle_space_has_unmapped_serves_others() -> None:
    """Freed memory is free even when no guest of the space that freed it ever runs again."""
    async with Machine.open(vcpus=2, memory=16 << 20) as machine:
        idle = Guest(machine, FILL, rdi=AREA, rcx=2560)
        idle.space.map(AREA, 10 << 20, READ | WRITE)
        assert isinstance(await idle.run(), Syscall)
        idle.space.unmap(AREA, 10 << 20)
        heir = Guest(machine, FILL, rdi=AREA, rcx=2560)
        heir.space.map(AREA, 10 << 20, READ | WRITE)
        exit_ = await heir.run()
        assert isinstance(exit_, Syscall), exit_


async def test_the_limit_counts_page_tables(machine: Machine) -> None:
    """A guest within its limit cannot use up the machine's page tables by touching memory far apart."""
    neighbour = await Witness(machine).prepare()
    guest = Guest(machine, "1: movq %rdi, (%rdi); addq %rsi, %rdi; decq %rcx; jnz 1b; syscall")
    guest.space.map(0x100000000, HUGE_PAGE << 14, READ | WRITE)
    guest.space.limit(guest.space.resident + 8192)
    guest.go(rdi=0x100000000 + PAGE, rsi=HUGE_PAGE, rcx=1 << 14)
    await guest.run(40)
    await neighbour.check()


async def test_the_end_of_the_tables_is_typed(machine: Machine) -> None:
    """One page every 2 MiB, or every GiB, eats page tables instead of frames."""
    neighbour = await Witness(machine).prepare()
    await neighbour.check()
    guest = Guest(machine, "1: movq %rdi, (%rdi); addq %rsi, %rdi; decq %rcx; jnz 1b; syscall")
    for step, pages in ((HUGE_PAGE, 60_000), (1 << 30, 60_000)):
        guest.space.map(0x100000000, step * pages, READ | WRITE)
        guest.go(rdi=0x100000000, rsi=step, rcx=pages)
        exit_ = await guest.run(40)
        assert isinstance(exit_, Fault | Syscall), exit_
        if isinstance(exit_, Fault):
            assert exit_.signal == signal.SIGKILL
        guest.space.unmap(0x100000000, step * pages)
        await neighbour.check()


async def test_stack_in_read_only_memory_hurts_only_its_owner(small_machine: Machine, restore: Restore) -> None:
    neighbour = await Witness(small_machine).prepare()
    guest = Guest(small_machine, "push %rax; syscall", restore=restore)
    guest.space.protect(STACK_TOP - PAGE, PAGE, READ)
    exit_ = await guest.run()
    assert isinstance(exit_, Fault)
    assert (exit_.signal, exit_.code, exit_.access) == (signal.SIGSEGV, 2, WRITE)
    assert exit_.address == STACK_TOP - 72
    await neighbour.check()


async def test_code_that_rewrites_itself(small_machine: Machine, restore: Restore) -> None:
    """Stores to code are seen at once, by the guest that stored and after a store by the host."""
    space = create_space(small_machine, code_access=READ | WRITE | EXECUTE)
    guest = Guest(small_machine, space=space, restore=restore)
    guest.load("1: incl patch+1(%rip); patch: movl $0, %ebx; syscall; jmp 1b")
    for turn in range(1, 50):
        assert isinstance(await guest.run(), Syscall)
        assert guest["rbx"] == turn
    guest.load("movl $12345, %ebx; syscall").go(CODE)
    assert isinstance(await guest.run(), Syscall)
    assert guest["rbx"] == 12345
