"""What one switch costs in Python: drain, decode, exit value, scheduler, resuming the coroutine and submitting again.

Not a test but a measurement, run as `python -m sim.switch_cost [--profile]` from tests/. The vCPUs are a few lines of C,
compiled on the spot, that complete every context the moment it is submitted: all that is left is this side.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import importlib.util
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cffi
import uvloop
from unit.platform.fake_core import FakeCore

from asynckvm.platform import EngineConfig, Machine

if TYPE_CHECKING:
    from asynckvm.platform import Context

BATCH = 50
C_CODE = """
#include <stdint.h>
struct head { uint64_t words[26]; uint32_t kind, vector, error_code, detail, interrupts, reason; int32_t host_errno;
              uint32_t vcpu, index, generation, restore, submitted; };
static uint32_t ring[1 << 16];
static uint32_t head_, tail_;
static int submit(void *context, uint32_t vcpu)
{
    struct head *it = context;
    it->words[0] = 39; it->words[21] = 1000; it->words[16] += 2;
    it->kind = 1; it->vector = 256; it->vcpu = vcpu; it->generation++;
    ring[tail_++ & 0xffff] = it->index;
    return 0;
}
static uint32_t drain(void *machine, uint32_t *indices, uint32_t max)
{
    uint32_t count = 0;
    (void)machine;
    while (count < max && head_ != tail_)
        indices[count++] = ring[head_++ & 0xffff];
    return count;
}
static int ready(void *machine) { (void)machine; return head_ != tail_; }
"""
DECLARATIONS = """
int submit(void *context, uint32_t vcpu);
uint32_t drain(void *machine, uint32_t *indices, uint32_t max);
int ready(void *machine);
"""


def instant_vcpus() -> Any:
    """The C part, as a compiled module."""
    builder = cffi.FFI()
    builder.cdef(DECLARATIONS)
    builder.set_source("_instant", C_CODE, extra_compile_args=["-O2"])
    with tempfile.TemporaryDirectory() as folder:
        path = builder.compile(tmpdir=folder)
        spec = importlib.util.spec_from_file_location("_instant", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.lib


async def measure(vcpus: int, count: int, rounds: int, *, profile: bool) -> list[float]:
    """Microseconds of processor time a switch, for each round of BATCH switches of every context."""
    core = FakeCore(vcpus=vcpus)
    binding = core.binding()
    machine = await Machine.open(vcpus=vcpus, memory=2 << 20, contexts=count, binding=binding, engine=EngineConfig(spin_ns=0))
    instant = instant_vcpus()
    engine = machine._engine
    engine._native_submit, engine._native_drain = instant.submit, instant.drain
    engine.doorbell._arm = instant.ready
    space = machine.create_address_space()
    contexts = [machine.create_context(space) for _ in range(count)]

    async def guest(context: Context, switches: int) -> None:
        words = context.words
        for _ in range(switches):
            exit_ = await context.switch()
            words[0] = exit_.number + 1  # type: ignore[union-attr]

    profiler = cProfile.Profile()
    results = []
    for number in range(rounds):
        if profile and number == rounds - 1:
            profiler.enable()
        began = time.process_time()
        await asyncio.gather(*(guest(context, BATCH) for context in contexts))
        results.append((time.process_time() - began) / BATCH / count * 1e6)
        profiler.disable()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)
    for context in contexts:
        context.close()
    space.close()
    await machine.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--contexts", type=int, default=1000)
    parser.add_argument("--vcpus", type=int, default=2)
    arguments = parser.parse_args()
    for name, run in (("uvloop", uvloop.run), ("asyncio", asyncio.run)):
        results = run(measure(arguments.vcpus, arguments.contexts, 20, profile=arguments.profile and name == "uvloop"))
        where = Path(name)
        print(f"{where}: median {statistics.median(results):.2f} us, best {min(results):.2f} us a switch")


if __name__ == "__main__":
    main()
