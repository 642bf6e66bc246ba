"""What a terminal shows: bytes on their way to the master side, after output processing. Source: termios(3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.termios import Termios

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes that wait for the master to read them; echo may take a little more, and is lost beyond.
OUTPUT_MAX: Final = 1 << 16
_ECHO_MAX: Final = OUTPUT_MAX + (1 << 12)
_UPPER: Final = bytes(byte - 32 if 97 <= byte <= 122 else byte for byte in range(256))
_TAB, _BACKSPACE, _NEWLINE, _RETURN = 9, 8, 10, 13


class Output:
    """`shown` is called when there is something new."""

    def __init__(self, shown: Callable[[], None]) -> None:
        self.termios = Termios()
        self.column = 0
        self._shown = shown
        self._waiting = bytearray()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many bytes a write may bring, each of which may become two, or eight for a tab."""
        left = OUTPUT_MAX - len(self._waiting)
        if not self.termios.oflag & t.OPOST:
            return max(0, left)
        return max(0, left // (8 if self.termios.oflag & t.TABDLY == t.TABDLY else 2))

    def write(self, data: bytes) -> int:
        """Bytes that a program writes; how many were taken."""
        data = data[: self.room]
        self._show(data)
        return len(data)

    def echo(self, data: bytes) -> None:
        """Bytes that were typed."""
        if len(self._waiting) < _ECHO_MAX:
            self._show(data)

    def take(self, length: int) -> bytes:
        """The next bytes to show."""
        data = bytes(self._waiting[:length])
        del self._waiting[:length]
        return data

    def flush(self) -> None:
        """Forget what was not shown yet."""
        self._waiting.clear()

    def _show(self, data: bytes) -> None:
        if not data:
            return
        if self.termios.oflag & t.OPOST:
            self._process(data)
        else:
            self._waiting += data
        self._shown()

    def _process(self, data: bytes) -> None:
        oflag = self.termios.oflag
        if oflag & (t.OCRNL | t.ONOCR | t.ONLRET) or oflag & t.TABDLY == t.TABDLY:
            for byte in data:
                self._process_byte(byte)
            return
        if oflag & t.OLCUC:
            data = data.translate(_UPPER)
        self._move(data)
        self._waiting += data.replace(b"\n", b"\r\n") if oflag & t.ONLCR else data

    def _move(self, data: bytes) -> None:
        """Where the next byte will stand. What comes before the last line end does not matter."""
        if b"\n" in data or b"\r" in data:
            last = max(data.rfind(b"\r"), data.rfind(b"\n") if self.termios.oflag & t.ONLCR else -1)
            if last >= 0:
                data, self.column = data[last + 1 :], 0
        for byte in data:
            if byte == _TAB:
                self.column += 8 - self.column % 8
            elif byte == _BACKSPACE:
                self.column = max(0, self.column - 1)
            elif byte >= 0x20 and byte & 0xC0 != 0x80:
                self.column += 1

    def _process_byte(self, byte: int) -> None:
        """The rare modes, in the order of the kernel's do_output_char."""
        oflag = self.termios.oflag
        if byte == _RETURN:
            if oflag & t.ONOCR and not self.column:
                return
            if oflag & t.OCRNL:
                byte = _NEWLINE
        elif byte == _NEWLINE and oflag & t.ONLCR:
            self._waiting.append(_RETURN)
        if byte == _TAB and oflag & t.TABDLY == t.TABDLY:
            spaces = 8 - self.column % 8
            self._waiting += b" " * spaces
            self.column += spaces
            return
        piece = bytes((byte,)).translate(_UPPER) if oflag & t.OLCUC else bytes((byte,))
        self._waiting += piece
        if byte in (_RETURN, _NEWLINE) and (byte == _RETURN or oflag & (t.ONLCR | t.ONLRET)):
            self.column = 0
        else:
            self._move(piece)
