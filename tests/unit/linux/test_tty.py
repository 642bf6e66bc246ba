"""The line discipline: lines, editing, echo, signals, raw input with its counts and times, and what output becomes."""

from __future__ import annotations

import dataclasses
import os
import pty
import signal
import termios as host
import time
from collections.abc import Iterator
from typing import Any

import pytest

from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.discipline import INPUT_MAX, Discipline
from asynckvm.linux.tty.output import OUTPUT_MAX, Output
from asynckvm.linux.tty.termios import Termios, WindowSize

ERASE, KILL, WORD, END, NEXT, REPRINT, START, STOP = b"\x7f", b"\x15", b"\x17", b"\x04", b"\x16", b"\x12", b"\x11", b"\x13"
RAW = {"iflag": 0, "oflag": 0, "lflag": 0}


class Keyboard:
    """A discipline, what it shows, and the signals it sent."""

    def __init__(self, **changes: Any) -> None:
        self.signals: list[int] = []
        self.output = Output(lambda: None)
        self.discipline = Discipline(self.output, self.signals.append)
        self.change(**changes)

    def change(self, **changes: Any) -> None:
        termios = dataclasses.replace(self.discipline.termios, **changes)
        self.discipline.set_termios(termios)
        self.output.termios = termios

    def control(self, index: int, value: int) -> None:
        cc = bytearray(self.discipline.termios.cc)
        cc[index] = value
        self.change(cc=bytes(cc))

    def type(self, data: bytes) -> bytes:
        """What is shown of it."""
        assert self.discipline.receive(data) == len(data)
        return self.output.take(1 << 20)

    def read(self, length: int = 1000) -> bytes:
        return self.discipline.take(length)


@pytest.fixture
def keyboard() -> Keyboard:
    return Keyboard()


class TestLines:
    def test_nothing_can_be_read_before_the_line_ends(self, keyboard: Keyboard) -> None:
        assert keyboard.type(b"ab") == b"ab"
        assert not keyboard.discipline.has_line
        assert keyboard.type(b"c\r") == b"c\r\n"
        assert keyboard.read() == b"abc\n"
        assert not keyboard.discipline.has_line

    def test_one_read_gives_one_line(self, keyboard: Keyboard) -> None:
        keyboard.type(b"one\ntwo\n")
        assert [keyboard.read(2), keyboard.read(), keyboard.read()] == [b"on", b"e\n", b"two\n"]

    def test_an_end_of_file(self, keyboard: Keyboard) -> None:
        assert keyboard.type(b"ab" + END) == b"ab"
        assert keyboard.read() == b"ab"
        assert not keyboard.discipline.has_line
        keyboard.type(END)
        assert keyboard.discipline.has_line
        assert keyboard.read() == b""
        assert not keyboard.discipline.has_line

    def test_ends_of_file_have_a_bound(self, keyboard: Keyboard) -> None:
        assert keyboard.discipline.receive(END * 10_000) == INPUT_MAX
        assert keyboard.discipline.room == 0
        assert keyboard.read() == b""
        assert keyboard.discipline.receive(END * 10) == 1

    def test_a_line_that_is_too_long_loses_its_end(self, keyboard: Keyboard) -> None:
        keyboard.type(b"x" * 5000)
        keyboard.type(b"\n")
        assert keyboard.read(10_000) == b"x" * INPUT_MAX + b"\n"

    def test_other_ends_of_lines(self, keyboard: Keyboard) -> None:
        keyboard.control(t.VEOL, ord(";"))
        keyboard.control(t.VEOL2, ord("|"))
        keyboard.type(b"a;b|")
        assert [keyboard.read(), keyboard.read()] == [b"a;", b"b|"]

    @pytest.mark.parametrize(
        ("flag", "typed", "read"),
        [
            (t.ICRNL, b"a\r\n", b"a\n"),
            (t.IGNCR, b"a\r\n", b"a\n"),
            (t.INLCR | t.ICRNL, b"a\r", b"a\n"),
            (0, b"a\rb\n", b"a\rb\n"),
        ],
    )
    def test_returns_and_newlines(self, keyboard: Keyboard, flag: int, typed: bytes, read: bytes) -> None:
        keyboard.change(iflag=flag)
        keyboard.type(typed)
        assert keyboard.read() == read

    def test_seven_bits_and_small_letters(self, keyboard: Keyboard) -> None:
        keyboard.change(iflag=t.ISTRIP | t.IUCLC)
        keyboard.type(b"A\xc2\n")
        assert keyboard.read() == b"ab\n"

    def test_what_was_typed_under_the_other_rule_is_kept(self, keyboard: Keyboard) -> None:
        lflag = keyboard.discipline.termios.lflag
        keyboard.type(b"one\ntw")
        keyboard.change(lflag=lflag & ~t.ICANON)
        assert keyboard.discipline.available == 6
        assert keyboard.read(5) == b"one\nt"
        keyboard.change(lflag=lflag)
        assert keyboard.read() == b"w"
        assert keyboard.discipline.room == INPUT_MAX


