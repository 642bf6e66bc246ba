"""What a soak does: small actions, each of which leaves nothing behind and raises when something is not as it must be.

An actor is a coroutine function of a session and a seeded source of randomness; the session calls it again and again. Guest
memory has a file of its own, `mapper`.
"""

from __future__ import annotations

import asyncio
import gc
import random
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from kvm.guestcode import DATA, KEPT, PAGE, READ, RUN_SECONDS, Guest, switched
from soak.mapper import mapper
from stress.kills import KILL_SECONDS, Range
from stress.lives import AREA, AREA_PAGES, CELL, Body, Life, Living, Nursery

from asynckvm.errors import ClosedError
from asynckvm.model.exits import Fault, Syscall
from asynckvm.platform import Flush, Machine, Nothing, Priority

if TYPE_CHECKING:
    from soak.session import Session

Actor: TypeAlias = "Callable[[Session, random.Random], Awaitable[None]]"

SMALL: Final = 64 << 20


async def killer(session: Session, source: random.Random) -> None:
    """Lives in one body, half of them killed."""
    body = Body(session.nursery)
    for _ in range(source.randint(1, 12)):
        await session.range.one(body, source)
    body.close()


async def witness(session: Session, source: random.Random) -> None:
    """A well-behaved guest: all its registers, its vector state and its memory are as they were."""
    one = session.witnesses[source.randrange(len(session.witnesses))]
    if one in session.busy:
        await asyncio.sleep(0.001)
        return
    session.busy.add(one)
    for _ in range(20):
        await one.check()
    session.busy.remove(one)


async def runner(session: Session, source: random.Random) -> None:
    """Real programs, some of them killed."""
    if session.programs is not None:
        await session.programs.one(source)


async def breeder(session: Session, source: random.Random) -> None:
    """Spaces and contexts that are made, changed and closed in random order, with and without a run."""
    spaces, contexts = [session.nursery.space.fork()], []
    for _ in range(source.randint(2, 30)):
        space = source.choice(spaces)
        step = source.randrange(6)
        if step == 0:
            spaces.append(space.fork())
        elif step == 1:
            space.protect(AREA, source.randint(1, AREA_PAGES) * PAGE, READ)
        elif step == 2:
            space.write(CELL, source.randbytes(64))
        else:
            contexts.append(session.machine.create_context(space))
            contexts[-1].weight = source.choice((0.25, 1.0, 4.0))
            contexts[-1].priority = source.choice(list(Priority))
    source.shuffle(contexts)
    for context in contexts:
        if source.random() < 0.5:
            context.registers = context.registers.replace(rip=AREA)
            exit_ = await switched(context)
            assert isinstance(exit_, Fault), exit_
            assert (exit_.signal, exit_.address) == (11, AREA), exit_
        context.close()
    source.shuffle(spaces)
    for space in spaces:
        space.close()


async def forgetter(session: Session, source: random.Random) -> None:
    """Objects that are dropped instead of closed are buried."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        guest = Guest(session.machine, "1: incq (%rdi); syscall; jmp 1b", rdi=DATA)
        exit_ = await guest.run()
        assert isinstance(exit_, Syscall), exit_
        assert guest.word(DATA) == 1
        KEPT.clear()
        del guest
        gc.collect(0)
    await asyncio.sleep(0.005 * source.random())


async def operator(session: Session, source: random.Random) -> None:
    """Operations in ring 0 between everybody's runs."""
    operation = source.choice((Nothing(), Flush()))
    vcpu = source.choice(("all", *range(session.vcpus)))
    async with asyncio.timeout(RUN_SECONDS):
        if vcpu == "all":
            assert await session.machine.retry_in_guest(operation, "all") == [0] * session.vcpus
        else:
            assert await session.machine.retry_in_guest(operation, int(vcpu)) == 0
    await asyncio.sleep(0.05 * source.random())


async def opener(session: Session, source: random.Random) -> None:
    """Other machines: one or two at once, closed at rest or with everybody in the middle of something."""
    await asyncio.gather(
        *(_machine(session, random.Random(source.random()), number) for number in range(source.choice((1, 1, 2))))
    )
    await asyncio.sleep(0.5 * source.random())


async def _machine(session: Session, source: random.Random, number: int) -> None:
    folder = session.folder / str(number)
    folder.mkdir(exist_ok=True)
    machine = await Machine.open(vcpus=source.choice((1, 2)), memory=SMALL, engine=session.machine.config.engine)
    nursery = Nursery(machine, folder)
    bodies = [Body(nursery) for _ in range(source.randint(1, 6))]
    if source.random() < 0.5:
        range_ = Range(machine, session.tally)
        await asyncio.gather(*(range_.one(body, random.Random(source.random())) for body in bodies))
        for body in bodies:
            body.close()
        nursery.close()
        await machine.close()
        return
    livings = [Living(body, Life.choose(source, endless=source.random() < 0.6), source) for body in bodies]
    tasks = [asyncio.create_task(living.run()) for living in livings]
    await asyncio.sleep(source.choice((0, 0.01 * source.random())))
    async with asyncio.timeout(KILL_SECONDS):
        await machine.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for living, result in zip(livings, results, strict=True):
        ended = not isinstance(result, BaseException) and not living.life.endless
        assert ended or isinstance(result, ClosedError), (living.life, result)
    for body in bodies:
        body.close()
    nursery.close()


ACTORS: Final[dict[Actor, int]] = {
    killer: 6,
    witness: 2,
    mapper: 2,
    runner: 2,
    breeder: 1,
    forgetter: 1,
    operator: 1,
    opener: 1,
}
