"""What happens when a test's time is up: everything that can be told is told, and the test ends whatever loop it runs on.

pytest-timeout raises from its signal handler. uvloop swallows that when it is idle, which is how async tests hang, so then
the test's task is cancelled instead, and the test counts as failed however it takes that.
"""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# A test that survives its cancellation is cancelled again after this long.
AGAIN_SECONDS = 5
_verdict = pytest.StashKey[str]()


def dump_of_open_machines() -> str:
    """What every machine that is open now has to say about itself; empty when there is none."""
    platform = sys.modules.get("asynckvm.platform")
    if platform is None:
        return ""
    dumps = []
    for machine in list(platform.open_machines()):
        try:
            dumps.append(str(machine.dump()))
        except Exception as error:  # noqa: BLE001  a dump that fails must not hide the failure it was asked for
            dumps.append(f"{machine!r}: dump() failed: {error!r}")
    return "\n\n".join(dumps)


def stacks(tasks: set[asyncio.Task[Any]]) -> str:
    """Where each task waits."""
    text = io.StringIO()
    for task in tasks:
        task.print_stack(file=text)
    return text.getvalue()


def handler(item: pytest.Item, seconds: float, fail: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    """The SIGALRM handler of one test; `fail` is pytest-timeout's own, which raises."""

    def time_is_up(signum: int, frame: Any) -> None:
        if text := dump_of_open_machines():
            item.add_report_section("call", "machines at the timeout", text)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            fail(signum, frame)
            return
        if asyncio.current_task(loop) is not None:
            fail(signum, frame)
            return
        tasks = asyncio.all_tasks(loop)
        item.add_report_section("call", "tasks at the timeout", stacks(tasks))
        item.stash[_verdict] = f"Timeout (>{seconds}s): the event loop was idle; see the tasks and machines below"
        name = getattr(item, "originalname", item.name)
        for task in [task for task in tasks if getattr(task.get_coro(), "__name__", "") == name] or tasks:
            loop.call_soon_threadsafe(task.cancel, item.stash[_verdict])  # thread-safe: it wakes a loop that sleeps in select
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    return time_is_up


def judge(item: pytest.Item, report: pytest.TestReport) -> None:
    """A test that was cancelled because its time was up has failed, even when it ended well."""
    verdict = item.stash.get(_verdict, None)
    if verdict is not None:
        del item.stash[_verdict]
        report.outcome = "failed"
        report.longrepr = verdict