class TestEditing:
    @pytest.mark.parametrize(
        ("typed", "shown", "read"),
        [
            (b"ab" + ERASE + b"c\n", b"ab\b \bc\r\n", b"ac\n"),
            (ERASE + b"\n", b"\r\n", b"\n"),
            (b"a\x01" + ERASE + b"\n", b"a^A\b \b\b \b\r\n", b"a\n"),
            (b"abc" + KILL + b"d\n", b"abc" + b"\b \b" * 3 + b"d\r\n", b"d\n"),
            (b"one two  " + WORD + b"\n", b"one two  " + b"\b \b" * 5 + b"\r\n", b"one \n"),
            (b"a\t" + ERASE + b"\n", b"a\t" + b"\b" * 7 + b"\r\n", b"a\n"),
            (NEXT + END + b"\n", b"^\b^D\r\n", END + b"\n"),
            (b"a" + NEXT + b"\x03\n", b"a^\b^C\r\n", b"a\x03\n"),
            (b"ab" + REPRINT + b"\n", b"ab^R\r\nab\r\n", b"ab\n"),
        ],
    )
    def test_a_line(self, keyboard: Keyboard, typed: bytes, shown: bytes, read: bytes) -> None:
        assert keyboard.type(typed) == shown
        assert keyboard.read() == read

    def test_a_character_of_several_bytes(self, keyboard: Keyboard) -> None:
        keyboard.change(iflag=t.ICRNL | t.IUTF8)
        assert keyboard.type("aé".encode() + ERASE + b"\n") == "aé".encode() + b"\b \b\r\n"
        assert keyboard.read() == b"a\n"

    def test_a_disabled_character_is_like_any_other(self, keyboard: Keyboard) -> None:
        keyboard.control(t.VERASE, 0)
        keyboard.type(b"a" + ERASE + b"\0\n")
        assert keyboard.read() == b"a" + ERASE + b"\0\n"

    def test_a_killed_line_on_paper(self, keyboard: Keyboard) -> None:
        keyboard.change(lflag=keyboard.discipline.termios.lflag & ~t.ECHOKE)
        assert keyboard.type(b"ab" + KILL) == b"ab^U\r\n"

    def test_without_echo(self, keyboard: Keyboard) -> None:
        lflag = keyboard.discipline.termios.lflag & ~t.ECHO
        keyboard.change(lflag=lflag)
        assert keyboard.type(b"secret" + ERASE + b"\n") == b""
        assert keyboard.read() == b"secre\n"
        keyboard.change(lflag=lflag | t.ECHONL)
        assert keyboard.type(b"secret\n") == b"\r\n"

    def test_without_extensions(self, keyboard: Keyboard) -> None:
        keyboard.change(lflag=keyboard.discipline.termios.lflag & ~t.IEXTEN)
        keyboard.type(b"a" + WORD + b"\n")
        assert keyboard.read() == b"a" + WORD + b"\n"


