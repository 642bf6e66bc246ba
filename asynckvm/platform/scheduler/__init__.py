"""The deciding part: which context runs on which vCPU, and when it must leave. Pure: time comes in, commands go out.

`Scheduler.step(now_ns, events) -> commands` is all the engine calls; `messages` names what may be said in both directions. No
clock, no I/O, no asyncio and no native code may be imported by any module of this package, so that a simulator can run it for
millions of turns from a seed.
"""

from asynckvm.platform.scheduler.ledger import Fairness
from asynckvm.platform.scheduler.policy import Scheduler

__all__ = ["Fairness", "Scheduler"]
