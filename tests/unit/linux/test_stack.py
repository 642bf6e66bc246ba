"""The initial stack, read back the way a C library's start-up code reads it."""

import errno
import struct

import pytest

from asynckvm.linux.stack import ArgumentsTooLongError, Auxiliary, InitialStack, build, check_lengths

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
    stack = build(TOP, arguments, environment, b"/bin/a", {Auxiliary.PAGESZ: 4096, Auxiliary.UID: 7}, RANDOM)
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
    assert stack.auxiliary in stack.data
    for (start, end), texts in ((stack.arguments, arguments), (stack.environment, environment)):
        assert stack.data[start - stack.pointer : end - stack.pointer] == b"".join(text + b"\0" for text in texts)


def test_arguments_and_environment_are_one_piece_below_the_name() -> None:
    data = build(TOP, [b"a", b"b"], [b"C=d"], b"name", {}, RANDOM).data
    assert data.endswith(b"a\0b\0C=d\0name\0" + bytes(8))


def test_what_linux_refuses_is_refused() -> None:
    check_lengths([b"x" * (131072 - 1)], [], b"n")
    with pytest.raises(ArgumentsTooLongError, match="131072"):
        check_lengths([b"x" * 131072], [], b"n")
    with pytest.raises(ArgumentsTooLongError) as caught:
        check_lengths([b"x" * 100_000] * 22, [], b"n")
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(ValueError, match="NUL"):
        check_lengths([b"a\0b"], [], b"n")


@pytest.mark.parametrize(
    ("limit", "allowed"), [(8 << 20, 2 << 20), (1 << 20, 256 << 10), (0, 128 << 10), (1 << 30, 6 << 20), ((1 << 64) - 1, 6 << 20)]
)
def test_the_bound_follows_the_stack_limit(limit: int, allowed: int) -> None:
    """Strings with their ends, the name included, and eight bytes for each pointer."""
    count = allowed // 1024 - 1
    rest = allowed - count * 1024 - 2
    check_lengths([b"x" * 1015] * count + [b"y" * (rest - 9)], [], b"n", limit)
    with pytest.raises(ArgumentsTooLongError):
        check_lengths([b"x" * 1015] * count, [b"y" * (rest - 8)], b"n", limit)


def test_the_vector_is_in_the_order_of_linux() -> None:
    stack = build(TOP, [b"a"], [], b"n", dict.fromkeys((Auxiliary.ENTRY, Auxiliary.HWCAP2, Auxiliary.HWCAP), 1), RANDOM)
    keys = [key for key, _ in struct.iter_unpack("<QQ", stack.auxiliary)]
    assert keys == [16, 9, 25, 26, 31, 15, 0]
