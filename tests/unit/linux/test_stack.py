"""The initial stack, read back the way a C library's start-up code reads it."""

import struct

import pytest

from asynckvm.linux.stack import ArgumentsTooLongError, Auxiliary, InitialStack, build

TOP = 0x7FFF_FFFF_F000
RANDOM = bytes(range(16))


class Reader:
    """Follows pointers into an InitialStack."""

    def __init__(self, stack: InitialStack) -> None:
        self.stack = stack
        self.position = stack.pointer

    def word(self) -> int:
        (value,) = struct.unpack_from("<Q", self.stack.data, self.position - self.stack.pointer)
        self.position += 8
        return int(value)

    def string(self, address: int) -> bytes:
        data = self.stack.data[address - self.stack.pointer :]
        return data[: data.index(b"\0")]

    def strings(self) -> list[bytes]:
        found = []
        while address := self.word():
            found.append(self.string(address))
        return found

    def vector(self) -> dict[int, int]:
        found: dict[int, int] = {}
        while key := self.word():
            assert key not in found
            found[key] = self.word()
        return found


@pytest.mark.parametrize("arguments", [[b"a"], [b"a", b"", b"b c"], [b"x" * n for n in range(1, 40)]])
@pytest.mark.parametrize("environment", [[], [b"A=1"], [b"A=1", b"LONG=" + b"y" * 5000]])
def test_a_start_up_finds_everything(arguments: list[bytes], environment: list[bytes]) -> None:
    stack = build(TOP, arguments, environment, b"/bin/a", [(Auxiliary.PAGESZ, 4096), (Auxiliary.UID, 7)], RANDOM)
    assert stack.pointer % 16 == 0
    assert stack.pointer + len(stack.data) == TOP
    reader = Reader(stack)
    assert reader.word() == len(arguments)
    assert reader.strings() == arguments
    assert reader.strings() == environment
    vector = reader.vector()
    assert vector[Auxiliary.PAGESZ] == 4096
    assert vector[Auxiliary.UID] == 7
    assert reader.string(vector[Auxiliary.EXECFN]) == b"/bin/a"
    assert reader.string(vector[Auxiliary.PLATFORM]) == b"x86_64"
    at = vector[Auxiliary.RANDOM] - stack.pointer
    assert stack.data[at : at + 16] == RANDOM


def test_arguments_and_environment_are_one_piece_below_the_name() -> None:
    data = build(TOP, [b"a", b"b"], [b"C=d"], b"name", [], RANDOM).data
    assert data.endswith(b"a\0b\0C=d\0name\0" + bytes(8))


def test_what_linux_refuses_is_refused() -> None:
    assert build(TOP, [b"x" * (131072 - 1)], [], b"n", [], RANDOM)
    with pytest.raises(ArgumentsTooLongError, match="131072"):
        build(TOP, [b"x" * 131072], [], b"n", [], RANDOM)
    with pytest.raises(ArgumentsTooLongError):
        build(TOP, [b"x" * 100_000] * 22, [], b"n", [], RANDOM)
    with pytest.raises(ValueError, match="NUL"):
        build(TOP, [b"a\0b"], [], b"n", [], RANDOM)
