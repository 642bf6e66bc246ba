"""One direction of a byte stream: what a unix stream socket and a TCP connection are made of, two of them each.

Bytes keep what came with them: the sender's credentials, descriptors, and for TCP the mark of an urgent byte. The charge counts
the bytes and what each piece costs, as Linux counts its socket buffers, so that many small writes cost the host no more than it
says. Source: unix_stream_read_generic() of net/unix/af_unix.c; tcp(7).
"""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asynckvm.linux.sockets.abi import MESSAGE_COST
from asynckvm.linux.sockets.message import Incoming

if TYPE_CHECKING:
    from asynckvm.linux.quota import Quota
    from asynckvm.linux.sockets.message import Ucred
    from asynckvm.linux.sockets.rights import Rights

# Smaller pieces grow by what comes next, instead of costing one each.
_SMALL: Final = 4096


@dataclass(slots=True)
class _Piece:
    data: bytearray
    credentials: Ucred | None
    rights: Rights | None
    taken: int = 0


class Channel:
    """Bytes from a writer to a reader."""

    def __init__(self, quota: Quota) -> None:
        self.charge = 0
        self.size = 0  # unread bytes
        self.inline = False  # SO_OOBINLINE of the reader
        self.urgent: bytes = b""  # the urgent byte, while nobody has read it
        self._mark: int | None = None  # where it was or is, counted as `_read` is
        self._read = 0
        self._pieces: collections.deque[_Piece] = collections.deque()
        self._quota = quota

    def put(self, data: bytes, limit: int, credentials: Ucred | None = None, rights: Rights | None = None) -> int:
        """How many bytes were taken: what fits below `limit`. ENOBUFS when the sandbox has no more memory."""
        room = limit - self.charge
        if room <= 0 or not data:
            return 0
        last = self._pieces[-1] if self._pieces else None
        taken = data if len(data) <= room else data[:room]
        plain = last is not None and last.rights is None and rights is None
        if last is not None and plain and len(last.data) < _SMALL and last.credentials == credentials:
            self._pay(len(taken))
            last.data += taken
        else:
            self._pay(len(taken) + MESSAGE_COST)
            self._pieces.append(_Piece(bytearray(taken), credentials, rights))
        self.size += len(taken)
        return len(taken)

    def put_urgent(self, byte: bytes, limit: int) -> int:
        """One byte that is urgent: unless the reader wants it in line, it is read apart."""
        if not self.put(byte, limit):
            return 0
        self._mark = self._read + self.size - 1
        self.urgent = byte
        return 1

    @property
    def at_mark(self) -> bool:
        """sockatmark(3)."""
        return self._mark == self._read

    @property
    def readable(self) -> int:
        """Bytes for a plain read: all but an urgent one that is read apart."""
        apart = not self.inline and self._mark is not None and self._read <= self._mark < self._read + self.size
        return self.size - int(apart)

    def get(self, length: int, *, peek: bool = False, separate: bool = False) -> Incoming:
        """At most `length` bytes, as far as they belong together: up to descriptors, to the urgent mark and, if `separate`, to
        another sender's bytes. The rights go to the first reader, copies of them to who peeks.
        """
        if not self.inline and self.at_mark and self.size:
            self._consume(self._pieces[0], 1)
        if self._mark is not None and self._read < self._mark:
            length = min(length, self._mark - self._read)
        parts: list[bytes] = []
        incoming, left, index = Incoming(b""), length, 0
        while left > 0 and index < len(self._pieces):
            piece = self._pieces[index]
            if not parts:
                incoming.credentials = piece.credentials
            elif separate and piece.credentials != incoming.credentials:
                break
            part = bytes(memoryview(piece.data)[piece.taken : piece.taken + left])
            parts.append(part)
            left -= len(part)
            rights = piece.rights
            if peek:
                index += 1
            else:
                piece.rights = None
                self._consume(piece, len(part))
            if rights is not None:
                incoming.rights = rights.copy() if peek else rights
                break
        incoming.data = parts[0] if len(parts) == 1 else b"".join(parts)
        incoming.length = len(incoming.data)
        return incoming

    def clear(self) -> None:
        """Throw away what is unread."""
        pieces, self._pieces = self._pieces, collections.deque()
        self._refund(self.charge)
        self._read += self.size
        self.size = 0
        self.urgent = b""
        for piece in pieces:
            if piece.rights is not None:
                piece.rights.drop()

    def _consume(self, piece: _Piece, length: int) -> None:
        piece.taken += length
        self.size -= length
        self._read += length
        if piece.taken == len(piece.data):
            self._pieces.popleft()
            self._refund(len(piece.data) + MESSAGE_COST)

    def _pay(self, cost: int) -> None:
        self._quota.charge(cost)
        self.charge += cost

    def _refund(self, cost: int) -> None:
        self._quota.refund(cost)
        self.charge -= cost
