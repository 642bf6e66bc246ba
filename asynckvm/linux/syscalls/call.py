"""What one entry of the system call table is: number, name, argument kinds, handler.

The kinds serve decoding (a register becomes what its C type says), tracing and the coverage report alike. No call lives here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from asynckvm.errors import GuestError
from asynckvm.linux.vfs import PATH_MAX

if TYPE_CHECKING:
    from asynckvm.platform import AddressSpace

# Handlers take the calling Task and the decoded arguments and return the result, or raise SyscallError. Those that may wait
# are `async def`.
Handler: TypeAlias = Callable[..., int | Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of an argument register is read, and how it is shown in a trace."""

    decode: Callable[[AddressSpace, int], Any]
    show: Callable[[Any], str] = str


def _signed(bits: int) -> Callable[[AddressSpace, int], int]:
    sign, mask = 1 << (bits - 1), (1 << bits) - 1
    return lambda _, value: ((value & mask) ^ sign) - sign


def _unsigned(bits: int) -> Callable[[AddressSpace, int], int]:
    mask = (1 << bits) - 1
    return lambda _, value: value & mask


def _register(_: AddressSpace, value: int) -> int:
    """The whole register, as the platform tells it."""
    return value


def _path(space: AddressSpace, address: int) -> bytes:
    path: bytes = space.read_string(address, PATH_MAX - 1)
    return path


INT: Final = Kind(_signed(32))
UINT: Final = Kind(_unsigned(32))
LONG: Final = Kind(_signed(64))
SIZE: Final = Kind(_register)
FLAGS: Final = Kind(_unsigned(32), hex)
LONG_FLAGS: Final = Kind(_register, hex)
POINTER: Final = Kind(_register, lambda value: hex(value) if value else "NULL")
FD: Final = INT
PATH: Final = Kind(_path, repr)


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `constant`: its answer never changes during a process's life, so the platform may give it."""

    number: int
    name: str
    kinds: tuple[Kind, ...]
    handler: Handler
    constant: bool = False
    # What is to be decoded, by its place: most registers are arguments as they are.
    _steps: tuple[tuple[int, Callable[[AddressSpace, int], Any]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        steps = tuple((place, kind.decode) for place, kind in enumerate(self.kinds) if kind.decode is not _register)
        object.__setattr__(self, "_steps", steps)

    def decode(self, space: AddressSpace, args: tuple[int, ...]) -> list[Any]:
        """The handler's arguments. Raises GuestMemoryError or GuestStringError for a bad path."""
        values: list[Any] = list(args[: len(self.kinds)])
        for place, decode in self._steps:
            values[place] = decode(space, values[place])
        return values

    def show(self, space: AddressSpace, args: tuple[int, ...]) -> str:
        """The call as a line of a trace: openat(-100, b'/etc/passwd', 0x0, 0)."""
        shown = []
        for kind, value in zip(self.kinds, args, strict=False):
            try:
                shown.append(kind.show(kind.decode(space, value)))
            except GuestError:
                shown.append(hex(value))
        return f"{self.name}({', '.join(shown)})"
