"""The line discipline N_TTY: what becomes of bytes between a terminal's two sides.

Bytes that arrive are edited into lines, echoed, or turned into signals; bytes that are written get their line ends. State and
rules only: who waits, who is signalled and who may read is `terminal`'s. Source: termios(3), drivers/tty/n_tty.c.
"""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.output import Output
from asynckvm.linux.tty.termios import Termios

if TYPE_CHECKING:
    from collections.abc import Callable

# Characters of a terminal's input buffer.
INPUT_MAX: Final = 4095
_NEWLINE, _RETURN, _TAB, _BELL = 10, 13, 9, 7
_SIGNALS: Final = ((t.VINTR, signal.SIGINT), (t.VQUIT, signal.SIGQUIT), (t.VSUSP, signal.SIGTSTP))


class Discipline:
    """`interrupt(number)` is called for a character that sends a signal."""

    def __init__(self, output: Output, interrupt: Callable[[int], None]) -> None:
        self.output = output
        self.termios = Termios()
        # VSTOP was typed.
        self.stopped = False
        self._interrupt = interrupt
        # What can be read: a line each, an empty one being an end of file; without lines one piece, which grows.
        self._ready: deque[bytearray] = deque()
        # The line that is being typed.
        self._line = bytearray()
        self._size = 0
        self._start = 0  # the column where it began
        self._literal = False

    # ------------------------------------------------------------ settings

    def set_termios(self, termios: Termios) -> None:
        """From now on."""
        changed = self.termios.lflag ^ termios.lflag
        self.termios = termios
        if changed & t.ICANON:
            # What came under the other rule can be read at once.
            rest = b"".join([*self._ready, self._line])
            self._line.clear()
            self._ready = deque([bytearray(rest)] if rest else [])
            self._size = len(rest) + len(self._ready)
            self._literal = False
        if not termios.iflag & t.IXON:
            self.stopped = False

    def _has(self, flag: int) -> bool:
        return bool(self.termios.lflag & flag)

    def _is(self, byte: int, index: int) -> bool:
        """Whether `byte` is that control character."""
        return byte != t.DISABLED and self.termios.cc[index] == byte

    # ------------------------------------------------------------ reading

    @property
    def available(self) -> int:
        """Bytes that can be read now."""
        return sum(len(piece) for piece in self._ready)

    @property
    def has_line(self) -> bool:
        """Whether there is something to read, an end of file included."""
        return bool(self._ready)

    def take(self, length: int) -> bytes:
        """At most one line, or without lines whatever there is."""
        if not self._ready:
            return b""
        if not self._has(t.ICANON):
            return self._take_raw(length)
        line = self._ready[0]
        data = bytes(line[:length])
        if len(data) == len(line):
            self._ready.popleft()
            self._size -= 1
        else:
            del line[:length]
        self._size -= len(data)
        return data

    def _take_raw(self, length: int) -> bytes:
        data = bytearray()
        while self._ready and len(data) < length:
            piece = self._ready[0]
            part = piece[: length - len(data)]
            data += part
            del piece[: len(part)]
            if not piece:
                self._ready.popleft()
                self._size -= 1
        self._size -= len(data)
        return bytes(data)

    def flush(self) -> None:
        """Forget what was not read."""
        self._ready.clear()
        self._line.clear()
        self._size = 0
        self._literal = False

    # ------------------------------------------------------------ receiving

    @property
    def room(self) -> int:
        """How many bytes may come. A line that is too long loses its end instead of stopping everything."""
        if self._has(t.ICANON) and not self._ready:
            return max(1, INPUT_MAX - self._size)
        return max(0, INPUT_MAX - self._size)

    def receive(self, data: bytes) -> int:
        """Bytes from the terminal's keyboard side; how many were taken."""
        termios = self.termios
        if not termios.lflag & (t.ICANON | t.ISIG | t.ECHO | t.IEXTEN) and not termios.iflag & ~t.IUTF8:
            data = data[: self.room]
            if data:
                self._append(data)
            return len(data)
        taken = 0
        for byte in data:
            if self.room <= 0:
                break
            self._receive(byte)
            taken += 1
        return taken

    def _append(self, data: bytes) -> None:
        """Without lines: everything at once."""
        if not self._ready:
            self._ready.append(bytearray())
            self._size += 1
        self._ready[-1] += data
        self._size += len(data)

    def _receive(self, byte: int) -> None:
        iflag = self.termios.iflag
        if not self._line:
            self._start = self.output.column
        if iflag & t.ISTRIP:
            byte &= 0x7F
        if iflag & t.IUCLC and self._has(t.IEXTEN) and 65 <= byte <= 90:
            byte |= 0x20
        if self._literal:
            self._literal = False
            self._echo(byte)
            self._store(byte)
        elif not (self._flow(byte) or self._signal(byte)):
            self._receive_character(byte)

    def _flow(self, byte: int) -> bool:
        if not self.termios.iflag & t.IXON:
            return False
        if self._is(byte, t.VSTART) or self._is(byte, t.VSTOP):
            self.stopped = self._is(byte, t.VSTOP) and not self._is(byte, t.VSTART)
            return True
        if self.termios.iflag & t.IXANY:
            self.stopped = False
        return False

    def _signal(self, byte: int) -> bool:
        if not self._has(t.ISIG):
            return False
        for index, number in _SIGNALS:
            if self._is(byte, index):
                if not self._has(t.NOFLSH):
                    self.flush()
                    self.output.flush()
                if self.termios.iflag & t.IXON:
                    self.stopped = False
                self._echo(byte)
                self._interrupt(number)
                return True
        return False

    def _receive_character(self, byte: int) -> None:
        iflag, typed = self.termios.iflag, byte
        if byte == _RETURN:
            if iflag & t.IGNCR:
                return
            if iflag & t.ICRNL:
                byte = _NEWLINE
        elif byte == _NEWLINE and iflag & t.INLCR:
            byte = _RETURN
        if not self._has(t.ICANON):
            # A newline that was typed as one means nothing here, so that it is shown as a control character.
            if byte == typed == _NEWLINE and self._has(t.ECHO) and self._has(t.ECHOCTL):
                self.output.echo(b"^J")
            else:
                self._echo(byte)
            self._append(bytes((byte,)))
        elif not self._edit(byte):
            self._echo(byte)
            self._store(byte)

    def _store(self, byte: int) -> None:
        if not self._has(t.ICANON):
            self._append(bytes((byte,)))
        elif self._size < INPUT_MAX:
            self._line.append(byte)
            self._size += 1
        elif self.termios.iflag & t.IMAXBEL:
            self.output.echo(bytes((_BELL,)))

    # ------------------------------------------------------------ editing

    def _edit(self, byte: int) -> bool:
        """Whether the character means something to the line."""
        if byte == _NEWLINE:
            if self._has(t.ECHO | t.ECHONL):
                self.output.echo(b"\n")
            self._finish(b"\n")
        elif self._is(byte, t.VEOF):
            self._finish(b"")
        elif self._is(byte, t.VEOL):
            self._echo(byte)
            self._finish(bytes((byte,)))
        elif self._is(byte, t.VERASE):
            self._erase()
        elif self._is(byte, t.VKILL):
            self._kill(byte)
        else:
            return self._has(t.IEXTEN) and self._edit_extended(byte)
        return True

    def _edit_extended(self, byte: int) -> bool:
        if self._is(byte, t.VEOL2):
            self._echo(byte)
            self._finish(bytes((byte,)))
        elif self._is(byte, t.VWERASE):
            self._erase_word()
        elif self._is(byte, t.VLNEXT):
            self._literal = True
            if self._has(t.ECHO) and self._has(t.ECHOCTL):
                self.output.echo(b"^\b")
        elif self._is(byte, t.VREPRINT) and self._has(t.ECHO):
            self._echo(byte)
            self.output.echo(b"\n")
            for typed in self._line:
                self._echo(typed)
        else:
            return False
        return True

    def _finish(self, end: bytes) -> None:
        """The line can be read."""
        self._size += len(end) + 1
        self._ready.append(self._line + end)
        self._line = bytearray()

    def _erase(self) -> None:
        """One character back."""
        if not self._line:
            return
        begin = len(self._line) - 1
        while begin and self.termios.iflag & t.IUTF8 and self._line[begin] & 0xC0 == 0x80:
            begin -= 1
        byte = self._line[begin]
        columns = self._columns(byte, self._width(self._line[:begin]) if byte == _TAB else 0)
        self._size -= len(self._line) - begin
        del self._line[begin:]
        if not self._has(t.ECHO):
            return
        if self._has(t.ECHOE):
            self.output.echo(b"\b" * columns if byte == _TAB else b"\b \b" * columns)
        else:
            self._echo(self.termios.cc[t.VERASE])

    def _erase_word(self) -> None:
        seen = False
        while self._line:
            is_word = chr(self._line[-1]).isalnum() or self._line[-1] == ord("_") or self._line[-1] >= 0x80
            if seen and not is_word:
                break
            seen = seen or is_word
            self._erase()

    def _kill(self, byte: int) -> None:
        if self._has(t.ECHO) and self._has(t.ECHOE) and self._has(t.ECHOK) and self._has(t.ECHOKE):
            while self._line:
                self._erase()
            return
        self._size -= len(self._line)
        self._line.clear()
        self._echo(byte)
        if self._has(t.ECHO) and self._has(t.ECHOK):
            self.output.echo(b"\n")

    # ------------------------------------------------------------ echo

    def _echo(self, byte: int) -> None:
        if not self._has(t.ECHO):
            return
        if self._is_shown_as_two(byte):
            self.output.echo(bytes((ord("^"), byte ^ 0x40)))
        else:
            self.output.echo(bytes((byte,)))

    def _is_shown_as_two(self, byte: int) -> bool:
        return self._has(t.ECHOCTL) and (byte < 0x20 or byte == 0x7F) and byte not in (_TAB, _NEWLINE)

    def _columns(self, byte: int, before: int) -> int:
        """How wide the echo of a character is that stands `before` columns into the line."""
        if byte == _TAB:
            return 8 - (self._start + before) % 8
        if self._is_shown_as_two(byte):
            return 2
        return 0 if byte < 0x20 or byte == 0x7F else 1

    def _width(self, line: bytearray) -> int:
        width = 0
        for byte in line:
            if not (self.termios.iflag & t.IUTF8 and byte & 0xC0 == 0x80):
                width += self._columns(byte, width)
        return width
