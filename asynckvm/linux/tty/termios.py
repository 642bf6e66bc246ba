"""termios as a value: modes, control characters, and the structures that ioctl(2) moves. Source: termios(3), ioctl_tty(2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

# c_iflag
IGNBRK, BRKINT, ISTRIP, INLCR, IGNCR, ICRNL, IUCLC = 0o1, 0o2, 0o40, 0o100, 0o200, 0o400, 0o1000
IXON, IXANY, IMAXBEL, IUTF8 = 0o2000, 0o4000, 0o20000, 0o40000
# c_oflag
OPOST, OLCUC, ONLCR, OCRNL, ONOCR, ONLRET, TABDLY = 0o1, 0o2, 0o4, 0o10, 0o20, 0o40, 0o14000
# c_cflag: B38400, CS8, CREAD
_CFLAG: Final = 0o17 | 0o60 | 0o200
# c_lflag
ISIG, ICANON, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH, TOSTOP = 0o1, 0o2, 0o10, 0o20, 0o40, 0o100, 0o200, 0o400
ECHOCTL, ECHOKE, IEXTEN = 0o1000, 0o4000, 0o100000
# c_cc
VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, VSWTC, VSTART, VSTOP, VSUSP, VEOL = range(12)
VREPRINT, VDISCARD, VWERASE, VLNEXT, VEOL2 = range(12, 17)
DISABLED: Final = 0

_CC_BYTES: Final = 19
_STRUCT: Final = struct.Struct(f"<IIIIB{_CC_BYTES}s")
_SPEEDS: Final = struct.Struct("<II")
BYTES: Final = _STRUCT.size
BYTES_2: Final = _STRUCT.size + _SPEEDS.size
_OLD_CC: Final = 8
_OLD: Final = struct.Struct(f"<HHHHB{_OLD_CC}sx")
BYTES_OLD: Final = _OLD.size
_WINDOW: Final = struct.Struct("<HHHH")
WINDOW_BYTES: Final = _WINDOW.size
_BAUD: Final = 38400


@dataclass(frozen=True, slots=True)
class Termios:
    """struct termios and termios2. The default is that of a new terminal."""

    iflag: int = ICRNL | IXON
    oflag: int = OPOST | ONLCR
    cflag: int = _CFLAG
    lflag: int = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
    line: int = 0
    cc: bytes = b"\x03\x1c\x7f\x15\x04\x00\x01\x00\x11\x13\x1a\x00\x12\x0f\x17\x16\x00\x00\x00"
    input_speed: int = _BAUD
    output_speed: int = _BAUD

    @classmethod
    def unpack(cls, image: bytes) -> Self:
        """From either structure; the shorter one has no speeds."""
        speeds = _SPEEDS.unpack_from(image, BYTES) if len(image) >= BYTES_2 else (_BAUD, _BAUD)
        return cls(*_STRUCT.unpack_from(image), *speeds)

    def pack(self) -> bytes:
        return _STRUCT.pack(self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc)

    def pack_old(self) -> bytes:
        """struct termio, System V's."""
        return _OLD.pack(
            *(mode & 0xFFFF for mode in (self.iflag, self.oflag, self.cflag, self.lflag)), self.line, self.cc[:_OLD_CC]
        )

    def with_old(self, image: bytes) -> Self:
        """What a struct termio sets: the lower halves of the modes and the first control characters."""
        *halves, line, cc = _OLD.unpack(image)
        modes = (self.iflag, self.oflag, self.cflag, self.lflag)
        iflag, oflag, cflag, lflag = (mode & ~0xFFFF | half for mode, half in zip(modes, halves, strict=True))
        return replace(self, iflag=iflag, oflag=oflag, cflag=cflag, lflag=lflag, line=line, cc=cc + self.cc[_OLD_CC:])

    def pack_2(self) -> bytes:
        return self.pack() + _SPEEDS.pack(self.input_speed, self.output_speed)


@dataclass(frozen=True, slots=True)
class WindowSize:
    """struct winsize."""

    rows: int = 0
    columns: int = 0
    width: int = 0
    height: int = 0

    @classmethod
    def unpack(cls, image: bytes) -> Self:
        return cls(*_WINDOW.unpack(image))

    def pack(self) -> bytes:
        return _WINDOW.pack(self.rows, self.columns, self.width, self.height)
