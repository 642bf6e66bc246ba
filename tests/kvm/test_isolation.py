"""Random sequences of map, write, protect, unmap, discard, fork and destroy over several address spaces: what guests see is
exactly what a byte model says, and memory that was freed or belongs to somebody else is never seen.

A small machine, so that frames and page-table pages are used again and again; areas of 4 KiB and of 2 MiB pages; two guests in
each space, so that both vCPUs look. ASYNCKVM_SEQUENCES (100) sequences a test; ASYNCKVM_LONG=1 runs ten such tests for each way
of editing page tables: 1,000 sequences.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)  # fmt: skip
from kvm.guestcode import CODE, PAGE, READ, STACK, STACK_TOP, WRITE, assemble, switched

from asynckvm.errors import GuestMemoryError
from asynckvm.model.exits import Exit, Fault, Syscall
from asynckvm.platform import Access, AddressSpace, Context, Machine
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

LONG = os.environ.get("ASYNCKVM_LONG") == "1"
SEQUENCES = int(os.environ.get("ASYNCKVM_SEQUENCES", "100"))
ROUNDS = 10 if LONG else 1
STEPS = 30
SECONDS = paced(30)
MEMORY = 40 << 20
SPACES_MAX = 4

# Two areas: one of small pages, one in which big pages fit, at an offset that makes boundaries interesting.
SMALL, SMALL_PAGES = 0x20000000, 24
BIG, BIG_PAGES = 0x40000000 - 8 * PAGE, 2 * 512 + 16
AREAS = ((SMALL, SMALL_PAGES), (BIG, BIG_PAGES))
# What is looked at in the big area after each step; at the end everything is.
BIG_SAMPLES = sorted({0, 7, 8, 9, 8 + 255, 8 + 511, 8 + 512, 8 + 513, 8 + 1023, 8 + 1024, BIG_PAGES - 1})

# The resident program: copy RCX bytes from (RSI) to (RDI), or store RAX to (RDI).
PROGRAM = "copy: cld; rep movsb; syscall; .org 16; store: movq %rax, (%rdi); syscall; .org 32; fetch: jmp *%rdi"
COPY, STORE, FETCH = CODE, CODE + 16, CODE + 32
# Each guest of a space has its own buffer.
BUFFERS = (0x30000000, 0x31000000)
BUFFER_PAGES = 32

SAMPLES = [SMALL + n * PAGE for n in range(SMALL_PAGES)] + [BIG + n * PAGE for n in BIG_SAMPLES]

READ_WRITE = READ | WRITE
RIGHTS = (READ, READ_WRITE, READ_WRITE, Access.NONE)


class Model:
    """What a space must look like: rights per page and bytes per area."""

    def __init__(self) -> None:
        self.rights: dict[int, Access] = {}
        self.bytes = {start: bytearray(pages * PAGE) for start, pages in AREAS}

    def copy(self) -> Model:
        other = Model()
        other.rights = dict(self.rights)
        other.bytes = {start: bytearray(content) for start, content in self.bytes.items()}
        return other

    @staticmethod
    def area(address: int) -> int:
        return SMALL if address < BIG else BIG

    def clear(self, address: int, length: int) -> None:
        start = self.area(address)
        self.bytes[start][address - start : address - start + length] = bytes(length)

    def put(self, address: int, data: bytes) -> None:
        start = self.area(address)
        self.bytes[start][address - start : address - start + len(data)] = data

    def get(self, address: int, length: int) -> bytes:
        start = self.area(address)
        return bytes(self.bytes[start][address - start : address - start + length])


class Tenant:
    """An address space with its model and two guests."""

    def __init__(self, machine: Machine, space: AddressSpace, model: Model) -> None:
        self.space = space
        self.model = model
        self.contexts: list[Context] = [machine.create_context(space) for _ in BUFFERS]

    async def call(self, guest: int, rip: int, **registers: int) -> Exit:
        context = self.contexts[guest]
        context.registers = type(context.registers)(rip=rip, rsp=STACK_TOP - 64 - guest * PAGE, **registers)
        return await switched(context, SECONDS)

    async def look(self, guest: int, page: int, pages: int) -> None:
        """Guest and host see what the model says in this run of pages, all of which have the same rights."""
        rights = self.model.rights.get(page)
        for first in range(page, page + pages * PAGE, BUFFER_PAGES * PAGE):
            length = min(BUFFER_PAGES * PAGE, page + pages * PAGE - first)
            exit_ = await self.call(guest, COPY, rsi=first, rdi=BUFFERS[guest], rcx=length)
            if rights:
                assert isinstance(exit_, Syscall), (hex(first), rights, exit_)
                expected = self.model.get(first, length)
                same_for_guest = self.space.read(BUFFERS[guest], length) == expected
                assert same_for_guest, f"guest's view of {first:#x}: {where(self.space.read(BUFFERS[guest], length), expected)}"
                same_for_host = self.space.read(first, length) == expected
                assert same_for_host, f"host's view of {first:#x}: {where(self.space.read(first, length), expected)}"
                continue
            self.refused(exit_, first, READ, rights)
            with pytest.raises(GuestMemoryError):
                self.space.read(first, 1)

    @staticmethod
    def refused(exit_: Exit, address: int, access: Access, rights: Access | None) -> None:
        assert isinstance(exit_, Fault), f"{address:#x} is not mapped so, yet the guest could use it"
        assert (exit_.signal, exit_.code) == (11, 1 if rights is None else 2)
        assert (exit_.address, exit_.access) == (address, access)

    async def look_at(self, guest: int, pages: list[int]) -> None:
        """Some pages, given in order; neighbours with equal rights at once."""
        if not pages:
            return
        start, count = pages[0], 1
        for page in [*pages[1:], -1]:
            rights = self.model.rights.get(start)
            if page == start + count * PAGE and rights and self.model.rights.get(page) == rights:
                count += 1
                continue
            await self.look(guest, start, count)
            start, count = page, 1

    def sampled(self, changed: set[int]) -> list[int]:
        """The mapped ones among some pages, and among those just changed the ones that are not: each costs a switch."""
        mapped = [page for page in SAMPLES if self.model.rights.get(page)]
        return sorted({*mapped, *(page for page in changed if not self.model.rights.get(page))})

    def all_pages(self, guest: int) -> list[int]:
        """All that are mapped; of the rest one half for each guest."""
        pages = [start + n * PAGE for start, pages in AREAS for n in range(pages)]
        return [page for page in pages if self.model.rights.get(page) or page // PAGE % len(BUFFERS) == guest]

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self.space.close()


def where(seen: bytes, expected: bytes) -> str:
    first = next(n for n, (a, b) in enumerate(zip(seen, expected, strict=True)) if a != b)
    return f"at +{first:#x} {seen[first : first + 8].hex()} instead of {expected[first : first + 8].hex()}"


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Start and length in bytes: a few small pages, or a big stretch that begins and ends near a 2 MiB boundary."""
    if draw(st.booleans()):
        first = draw(st.integers(0, SMALL_PAGES - 1))
        return SMALL + first * PAGE, draw(st.integers(1, min(8, SMALL_PAGES - first))) * PAGE
    first = draw(st.sampled_from([0, 7, 8, 8, 8, 9, 263, 519, 520, 520, 521]))
    pages = draw(st.sampled_from([1, 2, 9, 511, 512, 512, 513, 1024]))
    return BIG + first * PAGE, min(pages, BIG_PAGES - first) * PAGE


