"""A machine over the scripted core: two vCPUs, one context ahead on each, no polling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from unit.platform.fake_core import FakeCore

from asynckvm.platform import EngineConfig, Machine, SchedulerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOSE_SECONDS = 10


@pytest.fixture
def core() -> FakeCore:
    return FakeCore(vcpus=2)


@pytest_asyncio.fixture
async def machine(core: FakeCore) -> AsyncIterator[Machine]:
    machine = await Machine.open(
        vcpus=2,
        memory=2 << 20,
        contexts=64,
        binding=core.binding(),
        scheduler=SchedulerConfig(brief_ahead=0, ahead=1),
        engine=EngineConfig(spin_ns=0),
    )
    core.operated.clear()
    yield machine
    core.obedient = True
    async with asyncio.timeout(CLOSE_SECONDS):
        await machine.close()
