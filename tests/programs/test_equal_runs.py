"""The same program natively and in a sandbox: equal output, equal errors, equal status."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from asynckvm.linux.streams import Capture
from asynckvm.platform import Machine
from asynckvm.sandbox import Sandbox

Native: TypeAlias = Callable[..., Any]
Inside: TypeAlias = Callable[..., Awaitable[Any]]
Build: TypeAlias = Callable[..., Path]
KINDS = ("glibc", "glibc-pie", "musl")

APPLETS = [
    ["echo", "hello", "-n", "world"],
    ["echo", "-e", r"a\tb\n\x41"],
    ["true"],
    ["false"],
    ["cat", "text"],
    ["cat", "text", "missing", "link"],
    ["cat", "folder"],
    ["sha256sum", "big", "text"],
    ["md5sum", "link"],
    ["sha512sum", "missing"],
    ["ls"],
    ["ls", "-l"],
    ["ls", "-laR", "folder"],
    ["ls", "-i", "folder"],
    ["ls", "-ln", "/usr/bin"],
    ["ls", "missing"],
    ["sort", "text"],
    ["sort", "-r", "text"],
    ["wc", "text", "big"],
    ["wc", "-l"],
    ["head", "-n", "1", "text"],
    ["tail", "-n", "1", "text"],
    ["grep", "-n", "second", "text"],
    ["grep", "nothing", "text"],
    ["find", "."],
    ["stat", "-c", "%n %s %F %h %a", "text", "folder", "link"],
    ["readlink", "link"],
    ["readlink", "-f", "link"],
    ["pwd"],
    ["printenv", "TEST"],
    ["env"],
    ["id"],
    ["uname", "-s", "-m"],
    ["seq", "1", "20000"],
    ["awk", "{ n += length($0) } END { print n, NR }", "text"],
    ["sed", "s/line/LINE/g", "text"],
    ["cut", "-c", "1-5", "text"],
    ["od", "-c", "text"],
    ["gzip", "-c", "text"],
    ["sleep", "0.01"],
    ["expr", "6", "*", "7"],
    ["sh", "-c", "for i in 1 2 3; do echo $i; done; cd folder; echo *; exit 9"],
    ["no-such-applet"],
]


@pytest.mark.parametrize("arguments", APPLETS, ids=" ".join)
async def test_busybox(arguments: list[str], busybox: Path, native: Native, inside: Inside) -> None:
    argv = [str(busybox), *arguments]
    stdin = b"some\ninput\n"
    assert await inside(argv, stdin) == native(argv, stdin)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["basics", "calls"])
async def test_c_programs(source: str, kind: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build(source, kind)), "one", "", "three and a half"]
    assert await inside(argv) == native(argv)


WAYS = [
    "null", "read-only", "no-execute", "kernel", "non-canonical", "past-file", "stack-overflow", "divide", "illegal",
    "privileged", "breakpoint", "port", "abort", "terminate", "real-time", "exit", "exit-large", "return",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_end(way: str, build: Build, native: Native, inside: Inside) -> None:
    argv = [str(build("deaths")), way]
    assert await inside(argv) == native(argv)


async def test_nothing_is_written_to_the_host(busybox: Path, inside: Inside, folder: Path) -> None:
    for arguments in (["touch", "new"], ["mkdir", "new"], ["rm", "text"], ["mv", "text", "new"], ["sh", "-c", "echo > text"]):
        result = await inside([str(busybox), *arguments])
        assert result.returncode != 0
        assert b"Read-only file system" in result.stderr
    assert sorted(os.listdir(folder)) == ["big", "folder", "link", "text"]
    assert (folder / "text").read_text().startswith("first line")


async def test_much_output_through_a_pipe(build: Build, native: Native, sandbox: Sandbox) -> None:
    """Bounded by its reader, with the loop free for others, and not a byte lost."""
    argv = [str(build("flood")), "32"]
    reading, writing = os.pipe()
    task = asyncio.create_task(sandbox.run(argv, stdout=writing))
    # The run has a description of its own as soon as it has begun.
    await asyncio.sleep(0)
    os.close(writing)
    digest = await asyncio.to_thread(_digest, reading)
    assert (await task).returncode == 0
    assert digest == hashlib.sha256(native(argv).stdout).hexdigest()


def _digest(fd: int) -> str:
    digest = hashlib.sha256()
    with open(fd, "rb", buffering=0) as file:
        while data := file.read(1 << 16):
            digest.update(data)
    return digest.hexdigest()


async def test_input_that_comes_late(busybox: Path, sandbox: Sandbox) -> None:
    reading, writing = os.pipe()
    out = Capture()
    task = asyncio.create_task(sandbox.run([str(busybox), "cat"], input=reading, stdout=out))
    for piece in (b"one\n", b"two\n"):
        os.write(writing, piece)
        async with asyncio.timeout(20):
            while not out.data.endswith(piece):
                await asyncio.sleep(0.001)
    os.close(writing)
    assert (await task).returncode == 0
    os.close(reading)
    assert bytes(out.data) == b"one\ntwo\n"


async def test_many_at_once(build: Build, busybox: Path, native: Native, inside: Inside, machine: Machine) -> None:
    """Sixty programs on two vCPUs, a third of them dying: each as if it were alone."""
    commands = [[str(busybox), "sha256sum", "big"], [str(build("deaths")), "null"], [str(build("calls")), "x"]]
    expected = [native(argv) for argv in commands]
    async with asyncio.timeout(50):
        found = await asyncio.gather(*(inside(argv) for argv in commands * 20))
    assert found == expected * 20
    assert machine.counters().contexts == 0


async def test_more_memory_than_there_is(build: Build, inside: Inside) -> None:
    """Programs that together want more than the machine has: some are killed, none is damaged, and all memory comes back."""
    async with asyncio.timeout(50):
        found = await asyncio.gather(*(inside([str(build("basics"))]) for _ in range(8)))
    assert {result.returncode for result in found} <= {42, -9}
    assert len({result.stdout for result in found if result.returncode == 42}) <= 1
    assert (await inside([str(build("basics"))])).returncode == 42


async def test_cancelling_ends_exactly_one(build: Build, sandbox: Sandbox, machine: Machine) -> None:
    spin = str(build("spin"))
    outs = [Capture(), Capture(), Capture()]
    tasks = [asyncio.create_task(sandbox.run([spin], stdout=out)) for out in outs]
    async with asyncio.timeout(20):
        while not all(out.data for out in outs):
            await asyncio.sleep(0.001)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert not tasks[0].done()
        assert not tasks[2].done()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tasks[0]
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
    assert machine.counters().contexts == 0
