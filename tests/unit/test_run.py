"""`run` is uvloop's."""

import asyncio

import uvloop

from asynckvm.run import run


async def which() -> tuple[asyncio.AbstractEventLoop, bool]:
    loop = asyncio.get_running_loop()
    return loop, loop.get_debug()


def test_runs_on_uvloop() -> None:
    loop, debug = run(which(), debug=True)
    assert isinstance(loop, uvloop.Loop)
    assert debug
    assert loop.is_closed()