class TestSignals:
    @pytest.mark.parametrize(("byte", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT), (b"\x1a", signal.SIGTSTP)])
    def test_a_character_sends_one_and_the_line_is_gone(self, keyboard: Keyboard, byte: bytes, number: int) -> None:
        keyboard.type(b"abc\nab")
        assert keyboard.type(byte) == b"^" + bytes((byte[0] ^ 0x40,))
        assert keyboard.signals == [number]
        assert not keyboard.discipline.has_line
        keyboard.type(b"\n")
        assert keyboard.read() == b"\n"

    def test_the_line_stays_with_noflsh(self, keyboard: Keyboard) -> None:
        keyboard.change(lflag=keyboard.discipline.termios.lflag | t.NOFLSH)
        keyboard.type(b"ab\x03\n")
        assert keyboard.read() == b"ab\n"

    def test_none_without_isig(self, keyboard: Keyboard) -> None:
        keyboard.change(lflag=keyboard.discipline.termios.lflag & ~t.ISIG)
        keyboard.type(b"\x03\n")
        assert keyboard.read() == b"\x03\n"
        assert keyboard.signals == []

    def test_stop_and_start(self, keyboard: Keyboard) -> None:
        assert keyboard.type(STOP) == b""
        assert keyboard.discipline.stopped
        keyboard.type(START)
        assert not keyboard.discipline.stopped
        keyboard.type(STOP + b"\x03")
        assert not keyboard.discipline.stopped
        keyboard.change(iflag=0)
        keyboard.type(STOP + b"\n")
        assert not keyboard.discipline.stopped
        assert keyboard.read() == STOP + b"\n"


class TestRaw:
    def test_every_byte_at_once(self) -> None:
        keyboard = Keyboard(**RAW)
        assert keyboard.type(b"a\r\x03\n\x04") == b""
        assert [keyboard.read(2), keyboard.read()] == [b"a\r", b"\x03\n\x04"]
        assert keyboard.discipline.room == INPUT_MAX

    def test_with_echo(self) -> None:
        keyboard = Keyboard(iflag=0, lflag=t.ECHO | t.ECHOCTL)
        assert keyboard.type(b"a\x01") == b"a^A"
        assert keyboard.read() == b"a\x01"

    def test_it_has_a_bound(self) -> None:
        for changes in (RAW, {"iflag": 0, "lflag": t.ISIG}):
            keyboard = Keyboard(**changes)
            taken = keyboard.discipline.receive(b"x" * 10_000)
            assert INPUT_MAX - 1 <= taken <= INPUT_MAX
            assert keyboard.discipline.receive(b"x") == 0
            assert len(keyboard.read(1 << 20)) == taken


class TestOutput:
    @pytest.mark.parametrize(
        ("oflag", "written", "shown"),
        [
            (t.OPOST | t.ONLCR, b"a\nb\n", b"a\r\nb\r\n"),
            (t.ONLCR, b"a\n", b"a\n"),
            (t.OPOST | t.OCRNL, b"a\r", b"a\n"),
            (t.OPOST | t.ONOCR, b"\ra\r", b"a\r"),
            (t.OPOST | t.OLCUC, b"aBz", b"ABZ"),
            (t.OPOST | t.ONLCR | t.TABDLY, b"a\tb\n\t", b"a       b\r\n        "),
            (t.OPOST | t.TABDLY | t.OLCUC, b"\xc3\xa9\tx", b"\xc3\xa9       X"),
        ],
    )
    def test_line_ends_and_tabs(self, oflag: int, written: bytes, shown: bytes) -> None:
        output = Output(lambda: None)
        output.termios = Termios(oflag=oflag)
        assert output.write(written) == len(written)
        assert output.take(1000) == shown

    def test_the_column(self) -> None:
        output = Output(lambda: None)
        for written, column in [
            (b"abc", 3),
            (b"\t", 8),
            (b"\b\b", 6),
            (b"xy\nab", 2),
            (b"\r", 0),
            (b"\x1b\a", 0),
            (b"\xc3\xa9", 1),
        ]:
            output.write(written)
            assert output.column == column, written

    def test_it_has_a_bound(self) -> None:
        output = Output(lambda: None)
        written = 0
        while taken := output.write(b"\n" * 10_000):
            written += taken
        assert OUTPUT_MAX - 2 <= len(output) <= OUTPUT_MAX
        for _ in range(10_000):
            output.echo(b"^C")
        assert len(output) < OUTPUT_MAX + 5000
        assert len(output.take(1 << 20)) > written


