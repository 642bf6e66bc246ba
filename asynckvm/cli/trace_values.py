"""What the pointers of a traced system call lead to, as far as it makes a trace readable: paths, buffers, the words of execve(2).

A program may point anywhere: what cannot be read is shown as the number it is. Source: strace(1) for the notation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.cli.trace_symbols import SYMBOLS
from asynckvm.errors import GuestError, UsageError
from asynckvm.linux.syscalls.call import PATH

if TYPE_CHECKING:
    from asynckvm.linux.syscalls.call import Call
    from asynckvm.platform import AddressSpace

_SHOWN: Final = 32
_WORDS: Final = 16
_WORD_BYTES: Final = 4096
# The place of a buffer among the arguments: what the program gives (its length is the next argument), and what it gets (its
# length is the result).
_GIVEN: Final = {"write": 1, "pwrite64": 1, "sendto": 1}
_GOT: Final = {"read": 1, "pread64": 1, "recvfrom": 1, "readlink": 1, "readlinkat": 2, "getcwd": 0, "getrandom": 0}


def quoted(data: bytes, *, more: bool = False) -> str:
    """As a string of C."""
    text = "".join(_ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:o}") for byte in data)
    return f'"{text}"' + ("..." if more else "")


_ESCAPES: Final = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}


def before(space: AddressSpace, call: Call, args: tuple[int, ...]) -> list[str]:
    """The arguments of a call that begins."""
    symbols = SYMBOLS.get(call.name, ())
    shown = []
    for place, (kind, value) in enumerate(zip(call.kinds, args, strict=False)):
        symbol = symbols[place] if place < len(symbols) else None
        try:
            if _GIVEN.get(call.name) == place:
                shown.append(_buffer(space, value, args[place + 1]))
            elif call.name == "execve" and place == 1:
                shown.append(_words(space, value))
            elif kind is PATH:
                shown.append(quoted(kind.decode(space, value)))
            else:
                decoded = kind.decode(space, value)
                shown.append(symbol(decoded) if symbol is not None else kind.show(decoded))
        except (GuestError, UsageError):
            shown.append(hex(value))
    if call.name in ("open", "openat") and not {"O_CREAT", "O_TMPFILE"} & set(shown[-2].split("|")):
        shown.pop()  # a mode nobody looks at
    return shown


def after(space: AddressSpace, call: Call, args: tuple[int, ...], shown: list[str], result: int) -> list[str]:
    """With what the call has written."""
    place = _GOT.get(call.name)
    if place is not None and result > 0:
        try:
            shown[place] = _buffer(space, args[place], result)
        except (GuestError, UsageError):
            return shown
    return shown


def _buffer(space: AddressSpace, address: int, length: int) -> str:
    return quoted(space.read(address, min(length, _SHOWN)), more=length > _SHOWN) if length else '""'


def _words(space: AddressSpace, address: int) -> str:
    words: list[str] = []
    for place in range(_WORDS):
        pointer = int.from_bytes(space.read(address + 8 * place, 8), "little")
        if not pointer:
            break
        words.append(quoted(space.read_string(pointer, _WORD_BYTES)))
    else:
        words.append("...")
    return f"[{', '.join(words)}]"