class Tenancy(RuleBasedStateMachine):
    """The sequences. Each opens a machine of its own, so that a failing one is found again alone."""

    guest_edits = False
    tenants: Bundle[Tenant] = Bundle("tenants")

    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.machine = self.run(Machine.open(vcpus=2, memory=MEMORY, guest_edits=self.guest_edits))
        self.living: list[Tenant] = []
        self.just_changed: set[int] = set()
        self.stamp = 0

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(2 * SECONDS):
                return await coroutine

        return self.loop.run_until_complete(bounded())

    def mark(self) -> bytes:
        """A word that was never written before."""
        self.stamp += 1
        return (self.stamp << 16 | 0xBEEF).to_bytes(8, "little")

    def born(self, space: AddressSpace, model: Model) -> Tenant:
        tenant = Tenant(self.machine, space, model)
        self.living.append(tenant)
        return tenant

    @initialize(target=tenants, count=st.integers(1, 2))
    def begin(self, count: int) -> Any:
        return multiple(*(self.create_one() for _ in range(count)))

    def create_one(self) -> Tenant:
        space = self.machine.create_address_space()
        space.map(CODE, PAGE, READ | Access.EXECUTE)
        space.write(CODE, assemble(PROGRAM), force=True)
        space.map(STACK, STACK_TOP - STACK, READ_WRITE)
        for buffer in BUFFERS:
            space.map(buffer, BUFFER_PAGES * PAGE, READ_WRITE)
        return self.born(space, Model())

    @rule(target=tenants)
    def create(self) -> Any:
        return self.create_one() if len(self.living) < SPACES_MAX else multiple()

    @rule(target=tenants, parent=tenants)
    def fork(self, parent: Tenant) -> Any:
        if len(self.living) >= SPACES_MAX:
            return multiple()
        return self.born(parent.space.fork(), parent.model.copy())

    @rule(tenant=consumes(tenants))
    def destroy(self, tenant: Tenant) -> None:
        self.living.remove(tenant)
        tenant.close()

    @rule(tenant=tenants, span=ranges(), rights=st.sampled_from(RIGHTS))
    def map(self, tenant: Tenant, span: tuple[int, int], rights: Access) -> None:
        address, length = span
        tenant.space.map(address, length, rights)
        self.changed(span)
        tenant.model.clear(address, length)
        for page in range(address, address + length, PAGE):
            tenant.model.rights[page] = rights

    @rule(tenant=tenants, span=ranges())
    def unmap(self, tenant: Tenant, span: tuple[int, int]) -> None:
        address, length = span
        tenant.space.unmap(address, length)
        self.changed(span)
        tenant.model.clear(address, length)
        for page in range(address, address + length, PAGE):
            tenant.model.rights.pop(page, None)

    @rule(tenant=tenants, span=ranges(), rights=st.sampled_from(RIGHTS))
    def protect(self, tenant: Tenant, span: tuple[int, int], rights: Access) -> None:
        address, length = span
        pages = range(address, address + length, PAGE)
        if not all(page in tenant.model.rights for page in pages):
            return
        tenant.space.protect(address, length, rights)
        self.changed(span)
        for page in pages:
            tenant.model.rights[page] = rights

    @rule(tenant=tenants, span=ranges())
    def discard(self, tenant: Tenant, span: tuple[int, int]) -> None:
        address, length = span
        if not all(page in tenant.model.rights for page in range(address, address + length, PAGE)):
            return
        tenant.space.discard(address, length)
        self.changed(span)
        tenant.model.clear(address, length)

    @rule(tenant=tenants, span=ranges(), offset=st.sampled_from([0, 8, 1000, 4088]), guest=st.integers(0, 1))
    def guest_writes(self, tenant: Tenant, span: tuple[int, int], offset: int, guest: int) -> None:
        """One word into the first and one into the last page of the stretch."""
        address, length = span
        for page in {address, address + length - PAGE}:
            word = self.mark()
            value = int.from_bytes(word, "little")
            exit_ = self.run(tenant.call(guest, STORE, rdi=page + offset, rax=value))
            rights = tenant.model.rights.get(page)
            if rights is not None and WRITE in rights:
                assert isinstance(exit_, Syscall), (hex(page), rights, exit_)
                tenant.model.put(page + offset, word)
            else:
                tenant.refused(exit_, page + offset, WRITE, rights)

    @rule(tenant=tenants, span=ranges(), force=st.booleans(), shift=st.sampled_from([0, 5]))
    def host_writes(self, tenant: Tenant, span: tuple[int, int], force: bool, shift: int) -> None:
        """The whole stretch but its last bytes; short at the first page that forbids it."""
        address, length = span
        data = (self.mark() * (length // 8))[: length - 8]
        done = len(data)
        for page in range(address, address + length, PAGE):
            rights = tenant.model.rights.get(page)
            if rights is None or (WRITE not in rights and not force):
                done = min(done, max(0, page - address - shift))
                break
        try:
            tenant.space.write(address + shift, data, force=force)
            written = len(data)
        except GuestMemoryError as error:
            written = error.done
            assert error.address == address + shift + written
        assert written == done
        tenant.model.put(address + shift, data[:written])

    @rule(tenant=tenants, page=ranges())
    def guest_jumps(self, tenant: Tenant, page: tuple[int, int]) -> None:
        """No page of these areas is ever executable."""
        exit_ = self.run(tenant.call(0, FETCH, rdi=page[0]))
        tenant.refused(exit_, page[0], Access.EXECUTE, tenant.model.rights.get(page[0]))

    def changed(self, span: tuple[int, int]) -> None:
        """To be looked at in every space, mapped or not: both ends of what was just changed."""
        address, length = span
        ends = [*range(0, min(length, 3 * PAGE), PAGE), *range(max(0, length - 3 * PAGE), length, PAGE)]
        self.just_changed = {address + offset for offset in ends}

    @invariant()
    def views_equal_models(self) -> None:
        self.run(self.look_everywhere(lambda tenant, guest: tenant.sampled(self.just_changed)))
        self.just_changed = set()

    async def look_everywhere(self, pages: Callable[[Tenant, int], list[int]]) -> None:
        """Both guests of every space at once."""
        both = (tenant.look_at(guest, pages(tenant, guest)) for tenant in self.living for guest in range(len(BUFFERS)))
        await asyncio.gather(*both)

    def teardown(self) -> None:
        try:
            self.run(self.look_everywhere(Tenant.all_pages))
            for tenant in self.living:
                tenant.close()
            self.nothing_stays()
        finally:
            self.run(self.machine.close())
            self.loop.close()

    def nothing_stays(self) -> None:
        """With the last space gone every frame and table is back, within a bound."""
        until = time.monotonic() + SECONDS
        while (memory := self.machine.counters().memory).spaces or memory.frames_used:
            assert time.monotonic() < until, memory


async def host_edits_seen() -> bool:
    async with Machine.open(vcpus=1, memory=MEMORY) as machine:
        return machine.capabilities.host_edits_seen


@pytest.fixture(
    params=[
        pytest.param(False, id="edits as probed"),
        pytest.param(True, id="edits by ring 0", marks=pytest.mark.kvm_only("page tables are changed by ring 0")),
    ]
)
def tenancy(request: pytest.FixtureRequest) -> Iterator[type[Tenancy]]:
    if request.param and not asyncio.run(host_edits_seen()):
        pytest.skip("here the probe chooses edits by ring 0 as well")

    class Chosen(Tenancy):
        guest_edits = request.param

    # Its name is in the report of a failing sequence.
    Chosen.__name__ = Tenancy.__name__
    yield Chosen


@pytest.mark.timeout(300)
@pytest.mark.parametrize("turn", range(ROUNDS))
def test_guests_see_what_the_model_says(tenancy: type[Tenancy], turn: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        tenancy, settings=settings(max_examples=SEQUENCES, stateful_step_count=STEPS, suppress_health_check=checks, deadline=None)
    )