def test_structures_are_those_of_the_host() -> None:
    master, slave = pty.openpty()
    try:
        mine = Termios.unpack(Termios().pack())
        theirs = host.tcgetattr(slave)
        assert theirs[:4] == [mine.iflag, mine.oflag, mine.cflag, mine.lflag]
        assert b"".join(value if isinstance(value, bytes) else bytes([value]) for value in theirs[6])[: len(mine.cc)] == mine.cc
    finally:
        os.close(master)
        os.close(slave)
    assert Termios.unpack(dataclasses.replace(mine, output_speed=9600).pack_2()).output_speed == 9600
    assert WindowSize.unpack(WindowSize(1, 2, 3, 4).pack()) == WindowSize(1, 2, 3, 4)
    assert (t.BYTES, t.BYTES_2, t.WINDOW_BYTES) == (36, 44, 8)


# ---------------------------------------------------------------- the same on the host's own terminal

TYPED = [
    b"hello world\r", b"ab" + ERASE + ERASE + ERASE + b"c\r", b"one two three" + WORD + b"x\r", b"abc" + KILL + b"def\r",
    b"a\tb" + ERASE + ERASE + b"\r", b"x\x01\x02" + ERASE + ERASE + b"y\r", NEXT + b"\x03" + NEXT + NEXT + b"\r",
    b"q" + REPRINT + b"r\r",
    b"end" + END, b"\x1b[A\x1b[B\r", b"tab\t\t" + KILL + b"z\r", b"foo_bar-baz" + WORD + b"\r", b"a \t " + WORD + b"\r",
    b"l1\nl2\rl3\r", b"\xc3\xa9\xff" + ERASE + b"\r",
]  # fmt: skip
SETTINGS = [
    {}, {"iflag": t.ICRNL | t.IUTF8}, {"lflag": t.ICANON | t.ECHO}, {"lflag": t.ICANON | t.ECHO | t.ECHOE | t.IEXTEN},
    {"lflag": t.ICANON | t.ECHONL}, {"oflag": 0}, {"iflag": t.INLCR}, {"lflag": t.ECHO | t.ECHOCTL | t.IEXTEN},
    {"oflag": t.OPOST | t.ONLCR | t.TABDLY}, {"lflag": t.ICANON | t.ECHO | t.ECHOE | t.ECHOK | t.ECHOCTL | t.IEXTEN},
]  # fmt: skip


@pytest.fixture
def host_pty() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    os.set_blocking(slave, False)
    yield master, slave
    os.close(master)
    os.close(slave)


def drained(fd: int, expected: int) -> bytes:
    """What comes out of a host descriptor: at least as much as is expected, and all that is there."""
    found = b""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            found += os.read(fd, 1 << 16)
        except BlockingIOError:
            if len(found) >= expected:
                return found
            time.sleep(0.001)
    return found


@pytest.mark.parametrize("changes", SETTINGS)
@pytest.mark.parametrize("typed", TYPED)
def test_as_on_the_host(typed: bytes, changes: dict[str, int], host_pty: tuple[int, int]) -> None:
    master, slave = host_pty
    keyboard = Keyboard(**changes)
    termios = keyboard.discipline.termios
    attributes = host.tcgetattr(slave)
    attributes[:4] = [termios.iflag, termios.oflag, termios.cflag, termios.lflag]
    host.tcsetattr(slave, host.TCSANOW, attributes)
    os.write(master, typed)
    shown = keyboard.type(typed)
    assert drained(master, len(shown)) == shown
    read = b""
    while keyboard.discipline.has_line:
        read += keyboard.read()
    assert drained(slave, len(read)) == read
