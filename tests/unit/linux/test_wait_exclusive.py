"""Wait queues: who is woken when one of several waiters is enough."""

from __future__ import annotations

from asynckvm.linux.wait import POLLIN, WaitQueue


class Waiter:
    """Notes what it is told; `sees` whether it sees to it."""

    def __init__(self, *, sees: bool) -> None:
        self.sees = sees
        self.told: list[int] = []

    def plain(self, events: int) -> None:
        self.told.append(events)

    def exclusive(self, events: int) -> bool:
        self.told.append(events)
        return self.sees


def test_all_plain_waiters_and_one_exclusive_one_are_woken() -> None:
    queue = WaitQueue()
    plain = [Waiter(sees=True), Waiter(sees=True)]
    idle, first, second = Waiter(sees=False), Waiter(sees=True), Waiter(sees=True)
    for waiter in (idle, first, second):
        queue.watch_exclusively(waiter.exclusive)
    for waiter in plain:
        queue.watch(waiter.plain)
    assert len(queue) == 5
    queue.wake(POLLIN)
    assert [waiter.told for waiter in (*plain, idle, first, second)] == [[POLLIN], [POLLIN], [POLLIN], [POLLIN], []]


def test_the_next_one_is_asked_when_the_first_has_gone() -> None:
    queue = WaitQueue()
    first, second = Waiter(sees=True), Waiter(sees=True)
    queue.watch_exclusively(first.exclusive)
    queue.watch_exclusively(second.exclusive)
    queue.unwatch_exclusively(first.exclusive)
    queue.unwatch_exclusively(first.exclusive)
    queue.wake()
    assert (len(first.told), len(second.told), len(queue)) == (0, 1, 1)
