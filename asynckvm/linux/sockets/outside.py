"""What leads out of a sandbox: the policy that is asked, the host sockets there may be, and the tasks that serve them.

Without a policy nothing leads out. A `Slot` is the place of one host socket, taken before the policy is asked, so that a guest
can have no more questions open than sockets. Whatever goes wrong with a policy is a refusal.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.sockets.policy import NetworkRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Literal

    from asynckvm.linux.sockets.address import Endpoint
    from asynckvm.linux.sockets.policy import Answer, Policy

SOCKETS: Final = 64
# How long a policy may think.
POLICY_SECONDS: Final = 10.0
# How long what was sent may take to leave when the sandbox is closed, and a policy to end when it is cancelled.
_FLUSH_SECONDS: Final = 1.0


class Failed(Protocol):
    """Told when a policy failed instead of answering."""

    def __call__(self, request: NetworkRequest, error: Exception) -> None: ...


class Destination(NamedTuple):
    """Where a host socket goes."""

    family: int
    address: tuple[str, int]


class Slot:
    """The place of one host socket, until `close`."""

    def __init__(self, outside: Outside, answer: Destination | asyncio.Future[Destination | None]) -> None:
        self._outside: Outside | None = outside
        self._answer = answer
        outside.used += 1

    @property
    def destination(self) -> Destination | None:
        """Where it leads, if that is known at once."""
        return self._answer if isinstance(self._answer, Destination) else None

    async def resolve(self) -> Destination:
        """EACCES when the policy refuses."""
        if isinstance(self._answer, Destination):
            return self._answer
        destination = await self._answer
        if destination is None:
            raise SyscallError(errno.EACCES)
        return destination

    def close(self) -> None:
        """Give the place back. Idempotent."""
        if self._outside is not None:
            self._outside.used -= 1
            self._outside = None
            if not isinstance(self._answer, Destination):
                self._answer.cancel()


class Outside:
    """`limit` bounds the host sockets that exist at a time; `patience` is how many seconds a policy has."""

    def __init__(
        self,
        policy: Policy | None = None,
        failed: Failed | None = None,
        *,
        limit: int = SOCKETS,
        patience: float = POLICY_SECONDS,
    ) -> None:
        self.used = 0
        self._policy = policy
        self._failed = failed
        self._limit = limit
        self._patience = patience
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def has_policy(self) -> bool:
        return self._policy is not None

    def ask(self, action: Literal["connect", "send"], protocol: Literal["tcp", "udp"], endpoint: Endpoint) -> Slot:
        """ENETUNREACH when there is nobody to ask, ENOBUFS when there are too many host sockets, EACCES when it is refused."""
        if self._policy is None:
            raise SyscallError(errno.ENETUNREACH)
        if self.used >= self._limit:
            raise SyscallError(errno.ENOBUFS)
        host = endpoint.host[12:] if endpoint.is_v4 else endpoint.host
        request = NetworkRequest(action, protocol, ipaddress.ip_address(host), endpoint.port)
        try:
            answer = self._policy(request)
            if inspect.isawaitable(answer):
                return Slot(self, self._later(request, answer))
            destination = _destination(request, answer)
        except Exception as error:  # noqa: BLE001  a policy is somebody else's code
            self._report(request, error)
            destination = None
        if destination is None:
            raise SyscallError(errno.EACCES)
        return Slot(self, destination)

    def _later(self, request: NetworkRequest, answer: Awaitable[Answer]) -> asyncio.Future[Destination | None]:
        async def wait() -> Destination | None:
            try:
                async with asyncio.timeout(self._patience):
                    return _destination(request, await answer)
            except Exception as error:  # noqa: BLE001
                self._report(request, error)
                return None

        deciding = asyncio.ensure_future(wait())
        self._keep(deciding)
        if inspect.iscoroutine(answer):
            # It may be cancelled before it began.
            deciding.add_done_callback(lambda _: answer.close())
        return deciding

    def _report(self, request: NetworkRequest, error: Exception) -> None:
        if self._failed is not None:
            self._failed(request, error)

    # ------------------------------------------------------------ tasks

    def start(self, work: Coroutine[None, None, None], end: Callable[[], None]) -> asyncio.Future[None]:
        """Serve a host socket; `end` is called in every case. What it raises is a defect, for the loop's exception handler."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: end())
        self._keep(task)
        return task

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """When every guest socket is closed: what was sent may still leave, then everything ends. Bounded."""
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_FLUSH_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FLUSH_SECONDS)


def _destination(request: NetworkRequest, answer: Answer) -> Destination | None:
    """None for a refusal. ValueError, TypeError for what is no answer."""
    if answer is True:
        return Destination(request.family, (str(request.address), request.port))
    if answer is False:
        return None
    host, port = answer
    address = ipaddress.ip_address(host)
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"not a port: {port}")
    return Destination(socket.AF_INET if address.version == 4 else socket.AF_INET6, (str(address), port))
