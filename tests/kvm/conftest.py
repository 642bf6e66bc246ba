"""Machines for the tests of this tier: a fresh one for each test, closed within a bound whatever the test left running."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from kvm.guestcode import KEPT, RESTORES

from asynckvm.platform import Machine
from support.pace import paced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from asynckvm.platform import Restore

MEMORY = 256 << 20
CLOSE_SECONDS = paced(20)


async def opened(vcpus: int, memory: int = MEMORY, **options: int) -> AsyncIterator[Machine]:
    machine = await Machine.open(vcpus=vcpus, memory=memory, **options)
    try:
        yield machine
    finally:
        async with asyncio.timeout(CLOSE_SECONDS):
            await machine.close()


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """Set up before every machine of a test, so torn down after it."""
    yield
    KEPT.clear()


@pytest_asyncio.fixture
async def machine(kept: None) -> AsyncIterator[Machine]:
    """Two vCPUs."""
    async for machine in opened(2):
        yield machine


@pytest_asyncio.fixture
async def small_machine(kept: None) -> AsyncIterator[Machine]:
    """One vCPU: whatever runs next runs on the same one."""
    async for machine in opened(1):
        yield machine


@pytest.fixture(params=RESTORES)
def restore(request: pytest.FixtureRequest) -> Restore:
    """Each way back to ring 3."""
    return RESTORES[request.param]


@pytest.fixture(scope="session")
def native_signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle: a native program that tells what signals a piece of code gets from this Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "no C compiler for the native oracle"
    program = tmp_path_factory.mktemp("oracle") / "native_signals"
    source = __file__.replace("conftest.py", "native_signals.c")
    subprocess.run([compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True, timeout=60)
    return program
